"""Frame of true masks: that of the stored pixels of their image, or that of the image turned upright by EXIF."""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from pipeline.commit.manifests import stream_manifest
from pipeline.errors import ManifestError, TruthError, TruthFrameError
from pipeline.images.decode import UNREADABLE_ERRORS, open_image
from pipeline.images.encoded.exif import find_exif_orientation
from pipeline.images.masks import decode_mask
from pipeline.images.orientation import place_on_stored_pixels, turn_size, turn_upright
from pipeline.run.records import Status

COLUMNS = ("key", "status", "width", "height", "exif_orientation")


class TruthFrame(StrEnum):
    """Frame of the pixels of true masks whose image has an EXIF orientation."""

    STORED = "stored"
    """That of the stored pixels."""
    UPRIGHT = "upright"
    """That of the image as viewers show it."""
    AUTO = "auto"
    """By the EXIF of the true mask if it has an orientation, else by its size; refused if both frames fit."""


class StoredFrame(NamedTuple):
    """Stored pixels of an image."""

    height: int
    width: int
    exif_orientation: int = 1


def place_truth(
    truth: UInt8[np.ndarray, "h w"], payload: bytes, key: str, image: StoredFrame, frame: TruthFrame
) -> UInt8[np.ndarray, "stored_h stored_w"]:
    """Place a true mask on the stored pixels of its image.

    Args:
        truth: Values of the true mask, as its PNG stores them.
        payload: The PNG, whose EXIF may say how it is turned.
        key: Of the sample, for error messages.
        image: To which it belongs.
        frame: Of the values.

    Raises:
        TruthError: Its size is not that of the image.
        TruthFrameError: Both frames fit, and nothing tells which one it is.
    """
    stored_size, orientation = (image.height, image.width), image.exif_orientation
    upright_size = turn_size(stored_size, orientation)
    if frame == TruthFrame.AUTO and orientation != 1 and (own := _find_orientation(payload)) is not None:
        truth, frame = turn_upright(truth, own), TruthFrame.UPRIGHT
    fits_stored = truth.shape == stored_size and frame != TruthFrame.UPRIGHT
    fits_upright = truth.shape == upright_size and frame != TruthFrame.STORED
    if not fits_stored and not fits_upright:
        _refuse_size(truth.shape, key, stored_size, upright_size, frame)
    if not fits_upright:
        return truth
    placed = place_on_stored_pixels(truth, orientation)
    if fits_stored and not np.array_equal(placed, truth):
        raise TruthFrameError(
            f"true mask of '{key}' fits its image as stored and turned upright (EXIF orientation {orientation}, "
            f"{truth.shape[1]} x {truth.shape[0]} pixels), and its PNG does not say which it is; look at it, then give "
            "--truth-frame stored or --truth-frame upright"
        )
    return placed


def _refuse_size(
    found: tuple[int, ...], key: str, stored: tuple[int, int], upright: tuple[int, int], frame: TruthFrame
) -> None:
    size = upright if frame == TruthFrame.UPRIGHT else stored
    advice = "true masks need the size of the stored pixels, before any EXIF rotation"
    if frame == TruthFrame.UPRIGHT:
        advice = "the frame of the true mask is that of the image turned upright"
    elif frame == TruthFrame.AUTO and upright != stored:
        advice = f"true masks need this size, or that of the image turned upright, {upright[1]} x {upright[0]}"
    raise TruthError(
        f"true mask of '{key}' is {found[1]} x {found[0]} pixels, its image {size[1]} x {size[0]}; {advice}"
    )


def _find_orientation(payload: bytes) -> int | None:
    """EXIF orientation that a PNG states, 1 to 8; None if it states none."""
    try:
        with open_image(payload, ["PNG"]) as image:
            # EXIF may follow the pixels.
            image.load()
            return find_exif_orientation(image.info.get("exif", b""))
    except UNREADABLE_ERRORS:
        return None


def require_known_frames(
    manifest_uris: Iterable[str], find_truth: Callable[[str], bytes | None], frame: TruthFrame
) -> None:
    """Check that the frame of each true mask of a run is known, before anything is computed.

    Only true masks of images with an EXIF orientation are read.

    Raises:
        TruthFrameError: That of one is not.
    """
    if frame != TruthFrame.AUTO:
        return
    for uri in manifest_uris:
        with stream_manifest(uri) as manifest:
            for row in manifest.iterate_rows(COLUMNS):
                if row["status"] == Status.LABELLED and row["exif_orientation"] != 1:
                    _require_known_frame(row, find_truth)


def _require_known_frame(row: Mapping[str, Any], find_truth: Callable[[str], bytes | None]) -> None:
    image = StoredFrame(row["height"], row["width"], row["exif_orientation"])
    try:
        if (payload := find_truth(row["key"])) is not None:
            place_truth(decode_mask(payload), payload, row["key"], image, TruthFrame.AUTO)
    except (ManifestError, TruthError):
        # Such a true mask is counted and named where it is used.
        return
