"""Check of the image of a sample against its row."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from pipeline.audit.archives.image_headers import hide_avif_exif, read_header, read_orientation
from pipeline.audit.archives.samples import ImagePlace, WalkedImage, WalkedSample
from pipeline.run.records import Reason, Status

DOTTED_REASONS = (Reason.DOTTED_NAME, Reason.DUPLICATE_KEY, Reason.SPLIT_SAMPLE)
"""Reasons of rows whose names have more dots than one; of a repeated key, sealing replaces the reason."""
FORMATS = ("GIF", "BMP", "TIFF", "AVIF")
"""Formats of which Pillow reads the header. Those with metadata that may fail Pillow are read by `read_header`."""


def check_reason(row: Mapping[str, Any], sample: WalkedSample) -> Iterator[str]:
    """Find reasons of a row that its sample contradicts."""
    reason = row["reason"]
    if sample.is_dotted and reason not in DOTTED_REASONS:
        yield f"has the reason {reason!r}, its member needs 'dotted_name'"
    elif reason == Reason.DOTTED_NAME and not sample.is_dotted:
        yield "has the reason 'dotted_name', which its member does not have"
    elif reason == Reason.NO_IMAGE and sample.image is not None:
        yield "has the reason 'no_image', and its sample an image"


def check_place(row: Mapping[str, Any], sample: WalkedSample) -> Iterator[str]:
    """Find places of a row that do not lead to the image of its sample.

    Args:
        row: Of a manifest whose rows state places.
        sample: Of the input.
    """
    stated = ImagePlace(offset=row["image_offset"], num_bytes=row["image_bytes"], uri=row["image_uri"])
    found = sample.place or ImagePlace()
    if stated == ImagePlace() and found.offset is not None and found.num_bytes is None:
        # Without its cell a row of a Parquet file may lack the image.
        return
    if (stated.offset, stated.uri) != (found.offset, found.uri):
        yield (
            f"states its image at offset {stated.offset}, URI {stated.uri!r}; "
            f"it is at offset {found.offset}, URI {found.uri!r}"
        )
    elif sample.place is None:
        if stated.num_bytes is not None:
            yield f"has the image_bytes {stated.num_bytes}, and its sample no image"
    elif found.num_bytes not in (None, stated.num_bytes) and (found.offset, stated.num_bytes) != (None, None):
        # A file of its own may have been unreadable when it was labelled: then its size is null.
        yield f"has the image_bytes {stated.num_bytes}, its image {found.num_bytes}"


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
    header = read_header(payload, is_whole)
    if header is not None:
        return header.width, header.height, header.orientation
    # The limit of Pillow is not used: the header alone is read.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(io.BytesIO(hide_avif_exif(payload)), formats=FORMATS) as image:
        return *image.size, read_orientation(image.info.get("exif", b""))
