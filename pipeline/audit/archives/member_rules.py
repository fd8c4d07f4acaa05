"""Rules of an audit for the members of a tar: which may belong to a sample, and under which key.

Written a second time, from the documented format. The readers of labelling have rules of their own.
"""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

DIRECTORY, SYMBOLIC_LINK, SPECIAL_FILE = "directory", "symbolic_link", "special_file"
IN_HIDDEN_FOLDER, HIDDEN_FILE, NO_SUFFIX = "in_hidden_folder", "hidden_file", "no_suffix"
SECOND_IMAGE, SECOND_MEMBER, DOTTED_IMAGE = "second_image", "second_member", "dotted_image"
UNUSED_SUFFIX, TRUNCATED = "unused_suffix", "truncated"
HARD_LINK = "hard_link"
"""Passed over by format version 2 alone."""

KINDS = (
    *(DIRECTORY, SYMBOLIC_LINK, SPECIAL_FILE, IN_HIDDEN_FOLDER, HIDDEN_FILE, NO_SUFFIX),
    *(SECOND_IMAGE, SECOND_MEMBER, DOTTED_IMAGE, UNUSED_SUFFIX, TRUNCATED),
)
"""Kinds of members that are passed over, as footers name them."""

MEMBERS_VERSION = 3
"""First version of the format whose footers count the members."""
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"})
OLD_IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
TAG_SUFFIXES = frozenset({"json", "txt", "cls"})
FIRST_DOT, LAST_DOT = "first-dot", "last-dot"


class NamedMember(NamedTuple):
    """Name of a member that may belong to a sample."""

    key: str
    suffix: str
    """In lower case."""


@dataclass(frozen=True, kw_only=True)
class MemberRules:
    """Rules of one run."""

    is_old: bool = False
    """Format version 2: hard links are passed over, hidden folders are not, a key has one sample in a row, and names
    with more dots are not looked at."""
    is_last_dot: bool = False
    """True: key and suffix are separated by the last dot of the base name instead of the first."""

    @property
    def image_suffixes(self) -> frozenset[str]:
        """Suffixes of images."""
        return OLD_IMAGE_SUFFIXES if self.is_old else IMAGE_SUFFIXES

    def is_dotted_image(self, suffix: str) -> bool:
        """True for `0.jpg`: there is another dot, and the last part is that of an image."""
        return not self.is_old and "." in suffix and suffix.rpartition(".")[2] in IMAGE_SUFFIXES

    def judge(self, member: tarfile.TarInfo) -> NamedMember | str:
        """Key and suffix of a member; or the kind under which it is passed over, whatever stands around it."""
        if member.isdir():
            return DIRECTORY
        if member.issym():
            return SYMBOLIC_LINK
        if member.islnk() and self.is_old:
            return HARD_LINK
        if member.issparse() or not (member.isreg() or member.islnk()):
            return SPECIAL_FILE
        *folders, base = member.name.split("/")
        if not self.is_old and any(_is_hidden_folder(folder) for folder in folders):
            return IN_HIDDEN_FOLDER
        if base.startswith(".") or (base.startswith("__") and base.endswith("__")):
            return HIDDEN_FILE
        dot = base.rfind(".") if self.is_last_dot else base.find(".")
        if dot < 0 or dot + 1 == len(base):
            return NO_SUFFIX
        return NamedMember(member.name[: len(member.name) - len(base) + dot], base[dot + 1 :].lower())


def read_member_rules(version: Any, inputs: Mapping[str, Any]) -> MemberRules:
    """Read the rules of a run from the fields `format_version` and `config.inputs` of run.json.

    Raises:
        ValueError: They have values that no version writes.
    """
    key = inputs.get("key", FIRST_DOT)
    if key not in (FIRST_DOT, LAST_DOT):
        raise ValueError(f"config.inputs.key is {key!r}")
    # Records of the first versions may lack the field.
    if type(version) not in (int, type(None)):
        raise ValueError(f"format_version is {version!r}")
    return MemberRules(is_old=(version or 0) < MEMBERS_VERSION, is_last_dot=key == LAST_DOT)


def _is_hidden_folder(folder: str) -> bool:
    return folder == "__MACOSX" or (folder.startswith(".") and folder not in (".", ".."))
