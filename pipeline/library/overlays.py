"""Pictures of masks for notebooks."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.reports.pictures import MAX_SIDE_PX, draw_mask, draw_photo, fit_size


def draw_overlay(
    image: Image.Image, mask: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "256 3"]
) -> Image.Image:
    """Draw a photo and, beside it, the mask over the photo; larger photos are made smaller.

    Args:
        image: In RGB.
        mask: In the frame of the image.
        palette: Colours of the mask.
    """
    height, width = fit_size(mask.shape, min(MAX_SIDE_PX, max(mask.shape)))
    photo = draw_photo(np.asarray(image), (height, width))
    return Image.fromarray(np.concatenate([photo, draw_mask(photo, mask, palette)], 1))


def encode_png(image: Image.Image) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
