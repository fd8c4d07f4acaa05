"""True masks of a collection, by the key of the sample."""

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
from pipeline.storage.storage import get_local_path, join_uri, list_objects, read_bytes

FindTruth = Callable[[str], bytes | None]


def decode_truth(payload: bytes, key: str, shape: tuple[int, ...], num_classes: int) -> UInt8[np.ndarray, "h w"]:
    """Decode the true mask of a sample.

    Args:
        payload: The PNG.
        key: Of the sample, for messages.
        shape: Height and width of the sample's own mask, in stored pixels.
        num_classes: Of the run.

    Raises:
        LabellingError: It cannot be read, has another size, or classes that the run does not have.
    """
    try:
        truth = decode_mask(payload)
    except ManifestError as error:
        raise LabellingError(f"true mask of '{key}' cannot be read: {error}") from error
    if truth.shape != shape:
        raise LabellingError(
            f"true mask of '{key}' is {truth.shape[1]} x {truth.shape[0]} pixels, its image "
            f"{shape[1]} x {shape[0]}; masks lie on the stored pixels, before any EXIF rotation"
        )
    unknown = [int(value) for value in np.unique(truth) if value > num_classes and value != IGNORE_LABEL]
    if unknown:
        raise LabellingError(
            f"true mask of '{key}' has classes {unknown}, the run has 0 to {num_classes} (255 is ignored); "
            "give masks with the vocabulary's class ids"
        )
    return truth


def open_truth(truth_uri: str) -> FindTruth:
    """Open a collection of true masks: a folder of PNGs, or a tar of them.

    A sample's mask is the one whose path without suffix is the key, else the one with the key's base name.

    Returns:
        A function that gives the PNG of a key, or None; it raises a LabellingError when several have its base
        name, such as masks of classes and masks of objects in sibling folders.

    Raises:
        LabellingError: There are no PNGs.
    """
    members = dict(_list_tar(truth_uri)) if truth_uri.endswith(".tar") else dict(_list_folder(truth_uri))
    if not members:
        raise LabellingError(f"'{truth_uri}' holds no PNGs; give a folder or a tar of true masks, one per key")
    by_base_name: dict[str, list[str]] = {}
    for name in members:
        by_base_name.setdefault(PurePosixPath(name).name, []).append(name)

    def find(key: str) -> bytes | None:
        names = [key] if key in members else by_base_name.get(PurePosixPath(key).name, [])
        if len(names) > 1:
            raise LabellingError(
                f"true masks '{names[0]}' and '{names[1]}' both fit the key '{key}'; give a folder or tar with one"
            )
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
        raise LabellingError(f"'{truth_uri}' is no readable tar: {error}; give a folder or a tar of PNGs") from error
