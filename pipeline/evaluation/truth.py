"""True masks of a collection, by the key of their sample."""

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt8

from pipeline.collections.folders import IMAGE_SUFFIXES
from pipeline.errors import LabellingError, ManifestError, TruthError
from pipeline.evaluation.truth_frames import StoredFrame, TruthFrame, place_truth
from pipeline.images.encoded.kinds import name_foreign, name_readable
from pipeline.images.masks import decode_mask
from pipeline.inputs.patterns.folders import PassedOverFiles
from pipeline.run.records import IGNORE_LABEL
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import get_local_path, join_uri

FindTruth = Callable[[str], bytes | None]
"""Encoded true mask of a key; None if there is none."""

SUFFIX = ".png"
MAX_LISTED = 6
"""Values of pixels that a message contains at most."""
MANY_VALUES = 8
"""Unknown values of one mask from which on they are grey levels rather than classes."""
_PNG_START = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
"""Colour types of PNG. Source: the PNG specification, third edition, 11.2.1."""


class TrueMasks:
    """True masks by key; remembers which of them some key asked for."""

    def __init__(self, members: Mapping[str, Callable[[], bytes]]) -> None:
        """Make a collection of readers by path without suffix."""
        self._members = members
        self._used: set[str] = set()
        self._by_base_name: dict[str, list[str]] = {}
        for name in members:
            self._by_base_name.setdefault(PurePosixPath(name).name, []).append(name)

    def __call__(self, key: str) -> bytes | None:
        """Encoded true mask of a key; None if there is none.

        Raises:
            LabellingError: Several masks have the base name of the key.
            TruthError: The file is gone or cannot be opened.
        """
        names = self._find(key)
        if len(names) > 1:
            raise LabellingError(f"true masks '{names[0]}' and '{names[1]}' both fit the key '{key}'; keep one of them")
        if not names:
            return None
        self._used.add(names[0])
        try:
            return self._members[names[0]]()
        except (FileNotFoundError, PermissionError) as error:
            reason = "it does not exist any more" if isinstance(error, FileNotFoundError) else "permission denied"
            raise TruthError(f"true mask of '{key}' cannot be opened: {reason}; restore the file") from error

    def _find(self, key: str) -> list[str]:
        """Masks of a key; the key of a collection is the path of its image, with a suffix that its mask may lack."""
        stem, dot, suffix = key.rpartition(".")
        keys = [key, stem] if dot and suffix.lower() in IMAGE_SUFFIXES else [key]
        whole = [name for name in keys if name in self._members]
        if whole:
            return whole[:1]
        return next(filter(None, (self._by_base_name.get(PurePosixPath(name).name) for name in keys)), [])

    def name_some(self) -> str:
        """Name of the first mask, for messages."""
        return next(iter(self._members))

    def list_unused(self) -> list[str]:
        """List the masks, by path without suffix, that no key has asked for so far."""
        return [name for name in self._members if name not in self._used]


def decode_truth(
    payload: bytes,
    key: str,
    shape: tuple[int, ...],
    num_classes: int,
    exif_orientation: int = 1,
    frame: TruthFrame = TruthFrame.AUTO,
) -> UInt8[np.ndarray, "h w"]:
    """Decode the true mask of a sample, and place it on the stored pixels of its image.

    Args:
        payload: Encoded as PNG.
        key: Of the sample, for error messages.
        shape: Height and width of the stored pixels of the image.
        num_classes: Of the run, without the background.
        exif_orientation: Of the image.
        frame: Of the true mask.

    Raises:
        TruthError: It cannot be read, its size is not that of the image, or it has classes that the run lacks.
        TruthFrameError: It fits the image in both frames, and nothing tells in which it is.
    """
    try:
        truth = decode_mask(payload)
    except ManifestError as error:
        raise TruthError(f"true mask of '{key}' {_describe_file(payload)}") from error
    truth = place_truth(truth, payload, key, StoredFrame(shape[0], shape[1], exif_orientation), frame)
    unknown = [int(value) for value in np.unique(truth) if value > num_classes and value != IGNORE_LABEL]
    if unknown:
        raise TruthError(f"true mask of '{key}' {_describe_values(unknown, num_classes)}")
    return truth


def _describe_file(payload: bytes) -> str:
    """Describe what a file is instead of a map of indices, and what to do."""
    wanted = "a palette PNG or a grey one of 8 bits whose pixels are class ids"
    if not payload:
        return "is an empty file; copy it again"
    if not payload.startswith(_PNG_START):
        readable = name_readable(payload)
        found = name_foreign(payload) or (f"a {readable}" if readable else f"begins with {payload[:8]!r}")
        return f"cannot be read: it is no PNG but {found}; give {wanted}"
    num_bits, colour_type = payload[24:25], payload[25:26]
    kind = _COLOUR_TYPES.get(colour_type[0]) if colour_type else None
    if kind in ("RGB", "RGBA", "grey with alpha"):
        return f"is a picture in {kind} and not a map of class ids; turn its colours into class ids, as {wanted}"
    if kind == "grey" and num_bits != b"\x08":
        return f"is a grey PNG of {num_bits[0]} bits, whose values are not class ids; give {wanted}"
    return "cannot be read: the PNG is damaged; copy it again"


def _describe_values(unknown: Sequence[int], num_classes: int) -> str:
    """Describe values of pixels that are not classes of the run, and what to do."""
    some = ", ".join(map(str, unknown[:MAX_LISTED])) + (f" .. {unknown[-1]}" if len(unknown) > MAX_LISTED else "")
    known = f"the run has 0 to {num_classes} (255 is ignored)"
    if len(unknown) >= MANY_VALUES:
        return (
            f"has {len(unknown)} values that are no classes ({some}), {known}; it looks like grey levels, use masks "
            "whose pixels are class ids of the vocabulary"
        )
    return f"has classes [{some}], {known}; use masks with the class ids of the vocabulary"


def open_truth(truth_uri: str) -> TrueMasks:
    """Open a collection of true masks: a folder of PNGs, or a tar of them.

    The mask of a sample is the one whose path without suffix is the key, or the key without the suffix of an image;
    else the one with the key's base name.

    Raises:
        LabellingError: There are no PNGs.
    """
    members = dict(_list_tar(truth_uri)) if truth_uri.endswith(".tar") else dict(_list_folder(truth_uri))
    if not members:
        raise LabellingError(
            f"'{truth_uri}' {_describe_others(truth_uri)}; pass a folder or a tar of true masks, one PNG per key"
        )
    return TrueMasks(members)


def _describe_others(truth_uri: str) -> str:
    """What is there instead of PNGs."""
    others = PassedOverFiles()
    for item in [] if truth_uri.endswith(".tar") else list_objects(truth_uri):
        others.add_other(item.uri)
    if others:
        return f"holds no PNGs but {others.describe()}"
    path = get_local_path(truth_uri)
    return "holds no PNGs" if path is None or path.exists() else "does not exist"


def _list_folder(truth_uri: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    prefix = join_uri(truth_uri, "")
    for item in list_objects(truth_uri):
        if item.uri.lower().endswith(SUFFIX):
            name = item.uri.removeprefix(prefix).removeprefix("/")[: -len(SUFFIX)]
            yield name, partial(read_bytes, item.uri)


def _list_tar(truth_uri: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    path = get_local_path(truth_uri)
    payload = None if path else io.BytesIO(read_bytes(truth_uri))
    try:
        with tarfile.open(path, fileobj=payload) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name.lower().endswith(SUFFIX) else None
                if file is not None:
                    yield member.name[: -len(SUFFIX)], partial(bytes, file.read())
    except tarfile.ReadError as error:
        raise LabellingError(f"'{truth_uri}' is no readable tar: {error}; pass a folder or a tar of PNGs") from error
