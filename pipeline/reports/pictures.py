"""Pictures of an image: photo, class maps, mask and truth, as data URIs."""

import base64
import io

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from pipeline.images.pixel_maps import resize_maps
from pipeline.reports.page import Picture

MAX_SIDE_PX = 440
"""Longer side of photo, mask and truth."""
MAP_SIDE_PX = 220
"""Longer side of a class map, which has a few dozen patches a side."""
JPEG_QUALITY = 80

_HEAT = np.array([[20, 11, 53], [133, 33, 107], [229, 92, 48], [252, 195, 45], [252, 255, 164]], np.float32)
"""Colours of a class map from 0 to 1, in equal steps."""
_OUTLINE = np.array([255, 255, 255], np.float32)


def fit_size(shape: tuple[int, ...], max_side_px: int) -> tuple[int, int]:
    """Size of a picture, as (height, width), of an image of this shape.

    >>> fit_size((300, 400), 200)
    (150, 200)
    """
    factor = max_side_px / max(shape[:2])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def draw_photo(image_rgb: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """Resize a photo."""
    return np.asarray(Image.fromarray(image_rgb).resize(size[::-1]))


def draw_mask(
    photo_rgb: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "mask_h mask_w"], palette: UInt8[np.ndarray, "256 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a mask over a photo: classes in their colours with a light outline, background darker."""
    size = photo_rgb.shape[1], photo_rgb.shape[0]
    values = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    coloured = np.where((values == 0)[..., None], photo_rgb * 0.55, 0.4 * photo_rgb + 0.6 * palette[values])
    is_edge = np.zeros(values.shape, bool)
    is_edge[:, 1:] |= values[:, 1:] != values[:, :-1]
    is_edge[1:] |= values[1:] != values[:-1]
    coloured[is_edge] = 0.3 * coloured[is_edge] + 0.7 * _OUTLINE
    return coloured.clip(0, 255).astype(np.uint8)


def draw_class_maps(
    photo_rgb: UInt8[np.ndarray, "h w 3"], maps: Float[np.ndarray, "k gh gw"]
) -> UInt8[np.ndarray, "k h w 3"]:
    """Draw class maps in colours of heat over a grey photo."""
    steps = np.linspace(0, 1, len(_HEAT))
    enlarged = resize_maps(torch.from_numpy(np.array(maps))[None], photo_rgb.shape[:2])[0].numpy()
    coloured = np.stack([np.interp(enlarged, steps, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    return (0.35 * photo_rgb.mean(-1, keepdims=True) + 0.65 * coloured).clip(0, 255).astype(np.uint8)


def embed_picture(caption: str, rgb: UInt8[np.ndarray, "h w 3"]) -> Picture:
    """Encode a picture as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(caption=caption, source=source, width=rgb.shape[1], height=rgb.shape[0])
