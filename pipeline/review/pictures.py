"""Pictures for browsers: everything upright, as they show a photo by its EXIF."""

import io
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from pipeline.images.decode import ImageRejection, decode_image
from pipeline.images.masks import encode_mask
from pipeline.run.records import IGNORE_LABEL

MIN_SIZE_PX, MAX_SIZE_PX = 16, 2048
THUMBNAIL_QUALITY, FULL_QUALITY = 80, 92
"""Of JPEG."""
OPEN_ALPHA = 128
"""Opacity of pixels of no class in a picture to lay over the photo."""
_JPEG_START = b"\xff\xd8\xff"


class Picture(NamedTuple):
    """An encoded picture."""

    content: bytes
    media_type: str


class PictureError(Exception):
    """An image that cannot be shown, in words."""


def make_photo(payload: bytes, max_pixels: int, size_px: int | None = None) -> Picture:
    """Make the picture of a photo.

    A JPEG in full size stays as it is: browsers turn it upright. Others are decoded as for labelling, which shows what
    the model saw: the first frame of an animation, transparent pixels on white.

    Args:
        payload: The encoded image.
        max_pixels: An image with more pixels is refused.
        size_px: Of the longer side; a smaller image keeps its size. None: full size.

    Raises:
        PictureError: The image cannot be decoded or is too large.
    """
    if size_px is None and payload.startswith(_JPEG_START):
        return Picture(payload, "image/jpeg")
    decoded = decode_image(payload, max_pixels=max_pixels, min_short_side_px=None if size_px is None else size_px)
    if isinstance(decoded, ImageRejection):
        raise PictureError(decoded.error)
    image = Image.fromarray(decoded.image_rgb)
    if size_px is not None:
        image.thumbnail((size_px, size_px), Image.Resampling.BILINEAR)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=FULL_QUALITY if size_px is None else THUMBNAIL_QUALITY)
    return Picture(sink.getvalue(), "image/jpeg")


def make_mask(
    upright: UInt8[np.ndarray, "h w"],
    palette: UInt8[np.ndarray, "256 3"],
    *,
    size_px: int | None = None,
    is_overlay: bool = False,
) -> Picture:
    """Make the picture of a mask, whose pixels are class ids.

    Args:
        upright: The mask as viewers show it.
        palette: Colours of the values.
        size_px: Of the longer side; a smaller mask keeps its size. None: full size.
        is_overlay: Background is transparent, and pixels of no class are half so.
    """
    if size_px is not None and max(upright.shape) > size_px:
        image = Image.fromarray(upright)
        image.thumbnail((size_px, size_px), Image.Resampling.NEAREST)
        upright = np.asarray(image)
    if not is_overlay:
        return Picture(encode_mask(np.ascontiguousarray(upright), palette), "image/png")
    image = Image.fromarray(np.ascontiguousarray(upright))
    image.putpalette(palette.tobytes())
    alpha = bytearray([255]) * 256
    alpha[0], alpha[IGNORE_LABEL] = 0, OPEN_ALPHA
    sink = io.BytesIO()
    image.save(sink, "PNG", transparency=bytes(alpha), compress_level=1, bits=8)
    return Picture(sink.getvalue(), "image/png")


def make_map(class_map: Float[np.ndarray, "gh gw"]) -> Picture:
    """Make the grey picture of a class map in [0, 1], one pixel a patch."""
    sink = io.BytesIO()
    Image.fromarray(np.rint(class_map * 255).astype(np.uint8)).save(sink, "PNG")
    return Picture(sink.getvalue(), "image/png")
