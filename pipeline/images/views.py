"""Sizes, scales and flips at which the model sees an image, and the way back to the image's frame.

At native resolution an image keeps its size. In buckets it is scaled into one of a few shapes of the same
token budget, so that whole batches have one shape.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pipeline.run.config import LabelConfig, PixelRefinement, Resolution, ViewConfig

BUCKET_ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 7 / 3, 3.0)
"""Long side over short side of the buckets: what cameras and screens have, and two for panoramas."""


class View(NamedTuple):
    """One scale and flip of an image."""

    scale: float
    """Size relative to the frame."""
    flip: bool
    """Mirrored, left to right."""


@lru_cache(maxsize=64)
def list_bucket_grids(num_patches: int) -> tuple[tuple[int, int], ...]:
    """List the patch grids of a token budget as (height, width), from the widest to the tallest.

    >>> list_bucket_grids(784)[4:7]
    ((24, 32), (28, 28), (32, 24))

    Raises:
        ValueError: The budget is below one patch.
    """
    if num_patches < 1:
        raise ValueError(f"need num_patches >= 1, got {num_patches}")
    wide = {_fit_grid(num_patches, aspect) for aspect in BUCKET_ASPECTS}
    tall = {(long, short) for short, long in wide}
    return tuple(sorted(wide | tall, key=lambda grid: grid[0] / grid[1]))


def choose_grid(height: int, width: int, num_patches: int) -> tuple[int, int]:
    """Choose the patch grid of the budget that distorts an image of this size the least.

    >>> choose_grid(375, 500, num_patches=784)
    (24, 32)
    """
    aspect = math.log(height / width)
    return min(list_bucket_grids(num_patches), key=lambda grid: abs(math.log(grid[0] / grid[1]) - aspect))


def choose_working_size(height: int, width: int, side_px: int, patch_size: int) -> tuple[int, int]:
    """Choose the size at which maps of a frame are refined by its pixels: about `side_px` squared, of its aspect.

    That of the bucket with the same budget: a frame of this budget keeps its size.

    >>> choose_working_size(384, 512, side_px=224, patch_size=16)
    (192, 256)
    """
    rows, columns = choose_grid(height, width, max(1, side_px // patch_size) ** 2)
    return (rows * patch_size, columns * patch_size)


def fit_native_size(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Give the size at which the model sees an image at native resolution: its own, but at least one patch.

    >>> fit_native_size(5, 300, patch_size=16)
    (16, 300)
    """
    return (max(height, patch_size), max(width, patch_size))


def choose_frame_size(height: int, width: int, config: ViewConfig, patch_size: int) -> tuple[int, int]:
    """Choose the size at which the model sees an upright image of this size, before views are made of it.

    Args:
        height: In pixels.
        width: In pixels.
        config: With a token budget (`config.settle_config`), unless resolution is native.
        patch_size: Patch side in pixels.
    """
    if config.resolution == Resolution.NATIVE:
        return fit_native_size(height, width, patch_size)
    rows, columns = choose_grid(height, width, _require_budget(config))
    return (rows * patch_size, columns * patch_size)


def choose_shortest_side(config: LabelConfig, patch_size: int) -> int | None:
    """Choose the short side in pixels that a decoder may shrink an image to; None: it must not.

    A JPEG decoded at half or quarter scale is then still at least as large as any bucket of the budget, and as the
    size at which its pixels refine the maps.
    """
    if config.views.resolution == Resolution.NATIVE:
        return None
    shortest = math.ceil(math.sqrt(_require_budget(config.views))) * patch_size
    is_refined = config.maps.pixel_refinement != PixelRefinement.NONE
    return max(shortest, config.maps.pixel_side_px) if is_refined else shortest


def resize_rgb(image_rgb: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """Resize an image to (height, width) pixels: bicubic, with antialiasing when it shrinks."""
    height, width = size
    if image_rgb.shape[:2] == (height, width):
        return image_rgb
    # np.array and not asarray: Pillow's memory is read-only, which tensors must not be.
    return np.array(Image.fromarray(image_rgb).resize((width, height), Image.Resampling.BICUBIC))


def list_views(config: ViewConfig) -> tuple[View, ...]:
    """List the views of a configuration: every scale, each followed by its flip if flips are on."""
    flips = (False, True) if config.flip else (False,)
    return tuple(View(scale, flip) for scale in config.scales for flip in flips)


def make_view(
    images: Float[Tensor, "b 3 h w"], view: View, patch_size: int, *, snap_to_patches: bool = False
) -> Float[Tensor, "b 3 view_h view_w"]:
    """Scale and flip images. At scale 1 every pixel stays what it is.

    Args:
        images: All of one size, that of the frame.
        view: What to make.
        patch_size: Patch side in pixels; no side of a view gets smaller.
        snap_to_patches: Round the sides of a scaled view to whole patches, so that buckets stay buckets.
    """
    if view.scale != 1.0:
        height, width = images.shape[-2:]
        step = patch_size if snap_to_patches else 1
        size = (_scale_side(height, view.scale, patch_size, step), _scale_side(width, view.scale, patch_size, step))
        images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
    return torch.flip(images, dims=(-1,)) if view.flip else images


def return_to_frame(
    maps: Float[Tensor, "b k gh gw"], view: View, size: tuple[int, int]
) -> Float[Tensor, "b k frame_h frame_w"]:
    """Bring maps of a view back to the frame: resized bilinearly to (height, width), then flipped back."""
    if tuple(maps.shape[-2:]) != tuple(size):
        maps = functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
    return torch.flip(maps, dims=(-1,)) if view.flip else maps


def _require_budget(config: ViewConfig) -> int:
    if config.num_patches is None:
        raise ValueError("need num_patches, got None; settle_config fills in what is left to the model")
    return config.num_patches


def _fit_grid(num_patches: int, aspect: float) -> tuple[int, int]:
    """Find the grid (short side, long side) nearest to an aspect that keeps the budget and nearly uses it."""
    short = max(1, round(math.sqrt(num_patches / aspect)))
    if short * short > num_patches:
        short -= 1
    return short, min(num_patches // short, max(short, round(short * aspect)))


def _scale_side(side: int, scale: float, patch_size: int, step: int) -> int:
    return max(patch_size, round(side * scale / step) * step)
