"""Sizes, scales and flips at which the model sees an image, and the way back to the image's frame.

At native resolution an image keeps its size. In buckets it is scaled into one of a few shapes of the same
token budget, so that whole batches have one shape.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipeline.run.config import ViewConfig


class View(NamedTuple):
    """One scale and flip of an image."""

    scale: float
    """Size relative to the frame."""
    flip: bool
    """Mirrored, left to right."""


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


def _scale_side(side: int, scale: float, patch_size: int, step: int) -> int:
    return max(patch_size, round(side * scale / step) * step)
