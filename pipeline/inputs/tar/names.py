"""Names of a tar's members: which belong to a sample, and which part each plays."""

import tarfile
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.inputs.tar.links import is_plain_file
from pipeline.run.config import KeyRule
from pipeline.run.records import PassedOver

IMAGE_SUFFIXES = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
TAG_SUFFIXES = ("json", "txt", "cls")
USED_SUFFIXES = frozenset({*IMAGE_SUFFIXES, *TAG_SUFFIXES})


class MemberName(NamedTuple):
    """Name of a member that belongs to a sample."""

    key: str
    suffix: str
    """In lower case."""


def classify_member(member: tarfile.TarInfo, rule: KeyRule) -> MemberName | PassedOver:
    """Split the name of a file or hard link; the kind of a member that belongs to no sample."""
    if member.type == tarfile.REGTYPE and member.sparse is None:
        # Nearly all members.
        return split_member_name(member.name, rule)
    if member.isdir():
        return PassedOver.DIRECTORY
    if member.issym():
        return PassedOver.SYMBOLIC_LINK
    if not member.islnk() and not is_plain_file(member):
        return PassedOver.SPECIAL_FILE
    return split_member_name(member.name, rule)


def split_member_name(name: str, rule: KeyRule = KeyRule.FIRST_DOT) -> MemberName | PassedOver:
    """Split the name of a file into key and suffix; the kind of a name that belongs to no sample.

    >>> split_member_name("dogs/IMG_1.seg.PNG")
    MemberName(key='dogs/IMG_1', suffix='seg.png')
    >>> split_member_name("dogs/IMG_1.seg.PNG", KeyRule.LAST_DOT)
    MemberName(key='dogs/IMG_1.seg', suffix='png')
    >>> str(split_member_name("dogs/._IMG_1.jpg"))
    'hidden_file'
    """
    folder, slash, base = name.rpartition("/")
    if slash and any(_is_hidden_folder(part) for part in folder.split("/")):
        return PassedOver.IN_HIDDEN_FOLDER
    if base.startswith(".") or (base.startswith("__") and base.endswith("__")):
        return PassedOver.HIDDEN_FILE
    stem, _, suffix = base.partition(".") if rule == KeyRule.FIRST_DOT else base.rpartition(".")
    if not stem or not suffix:
        return PassedOver.NO_SUFFIX
    return MemberName(folder + slash + stem, suffix.lower())


def _is_hidden_folder(name: str) -> bool:
    return name == "__MACOSX" or (name.startswith(".") and name not in (".", ".."))


def is_dotted_image(suffix: str) -> bool:
    """Whether a suffix has several parts and the last one is that of an image, as in `IMG_1.0.jpg`."""
    return "." in suffix and suffix.rpartition(".")[2] in IMAGE_SUFFIXES


def describe_missing_image(names: Sequence[str], max_named: int) -> str:
    """Error of a sample without an image, from the names of its first members."""
    return f"no image among {_list_members(names, max_named)}; images are {', '.join(IMAGE_SUFFIXES)}"


def describe_missing_tags(names: Sequence[str], max_named: int) -> str:
    """Error of a sample without tags, from the names of its first members."""
    return f"no tags among {_list_members(names, max_named)}; tags are {', '.join(TAG_SUFFIXES)}"


def _list_members(names: Sequence[str], max_named: int) -> str:
    shown = (f"'{name}'" for name in names)
    more = ", ..." if len(names) == max_named else ""
    return f"the members of this key: {', '.join(shown)}{more}"
