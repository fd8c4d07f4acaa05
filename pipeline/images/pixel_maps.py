"""From class maps on patch grids to class maps at image size, and from their mask to one of the image's own size.

Shared by what labels images and what makes new masks of kept maps: both have to round alike.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from models.class_maps import scale_min_max
from models.pixel_refinement import refine_by_pixels
from pipeline.images.masks import label_pixels
from pipeline.run.config import MapConfig

MAX_MAP_PIXELS = 4_000_000
"""Maps are evaluated at no more pixels than this; the mask of a larger image is enlarged from there.

A map comes from a patch grid of a few hundred cells, so nothing is lost, and an image of 100 megapixels
does not need gigabytes of maps."""


def enlarge_maps(
    grids: Sequence[Float[Tensor, "1 k _ _"]],
    upright_size: tuple[int, int],
    class_scales: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, "k h w"]:
    """Sum the maps of several grids at image size and bring each class to [0, 1].

    Args:
        grids: Maps of the same classes, any scale; their grids may differ.
        upright_size: Height and width of the upright image; the maps are smaller if it exceeds `MAX_MAP_PIXELS`.
        class_scales: Multiplies each map after min-max, in (0, 1]; None: nothing does.
    """
    return _weigh(scale_min_max(sum_resized(grids, _limit_size(upright_size)))[0], class_scales)


def refine_maps(
    grids: Sequence[Float[Tensor, "b k _ _"]], guides: UInt8[Tensor, "b h w 3"], num_iterations: int
) -> Float[Tensor, "b k h w"]:
    """Sum the maps of several grids, bring each class to [0, 1] and draw it to the edges of its image.

    Maps are scaled before and not after: a threshold then asks for the evidence that it asks for without refinement,
    and what averaging takes from the peak of a map that no edge in the image bears out stays taken.

    Args:
        grids: Maps of the same classes, any scale; their grids may differ.
        guides: The images, RGB, at the size at which their pixels refine.
        num_iterations: Rounds of averaging.

    Returns:
        In [0, 1] but for rounding, at the size of the guides; a constant map is zero.
    """
    scaled = scale_min_max(sum_resized(grids, (guides.shape[1], guides.shape[2])))
    return refine_by_pixels(scaled, guides.permute(0, 3, 1, 2).float() / 255, num_iterations=num_iterations)


def enlarge_refined_maps(
    maps: Float[Tensor, "1 k h w"], upright_size: tuple[int, int], class_scales: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "k upright_h upright_w"]:
    """Bring maps of `refine_maps` to image size as `enlarge_maps` does, but without scaling them again."""
    # Weights of neighbours sum to 1 but for rounding, and thresholds may lie at the ends.
    return _weigh(resize_maps(maps, _limit_size(upright_size))[0].clamp(0, 1), class_scales)


def sum_resized(grids: Sequence[Float[Tensor, "b k _ _"]], size: tuple[int, int]) -> Float[Tensor, "b k h w"]:
    """Sum maps of several grids at one size."""
    total = resize_maps(grids[0], size)
    for grid in grids[1:]:
        total = total + resize_maps(grid, size)
    return total


def resize_maps(maps: Float[Tensor, "b k gh gw"], size: tuple[int, int]) -> Float[Tensor, "b k h w"]:
    """Resize maps bilinearly to (height, width)."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def enlarge_mask(mask: UInt8[Tensor, "h w"], upright_size: tuple[int, int]) -> UInt8[np.ndarray, "upright_h upright_w"]:
    """Give a mask that is as large as its maps at the size of the upright image."""
    if tuple(mask.shape) == tuple(upright_size):
        return mask.numpy()
    return functional.interpolate(mask[None, None], size=upright_size, mode="nearest-exact")[0, 0].numpy()


def draw_mask(
    pixel_maps: Float[Tensor, "k h w"], class_ids: Sequence[int], presence: Float[Tensor, " k"], config: MapConfig
) -> tuple[Float[Tensor, "k h w"], UInt8[Tensor, "h w"], tuple[int, ...]]:
    """Draw the pseudo label of an image, without the classes that the model doubts.

    Args:
        pixel_maps: Evidence in [0, 1].
        class_ids: Class of each map.
        presence: Probability of each class.
        config: Thresholds, and the least presence.

    Returns:
        The maps, 0 for doubtful classes; the pseudo label; the doubtful classes.
    """
    is_trusted = presence >= config.min_presence
    ids = torch.tensor(class_ids, device=pixel_maps.device)
    thresholds = (config.background_threshold, config.foreground_threshold)
    trusted = pixel_maps[is_trusted]
    mask = label_pixels(trusted, ids[is_trusted], *thresholds, has_background=config.has_background)
    doubtful = tuple(class_id for class_id, trust in zip(class_ids, is_trusted.tolist(), strict=True) if not trust)
    return pixel_maps * is_trusted[:, None, None], mask, doubtful


def take_class_scales(
    class_scales: Sequence[float] | None, class_ids: Sequence[int], device: torch.device | None = None
) -> Float[Tensor, " k"] | None:
    """Take the scales of some classes out of those of all, in the order of `class_ids` (from 1)."""
    if class_scales is None:
        return None
    return torch.tensor([class_scales[class_id - 1] for class_id in class_ids], device=device)


def _weigh(maps: Float[Tensor, "k h w"], class_scales: Float[Tensor, " k"] | None) -> Float[Tensor, "k h w"]:
    return maps if class_scales is None else maps * class_scales[:, None, None]


def _limit_size(size: tuple[int, int]) -> tuple[int, int]:
    factor = min(1.0, (MAX_MAP_PIXELS / (size[0] * size[1])) ** 0.5)
    return (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
