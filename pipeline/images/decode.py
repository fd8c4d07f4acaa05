"""Upright RGB pixels of an encoded image, or the reason why it cannot be decoded.

A bad image raises no exception: it becomes a rejected row. The size is read from the header, so an image that is too
large is never decoded.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, features

from pipeline.images.colour_profiles import convert_to_srgb, is_converted
from pipeline.images.encoded.bounds import find_coded_excess, find_excess, find_scan_excess
from pipeline.images.encoded.exif import read_exif_orientation
from pipeline.images.encoded.kinds import name_foreign, name_readable
from pipeline.images.encoded.parts import describe_tiff, find_preview, keep_needed_parts
from pipeline.images.encoded.plain_jpeg import decode_plain_jpeg
from pipeline.images.orientation import ORIENTATIONS, turn_size, turn_upright
from pipeline.run.records import Reason

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Formats of members named jpg, png or webp in practice. Pillow reads more, some of which run other programs."""

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
    # An animation whose clock stands.
    ZeroDivisionError,
    # Broken compressed text, such as a colour profile.
    zlib.error,
)
"""Exceptions that Pillow raises for bytes that are not an image. It has no exception of its own, and its parsers pass
on those of Python. 800,000 damaged images of all our formats raised nothing else. MemoryError is not among them: its
cause is the machine and not the image."""


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """An image as a viewer shows it, with its stored size and orientation."""

    image_rgb: UInt8[np.ndarray, "h w 3"]
    """Upright; smaller than stored if a reduced size was sufficient. May be read-only."""
    stored_height: int
    """Rows of the stored pixels, before the EXIF orientation."""
    stored_width: int
    exif_orientation: int
    """1 to 8; 1, as stored, if the image has no valid orientation."""


@dataclass(frozen=True, kw_only=True)
class ImageRejection:
    """Why an image cannot be labelled."""

    reason: Reason
    error: str


def decode_image(
    payload: bytes | memoryview, *, max_pixels: int, min_short_side_px: int | None = None
) -> DecodedImage | ImageRejection:
    """Decode an image to upright RGB.

    Transparent pixels are blended with white. 16-bit and floating point values are scaled to 8 bits. Of an animation
    the first frame is decoded. Pixels with a colour profile are converted to sRGB. Parts that pixels do not need, such
    as text and profiles, fail no image if they are damaged or large.

    Args:
        payload: The encoded image.
        max_pixels: An image with more pixels in its header is rejected.
        min_short_side_px: Allows a JPEG to be decoded at 1/2, 1/4 or 1/8 if its short side keeps this size: several
            times faster for photographs.
    """
    payload = bytes(payload)
    try:
        if excess := find_excess(payload):
            return _reject_as_slow(excess)
        needed = keep_needed_parts(payload)
        # Parts behind a damaged length come to light here.
        if needed is not payload and (excess := find_excess(needed)):
            return _reject_as_slow(excess)
        if preview := find_preview(payload):
            return ImageRejection(reason=Reason.UNDECODABLE, error=_describe_foreign(preview))
        image = open_image(needed, IMAGE_FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            error = f"{width} x {height} pixels are {width * height}, limit {max_pixels}"
            return ImageRejection(reason=Reason.TOO_LARGE, error=error)
        excess = find_scan_excess(needed, width * height, max_pixels) or find_coded_excess(needed, max_pixels)
        return _reject_as_slow(excess) if excess else _decode(image, needed, min_short_side_px)
    except UNREADABLE_ERRORS as error:
        return ImageRejection(reason=Reason.UNDECODABLE, error=_describe(error, payload))


def _reject_as_slow(excess: str) -> ImageRejection:
    return ImageRejection(reason=Reason.TOO_LARGE, error=f"the image takes too long to decode: {excess}")


def open_image(payload: bytes, formats: Sequence[str]) -> Image.Image:
    """Read the header of an image; Pillow decodes its pixels on access.

    Raises:
        OSError: It has none of these formats; for other exceptions see `UNREADABLE_ERRORS`.
    """
    # Pillow's limit of pixels holds for the whole process and warns from half of it on. Callers check the size.
    Image.MAX_IMAGE_PIXELS = None
    with _avif_errors():
        return Image.open(io.BytesIO(payload), formats=list(formats))


@contextmanager
def _avif_errors() -> Iterator[None]:
    """Raise damage of an AVIF, for which Pillow raises RuntimeError, as OSError; lack of memory as MemoryError."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if "Out of memory" in said or "allocation failed" in said:
            raise MemoryError(said) from error
        if not said.startswith(("Failed to decode", "Conversion from YUV failed")):
            raise
        raise OSError(said) from error


def _decode(image: Image.Image, payload: bytes, min_short_side_px: int | None) -> DecodedImage:
    width, height = image.size
    # Pillow takes the orientation from XMP if EXIF has none; browsers do not.
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    if image.format == "TIFF":
        # Pillow turns a TIFF upright while loading it, and then drops the orientation.
        orientation = _read_orientation(image)
        stored_height, stored_width = turn_size((height, width), orientation)
        pixels = _to_rgb(image)
    else:
        if min_short_side_px is not None:
            image.draft(None, (min_short_side_px, min_short_side_px))
        # Pixels first: the EXIF of a PNG may follow them.
        stored_height, stored_width = height, width
        plain = decode_plain_jpeg(payload, (image.height, image.width)) if _is_plain_jpeg(image) else None
        pixels = _to_rgb(image) if plain is None else plain
        orientation = _read_orientation(image)
        pixels = turn_upright(pixels, orientation)
    return DecodedImage(
        image_rgb=np.ascontiguousarray(pixels),
        stored_height=stored_height,
        stored_width=stored_width,
        exif_orientation=orientation,
    )


def _is_plain_jpeg(image: Image.Image) -> bool:
    """True for a JPEG whose pixels need no conversion but that to RGB."""
    is_plain = image.format == "JPEG" and image.mode in ("RGB", "L")
    return is_plain and not is_converted(image.info.get("icc_profile"), image.mode)


def _read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1 for broken EXIF, which does not reject an image."""
    try:
        # Pillow turns a TIFF by its own reading. Of other EXIF it reads nothing behind a damaged entry.
        if image.format == "TIFF":
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
            return found if isinstance(found, int) and found in ORIENTATIONS else 1
    except UNREADABLE_ERRORS:
        return 1
    exif = image.info.get("exif")
    return read_exif_orientation(exif) if isinstance(exif, bytes) else 1


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    with _avif_errors():
        image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_deep_grey(image)
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        # Pillow converts premultiplied grey (La) only to plain grey (LA).
        straight = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        canvas = Image.new("RGB", straight.size, "white")
        canvas.paste(straight, mask=straight)
        return np.asarray(convert_to_srgb(canvas, profile))
    # The profile of a palette is that of its colours; inks have one of their own.
    pixels = convert_to_srgb(image.convert("RGB") if image.mode == "P" else image, profile)
    return np.asarray(pixels if pixels.mode == "RGB" else pixels.convert("RGB"))


def _scale_deep_grey(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Scale grey values of more than 8 bits to 8 bits; the conversion of Pillow clips them.

    Integers up to 65535 are 16-bit values. Floats have the range 1, 255 or 65535: the smallest one that contains them.
    Other values have no nominal range and are stretched from their minimum to their maximum.
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
    """Reason why an image cannot be decoded: equal text for equal bytes."""
    if not payload:
        return "the image has no bytes"
    if kind := name_foreign(payload):
        return _describe_foreign(kind)
    readable = name_readable(payload)
    is_unknown = isinstance(error, Image.UnidentifiedImageError)
    if readable == "TIFF" and (is_unknown or "decoder error" in str(error)) and (layout := describe_tiff(payload)):
        return f"cannot be decoded: the decoder does not read this TIFF ({layout}), or it is damaged"
    if readable == "AVIF" and not features.check("avif"):
        return "the image is an AVIF, which this Pillow cannot read; install a Pillow with AVIF, or convert the image"
    if not is_unknown:
        said = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "it", str(error)).strip().rstrip(".")
        return f"cannot be decoded: {said or type(error).__name__}"
    if readable:
        return f"cannot be decoded: the header of this {readable} is damaged or truncated"
    return f"no readable image of the formats {_list_formats()}; it begins with {payload[:8].hex(' ')}"


def _describe_foreign(kind: str) -> str:
    return f"not an image that can be read but {kind}; the formats are {_list_formats()}"


def _list_formats() -> str:
    return f"{', '.join(IMAGE_FORMATS[:-1])} and {IMAGE_FORMATS[-1]}"
