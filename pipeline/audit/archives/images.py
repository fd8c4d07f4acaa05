"""The image of an input held against what its row says of it."""

import io
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import ExifTags, Image

from pipeline.audit.archives.member_walk import WalkedImage
from pipeline.run.records import Status

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def check_image(row: Mapping[str, Any], image: WalkedImage | None) -> Iterator[str]:
    """Say what a row states wrongly of its image.

    Args:
        row: Of a manifest; its own columns fit each other.
        image: Of the input; None: the sample has none.
    """
    stated = row["image_sha256"]
    if image is None:
        if stated is not None:
            yield "has an image_sha256, and its sample no image"
        return
    if stated is None:
        # Of a rejected row the image may be too large to be read, or crash who reads it.
        if row["status"] == Status.LABELLED:
            yield "has no image_sha256, and its sample an image"
        return
    if stated != image.sha256:
        yield "has the image_sha256 of another image"
    elif row["width"] is not None:
        yield from _check_size(row, image)


def _check_size(row: Mapping[str, Any], image: WalkedImage) -> Iterator[str]:
    said = (row["width"], row["height"], row["exif_orientation"])
    try:
        found = _measure(image.head, image.is_whole)
    except Exception as error:  # noqa: BLE001 (Pillow has no exception of its own; what it cannot read is told below)
        if image.is_whole:
            yield f"has {said[0]} x {said[1]} pixels, its image cannot be opened: {type(error).__name__}: {error}"
        return
    if said[:2] != found[:2] or found[2] not in (None, said[2]):
        yield (
            f"has {said[0]} x {said[1]} pixels in orientation {said[2]}, "
            f"its image {found[0]} x {found[1]} in orientation {found[2]}"
        )


def _measure(payload: bytes, is_whole: bool) -> tuple[int, int, int | None]:
    """Give width and height as stored, and the EXIF orientation; None if it stands behind what was kept of the file."""
    # How large images may be is not for Pillow to say.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(io.BytesIO(payload), formats=FORMATS) as image:
        width, height = image.size
        try:
            # Of a PNG this decodes the image, behind whose pixels it may stand.
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # noqa: BLE001 (broken EXIF has no orientation, and any exception of Pillow means that)
            if not is_whole:
                return width, height, None
            orientation = 1
        if not isinstance(orientation, int) or not 1 <= orientation <= 8:
            orientation = 1
        if image.format == "TIFF" and orientation >= 5:
            # Pillow gives the size that it will have once it is turned.
            width, height = height, width
        return width, height, orientation
