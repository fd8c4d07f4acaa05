"""Encoded images as viewers show them, without an EXIF orientation."""

import io
from typing import Any

from PIL import Image

from pipeline.errors import ManifestError
from pipeline.images.decode import IMAGE_FORMATS, UNREADABLE_ERRORS, decode_image, open_image
from pipeline.images.encoded.kinds import name_readable

JPEG_OPTIONS = {"quality": 95, "subsampling": 0}
SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WebP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "AVIF": ".avif",
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How stored pixels are turned upright, by EXIF orientation."""


def make_upright(image: bytes, exif_orientation: int) -> tuple[bytes, str]:
    """Turn an encoded image upright; one that is upright keeps its bytes.

    A JPEG is encoded again with quality 95, PNG, WebP and TIFF without loss, others as PNG. Colours, inks and their
    profile stay as they are. The EXIF data goes, since it describes the stored pixels.

    Args:
        image: An image that was labelled.
        exif_orientation: Of the image, 1 to 8.

    Returns:
        The encoded image, and the suffix of its format.

    Raises:
        ManifestError: The image cannot be decoded.
    """
    kind = name_readable(image)
    if exif_orientation == 1:
        return image, SUFFIXES.get(kind, ".jpg")
    try:
        opened = open_image(image, IMAGE_FORMATS)
        opened.load()
        # Pillow turns a TIFF as it loads it.
        upright = opened.copy() if kind == "TIFF" else opened.transpose(_TURNS[exif_orientation])
        return _encode(upright, kind, opened.info.get("icc_profile"))
    except UNREADABLE_ERRORS as error:
        raise ManifestError(f"an image of {len(image)} bytes cannot be turned upright: {error}") from error


def _encode(upright: Image.Image, kind: str, profile: bytes | None) -> tuple[bytes, str]:
    options: dict[str, Any] = {"icc_profile": profile} if profile else {}
    match kind:
        case "JPEG":
            options |= JPEG_OPTIONS
        case "WebP":
            options |= {"lossless": True, "exact": True}
        case "TIFF":
            pass
        case _:
            kind = "PNG"
    for name in ("exif", "xmp", "XML:com.adobe.xmp"):
        upright.info.pop(name, None)
    stream = io.BytesIO()
    upright.save(stream, kind, **options)
    return stream.getvalue(), SUFFIXES[kind]


def read_size(image: bytes) -> tuple[int, int]:
    """Height and width of an encoded image, from its header.

    Raises:
        ManifestError: It cannot be read.
    """
    try:
        width, height = open_image(image, IMAGE_FORMATS).size
    except UNREADABLE_ERRORS as error:
        raise ManifestError(f"an image of {len(image)} bytes cannot be read: {error}") from error
    return height, width


def encode_jpeg(image: bytes) -> bytes:
    """Encode an upright image as a JPEG of quality 95 with the pixels that the model saw: RGB, blended with white.

    Raises:
        ManifestError: It cannot be decoded.
    """
    height, width = read_size(image)
    decoded = decode_image(image, max_pixels=height * width)
    if not hasattr(decoded, "image_rgb"):
        raise ManifestError(f"an image of {len(image)} bytes cannot be decoded: {decoded.error}")
    stream = io.BytesIO()
    Image.fromarray(decoded.image_rgb).save(stream, "JPEG", **JPEG_OPTIONS)
    return stream.getvalue()
