"""True masks of a collection, by the key of their sample."""

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import UInt8

from pipeline.errors import LabellingError, ManifestError
from pipeline.images.masks import decode_mask
from pipeline.run.records import IGNORE_LABEL
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import get_local_path, join_uri

FindTruth = Callable[[str], bytes | None]
"""Encoded true mask of a key; None if there is none."""


def decode_truth(payload: bytes, key: str, shape: tuple[int, ...], num_classes: int) -> UInt8[np.ndarray, "h w"]:
    """Decode the true mask of a sample.

    Args:
        payload: Encoded as PNG.
        key: Of the sample, for error messages.
        shape: Height and width of the stored pixels of the image.
        num_classes: Of the run, without the background.

    Raises:
        LabellingError: It cannot be read, its size differs from `shape`, or it has classes that the run lacks.
    """
    try:
        truth = decode_mask(payload)
    except ManifestError as error:
        raise LabellingError(f"true mask of '{key}' cannot be read: {error}") from error
    if truth.shape != shape:
        raise LabellingError(
            f"true mask of '{key}' is {truth.shape[1]} x {truth.shape[0]} pixels, its image "
            f"{shape[1]} x {shape[0]}; true masks need the size of the stored pixels, before any EXIF rotation"
        )
    unknown = [int(value) for value in np.unique(truth) if value > num_classes and value != IGNORE_LABEL]
    if unknown:
        raise LabellingError(
            f"true mask of '{key}' has classes {unknown}, the run has 0 to {num_classes} (255 is ignored); "
            "use masks with the class ids of the vocabulary"
        )
    return truth


def open_truth(truth_uri: str) -> FindTruth:
    """Open a collection of true masks: a folder of PNGs, or a tar of them.

    The mask of a sample is the one whose path without suffix is the key, else the one with the key's base name.

    Returns:
        A function from key to PNG, or None. It raises a LabellingError if several PNGs have the base name of the key,
        such as masks of classes and of objects in sibling folders.

    Raises:
        LabellingError: There are no PNGs.
    """
    members = dict(_list_tar(truth_uri)) if truth_uri.endswith(".tar") else dict(_list_folder(truth_uri))
    if not members:
        raise LabellingError(f"'{truth_uri}' holds no PNGs; pass a folder or a tar of true masks, one per key")
    by_base_name: dict[str, list[str]] = {}
    for name in members:
        by_base_name.setdefault(PurePosixPath(name).name, []).append(name)

    def find(key: str) -> bytes | None:
        names = [key] if key in members else by_base_name.get(PurePosixPath(key).name, [])
        if len(names) > 1:
            raise LabellingError(f"true masks '{names[0]}' and '{names[1]}' both fit the key '{key}'; keep one of them")
        return members[names[0]]() if names else None

    return find


def _list_folder(truth_uri: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    prefix = join_uri(truth_uri, "")
    for item in list_objects(truth_uri):
        if item.uri.endswith(".png"):
            name = item.uri.removeprefix(prefix).removeprefix("/").removesuffix(".png")
            yield name, partial(read_bytes, item.uri)


def _list_tar(truth_uri: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    path = get_local_path(truth_uri)
    payload = None if path else io.BytesIO(read_bytes(truth_uri))
    try:
        with tarfile.open(path, fileobj=payload) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name.endswith(".png") else None
                if file is not None:
                    yield member.name.removesuffix(".png"), partial(bytes, file.read())
    except tarfile.ReadError as error:
        raise LabellingError(f"'{truth_uri}' is no readable tar: {error}; pass a folder or a tar of PNGs") from error
