"""Views: scales and flips of a frame, and the way of their maps back to the frame."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipeline.images.pixel_maps import resize_maps
from pipeline.run.config import ViewConfig


class View(NamedTuple):
    """One scale and flip of an image."""

    scale: float
    """Size relative to the frame."""
    flip: bool
    """Mirrored, left to right."""


def list_views(config: ViewConfig) -> tuple[View, ...]:
    """List the views of a configuration: each scale, followed by its flip if flips are on."""
    flips = (False, True) if config.flip else (False,)
    return tuple(View(scale, flip) for scale in config.scales for flip in flips)


def make_view(
    images: Float[Tensor, "b 3 h w"], view: View, patch_size: int, *, snap_to_patches: bool = False
) -> Float[Tensor, "b 3 view_h view_w"]:
    """Scale and flip images. At scale 1 pixels do not change.

    Args:
        images: All of one size, that of the frame.
        view: Scale and flip.
        patch_size: Patch side in pixels, which is the smallest side of a view.
        snap_to_patches: Round the sides of a scaled view to whole patches, as those of buckets are.
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
    """Resize maps of a view to the frame (height, width), then undo its flip."""
    maps = resize_maps(maps, size)
    return torch.flip(maps, dims=(-1,)) if view.flip else maps


def _scale_side(side: int, scale: float, patch_size: int, step: int) -> int:
    return max(patch_size, round(side * scale / step) * step)
