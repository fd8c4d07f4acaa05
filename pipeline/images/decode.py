"""Encoded image -> upright RGB pixels, or the reason why there are none.

A bad image is no exception: it becomes a rejected row, and the run goes on. The size is read from the
header, so that an image that is too large is never decoded.
"""

import io
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image

from pipeline.images.bounds import find_excess, find_scan_excess
from pipeline.run.records import Reason

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What a member named jpg, png or webp holds in practice. Pillow knows more, some of which run other programs."""

UNREADABLE_ERRORS = (
    # Truncated files, unknown formats (UnidentifiedImageError), and what the codecs report.
    OSError,
    EOFError,
    # Broken chunks of a PNG, fields of a header with impossible values.
    SyntaxError,
    ValueError,
    OverflowError,
    # Fields that are missing, too short, of another type, or point outside the file.
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    # Broken compressed text, such as a colour profile.
    zlib.error,
)
"""What Pillow raises for bytes that are no image: it has no exception of its own, and its parsers pass on what
Python raises when a field is not what they expect. 800,000 damaged images of all our formats raised nothing else.
Not MemoryError, which speaks of the machine and not of the image."""

# Per EXIF orientation: swap the axes of the stored pixels, then step through rows and columns like this.
_UPRIGHT_STEPS = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image as a viewer shows it, and how it is stored."""

    image_rgb: UInt8[np.ndarray, "h w 3"]
    """Upright; smaller than stored when a reduced size was enough. May be read-only."""
    stored_height: int
    """Rows of the stored pixels, before the EXIF orientation."""
    stored_width: int
    exif_orientation: int
    """1 to 8; 1, as stored, when the image says nothing valid."""


@dataclass(frozen=True, kw_only=True)
class ImageRejection:
    """Why an image cannot be labelled."""

    reason: Reason
    error: str


def decode_image(
    payload: bytes, *, max_pixels: int, min_short_side_px: int | None = None
) -> DecodedImage | ImageRejection:
    """Decode an image to upright RGB.

    Transparency is laid over white; 16-bit and floating point values are scaled to 8 bits; of an
    animation, the first frame counts.

    Args:
        payload: The encoded image.
        max_pixels: An image with more pixels is rejected by its header.
        min_short_side_px: Let a JPEG be decoded at 1/2, 1/4 or 1/8, as long as its short side keeps this
            size: several times faster for photographs of a camera.
    """
    try:
        if excess := find_excess(payload):
            return ImageRejection(reason=Reason.TOO_LARGE, error=f"the image takes too long to decode: {excess}")
        image = open_image(payload, IMAGE_FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            error = f"{width} x {height} pixels are {width * height}, limit {max_pixels}"
            return ImageRejection(reason=Reason.TOO_LARGE, error=error)
        if excess := find_scan_excess(payload, width * height, max_pixels):
            return ImageRejection(reason=Reason.TOO_LARGE, error=f"the image takes too long to decode: {excess}")
        return _decode(image, min_short_side_px)
    except UNREADABLE_ERRORS as error:
        return ImageRejection(reason=Reason.UNDECODABLE, error=_describe(error, payload))


def open_image(payload: bytes, formats: Sequence[str]) -> Image.Image:
    """Read the header of an image; its pixels are decoded when they are asked for.

    Raises:
        OSError: It is none of these formats; for what else, see `UNREADABLE_ERRORS`.
    """
    # Pillow's own limit of pixels holds for the whole process, warns from half of it on, and knows
    # nothing of ours. Whoever opens an image here checks its size.
    Image.MAX_IMAGE_PIXELS = None
    return Image.open(io.BytesIO(payload), formats=list(formats))


def place_on_stored_pixels(
    upright: Shaped[np.ndarray, "upright_h upright_w"], exif_orientation: int
) -> Shaped[np.ndarray, "stored_h stored_w"]:
    """Turn an array in the frame of the upright image back to the frame of the stored pixels.

    >>> place_on_stored_pixels(np.array([[1, 2, 3]]), 6).tolist()
    [[3], [2], [1]]

    Raises:
        ValueError: The orientation is not 1 to 8.
    """
    if exif_orientation not in _UPRIGHT_STEPS:
        raise ValueError(f"need an exif_orientation from 1 to 8, got {exif_orientation}")
    swap, row_step, column_step = _UPRIGHT_STEPS[exif_orientation]
    turned = upright[::row_step, ::column_step]
    return np.ascontiguousarray(turned.swapaxes(0, 1) if swap else turned)


def _decode(image: Image.Image, min_short_side_px: int | None) -> DecodedImage:
    width, height = image.size
    if image.format == "TIFF":
        # Pillow turns a TIFF upright while it loads it, and then forgets that it did.
        orientation = _read_orientation(image)
        swap = _UPRIGHT_STEPS[orientation][0]
        stored_height, stored_width = (width, height) if swap else (height, width)
        pixels = _to_rgb(image)
    else:
        if min_short_side_px is not None:
            image.draft(None, (min_short_side_px, min_short_side_px))
        # The pixels come first: the EXIF of a PNG may stand behind them.
        stored_height, stored_width = height, width
        pixels = _to_rgb(image)
        orientation = _read_orientation(image)
        pixels = turn_upright(pixels, orientation)
    return DecodedImage(
        image_rgb=np.ascontiguousarray(pixels),
        stored_height=stored_height,
        stored_width=stored_width,
        exif_orientation=orientation,
    )


def turn_upright(
    stored: Shaped[np.ndarray, "h w ..."], exif_orientation: int
) -> Shaped[np.ndarray, "upright_h upright_w ..."]:
    """Turn stored pixels as the EXIF orientation (1 to 8) says."""
    swap, row_step, column_step = _UPRIGHT_STEPS[exif_orientation]
    return (stored.swapaxes(0, 1) if swap else stored)[::row_step, ::column_step]


def _read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation. Broken EXIF is no reason to lose an image that has its pixels."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except UNREADABLE_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) and orientation in _UPRIGHT_STEPS else 1


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_deep_grey(image)
    if image.has_transparency_data:
        # Pillow converts premultiplied grey only to its plain form.
        straight = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        canvas = Image.new("RGB", straight.size, "white")
        canvas.paste(straight, mask=straight)
        return np.asarray(canvas)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _scale_deep_grey(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Scale grey values of more than 8 bits to 8 bits; Pillow's own conversion would clip them.

    Integers up to 65535 are 16-bit values. Floats are taken to end at 1, 255 or 65535, whichever is
    the first to hold them. Anything else has no nominal range and is stretched from its least to its
    greatest value.
    """
    stored = np.asarray(image)
    values: np.ndarray = np.nan_to_num(stored.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    ends = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    low, high = float(values.min()), float(values.max())
    nominal = next((end for end in ends if low >= 0 and high <= end), None)
    if nominal is None:
        values, nominal = values.astype(np.float64) - low, (high - low) or 1.0
    grey = np.rint(values * 255 / nominal).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        grey[stored == image.info["transparency"]] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)


def _describe(error: BaseException, payload: bytes) -> str:
    """Say in words why an image cannot be decoded, in the same words every time."""
    if not payload:
        return "the image has no bytes"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no readable image of the formats {', '.join(IMAGE_FORMATS)}; it begins with {payload[:8].hex(' ')}"
    said = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "it", str(error)).strip().rstrip(".")
    return f"cannot be decoded: {said or type(error).__name__}"
