"""Frames and guides: an image at the size at which the model sees it, and at which its pixels refine class maps.

At native resolution an image keeps its size. In buckets it is scaled to one of a few shapes of the same token budget,
so that the images of a batch have one shape.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from pipeline.run.config import LabelConfig, PixelRefinement, Resolution, ViewConfig

BUCKET_ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 7 / 3, 3.0)
"""Long side over short side of the buckets: what cameras and screens have, and two for panoramas."""


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


@lru_cache(maxsize=4096)
def choose_grid(height: int, width: int, num_patches: int) -> tuple[int, int]:
    """Choose the patch grid of the budget that distorts an image of this size the least.

    >>> choose_grid(375, 500, num_patches=784)
    (24, 32)
    """
    aspect = math.log(height / width)
    return min(list_bucket_grids(num_patches), key=lambda grid: abs(math.log(grid[0] / grid[1]) - aspect))


def choose_frame_size(height: int, width: int, config: ViewConfig, patch_size: int) -> tuple[int, int]:
    """Choose the size at which the model sees an upright image, before views are made of it.

    Args:
        height: Of the upright image, in pixels.
        width: Likewise.
        config: With a token budget (`config.settle_config`), unless resolution is native.
        patch_size: Patch side in pixels.

    Returns:
        Height and width in pixels.
    """
    if config.resolution == Resolution.NATIVE:
        return fit_native_size(height, width, patch_size)
    rows, columns = choose_grid(height, width, _require_budget(config))
    return (rows * patch_size, columns * patch_size)


def fit_native_size(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Height and width of a frame at native resolution: those of the image, and at least one patch.

    >>> fit_native_size(5, 300, patch_size=16)
    (16, 300)
    """
    return (max(height, patch_size), max(width, patch_size))


def choose_guide_size(height: int, width: int, side_px: int, patch_size: int) -> tuple[int, int]:
    """Choose the size at which pixels refine the maps of a frame: about `side_px` squared, with its aspect.

    It is the size of the bucket with the same budget, so a frame of this budget keeps its size.

    >>> choose_guide_size(384, 512, side_px=224, patch_size=16)
    (192, 256)
    """
    rows, columns = choose_grid(height, width, max(1, side_px // patch_size) ** 2)
    return (rows * patch_size, columns * patch_size)


def choose_shortest_side(config: LabelConfig, patch_size: int) -> int | None:
    """Choose the short side in pixels to which a decoder may shrink an image; None: it must not shrink it.

    A JPEG decoded at half or quarter scale is then at least as large as each bucket of the budget and as its guide.
    """
    if config.views.resolution == Resolution.NATIVE:
        return None
    shortest = math.ceil(math.sqrt(_require_budget(config.views))) * patch_size
    is_refined = config.maps.pixel_refinement != PixelRefinement.NONE
    return max(shortest, config.maps.pixel_side_px) if is_refined else shortest


def fit_frame(
    image_rgb: UInt8[np.ndarray, "h w 3"], config: ViewConfig, patch_size: int
) -> UInt8[np.ndarray, "frame_h frame_w 3"]:
    """Resize an upright image to the size at which the model sees it."""
    height, width = image_rgb.shape[:2]
    return resize_rgb(image_rgb, choose_frame_size(height, width, config, patch_size))


def fit_guide(
    image_rgb: UInt8[np.ndarray, "h w 3"],
    config: LabelConfig,
    patch_size: int,
    frame: UInt8[np.ndarray, "frame_h frame_w 3"] | None = None,
) -> UInt8[np.ndarray, "guide_h guide_w 3"]:
    """Resize an upright image to the size at which its pixels refine its class maps.

    Args:
        image_rgb: As it was decoded.
        config: Of the run; the size of the frame decides that of the guide.
        patch_size: Patch side in pixels.
        frame: Of the same image, if there is one; it is also the guide where both have one size.
    """
    height, width = image_rgb.shape[:2]
    frame_size = choose_frame_size(height, width, config.views, patch_size)
    guide_size = choose_guide_size(*frame_size, config.maps.pixel_side_px, patch_size)
    return frame if frame is not None and guide_size == frame_size else resize_rgb(image_rgb, guide_size)


def count_image_bytes(config: LabelConfig, patch_size: int) -> int:
    """Count the bytes of the frame and the guide of an image; those of native resolution vary, and count as 0."""
    num_bytes = 0
    if config.views.resolution != Resolution.NATIVE:
        num_bytes += 3 * _require_budget(config.views) * patch_size**2
    if config.maps.pixel_refinement != PixelRefinement.NONE:
        num_bytes += 3 * max(config.maps.pixel_side_px, patch_size) ** 2
    return num_bytes


def resize_rgb(image_rgb: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "new_h new_w 3"]:
    """Resize an image to (height, width) pixels: bicubic, with antialiasing when it shrinks.

    Pillow's filter in PyTorch's form for bytes, across and then down: several times as fast, and equal up to rounding,
    at most 2 of 255 levels. In one call Pillow may resize down first, which differs more where values are clipped.
    """
    if image_rgb.shape[:2] == tuple(size):
        return image_rgb
    # The batch comes first, then the channels move: PyTorch takes this for packed pixels and writes packed pixels. From
    # the strides of `resize_planes` it would write planes, and to pack them costs twice the time of resizing.
    packed = torch.from_numpy(np.require(image_rgb, requirements=("C", "W")))[None]
    return np.ascontiguousarray(_resize(packed.permute(0, 3, 1, 2), size).permute(1, 2, 0).numpy())


def resize_planes(image_rgb: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "3 new_h new_w"]:
    """Resize an image as `resize_rgb` does, to an array of any strides with the channels first."""
    # PyTorch takes no array that is read-only or has a step below 0.
    plain = np.ascontiguousarray(image_rgb) if min(image_rgb.strides) < 0 else image_rgb
    pixels = torch.from_numpy(np.require(plain, requirements="W")).permute(2, 0, 1)[None]
    planes: np.ndarray = _resize(pixels, size).numpy()
    return planes


def _resize(pixels: UInt8[Tensor, "1 3 h w"], size: tuple[int, int]) -> UInt8[Tensor, "3 new_h new_w"]:
    return functional.interpolate(pixels, size=tuple(size), mode="bicubic", antialias=True)[0]


def normalise(
    images: UInt8[Tensor, "b 3 h w"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Tensor, "b 3 h w"]:
    """Scale pixels to [0, 1], then to the mean and standard deviation that the model expects.

    Args:
        images: RGB, on any device.
        mean: Of each channel, with pixels in [0, 1].
        std: Of each channel.
    """
    # Copied without blocking: a blocking copy waits for the device.
    offset, spread = torch.tensor((mean, std)).to(images.device, non_blocking=True).view(2, 1, 3, 1, 1)
    return (images.float() / 255 - offset) / spread


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
