"""Check of the image of a sample against its row."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import ExifTags, Image

from pipeline.audit.archives.samples import WalkedImage, WalkedSample
from pipeline.run.records import Reason, Status

DOTTED_REASONS = ("dotted_name", "duplicate_key", "split_sample")
"""Reasons of rows whose names have more dots than one; of a repeated key, sealing replaces the reason."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def check_reason(row: Mapping[str, Any], sample: WalkedSample) -> Iterator[str]:
    """Find reasons of a row that its sample contradicts."""
    reason = row["reason"]
    if sample.is_dotted and reason not in DOTTED_REASONS:
        yield f"has the reason {reason!r}, its member needs 'dotted_name'"
    elif reason == "dotted_name" and not sample.is_dotted:
        yield "has the reason 'dotted_name', which its member does not have"
    elif reason == Reason.NO_IMAGE and sample.image is not None:
        yield "has the reason 'no_image', and its sample an image"


def check_image(row: Mapping[str, Any], image: WalkedImage | None) -> Iterator[str]:
    """Find faults of the columns of a row that describe its image.

    Args:
        row: Of a manifest, without contradictions among its columns.
        image: Of the input; None: the sample has no image.
    """
    stated = row["image_sha256"]
    if image is None:
        if stated is not None:
            yield "has an image_sha256, and its sample no image"
        return
    if stated is None:
        # The image of a rejected row may be too large to be read, or crash its reader.
        if row["status"] == Status.LABELLED:
            yield "has no image_sha256, and its sample an image"
        return
    if stated != image.sha256:
        yield "has the image_sha256 of another image"
    elif row["width"] is not None:
        yield from _check_size(row, image)


def _check_size(row: Mapping[str, Any], image: WalkedImage) -> Iterator[str]:
    stated = (row["width"], row["height"], row["exif_orientation"])
    try:
        found = _measure_image(image.head, image.is_whole)
    except Exception as error:  # noqa: BLE001 (Pillow has no exception of its own; each one is reported below)
        if image.is_whole:
            yield f"has {stated[0]} x {stated[1]} pixels, its image cannot be opened: {type(error).__name__}: {error}"
        return
    if stated[:2] != found[:2] or found[2] not in (None, stated[2]):
        yield (
            f"has {stated[0]} x {stated[1]} pixels in orientation {stated[2]}, "
            f"its image {found[0]} x {found[1]} in orientation {found[2]}"
        )


def _measure_image(payload: bytes, is_whole: bool) -> tuple[int, int, int | None]:
    """Stored width and height, and the EXIF orientation; None if it follows the kept bytes of the file."""
    # The limit of Pillow is not used: the header alone is read.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(io.BytesIO(payload), formats=FORMATS) as image:
        width, height = image.size
        try:
            # For a PNG this decodes the image, since EXIF may follow its pixels.
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # noqa: BLE001 (broken EXIF has no orientation; Pillow raises any exception for it)
            if not is_whole:
                return width, height, None
            orientation = 1
        if not isinstance(orientation, int) or not 1 <= orientation <= 8:
            orientation = 1
        if image.format == "TIFF" and orientation >= 5:
            # Pillow reports the size after turning.
            width, height = height, width
        return width, height, orientation
