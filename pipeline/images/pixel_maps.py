"""Class maps at image size from class maps on patch grids, and the mask that they make.

Labelling, new masks of kept maps and evaluation share this code, so that they round alike.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from models.class_maps import scale_min_max
from models.pixel_refinement import refine_by_pixels

MAX_MAP_PIXELS = 4_000_000
"""Largest number of pixels of the maps of an image; the mask of a larger image is enlarged from there.

Maps come from a patch grid of a few hundred cells, so nothing is lost, and an image of 100 megapixels does not need
gigabytes of maps."""


def enlarge_maps(
    grids: Sequence[Float[Tensor, "1 k _ _"]],
    upright_size: tuple[int, int],
    class_scales: Float[Tensor, " k"] | None = None,
    *,
    max_pixels: int | None = MAX_MAP_PIXELS,
) -> Float[Tensor, "k h w"]:
    """Sum the maps of several grids at image size and scale each class to [0, 1].

    Args:
        grids: Maps of the same classes, any scale; their grids may differ.
        upright_size: Height and width of the upright image.
        class_scales: Factor of each map after min-max, in (0, 1]; None: no factors.
        max_pixels: The maps are smaller than an image with more pixels; None: they have its size. Evaluation compares
            maps with true masks pixel by pixel, so it uses None.
    """
    size = upright_size if max_pixels is None else _limit_size(upright_size, max_pixels)
    return _multiply_by_class(scale_min_max(sum_resized(grids, size))[0], class_scales)


def refine_maps(
    grids: Sequence[Float[Tensor, "b k _ _"]], guides: UInt8[Tensor, "b h w 3"], num_iterations: int
) -> Float[Tensor, "b k h w"]:
    """Sum the maps of several grids, scale each class to [0, 1] and refine it by the pixels of its image.

    Maps are scaled before refinement and not after. So a threshold means the same evidence as without refinement, and
    the peak of a map without an edge in the image stays lowered by the averaging.

    Args:
        grids: Maps of the same classes, any scale; their grids may differ.
        guides: The images, RGB, at the size at which their pixels refine (`frames.fit_guide`).
        num_iterations: Rounds of averaging.

    Returns:
        Maps in [0, 1] up to rounding, at the size of the guides; a constant map is zero.
    """
    scaled = scale_min_max(sum_resized(grids, (guides.shape[1], guides.shape[2])))
    return refine_by_pixels(scaled, guides.permute(0, 3, 1, 2).float() / 255, num_iterations=num_iterations)


def enlarge_refined_maps(
    maps: Float[Tensor, "1 k h w"], upright_size: tuple[int, int], class_scales: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "k upright_h upright_w"]:
    """Resize maps of `refine_maps` to image size as `enlarge_maps` does, without scaling them to [0, 1] again."""
    # Weights of neighbours sum to 1 up to rounding, and thresholds may be 0 or 1.
    return _multiply_by_class(resize_maps(maps, _limit_size(upright_size, MAX_MAP_PIXELS))[0].clamp(0, 1), class_scales)


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


def take_class_scales(
    class_scales: Sequence[float] | None, class_ids: Sequence[int], device: torch.device | None = None
) -> Float[Tensor, " k"] | None:
    """Scales of some classes, in the order of `class_ids` (from 1)."""
    if class_scales is None:
        return None
    return torch.tensor([class_scales[class_id - 1] for class_id in class_ids], device=device)


def _multiply_by_class(
    maps: Float[Tensor, "k h w"], class_scales: Float[Tensor, " k"] | None
) -> Float[Tensor, "k h w"]:
    return maps if class_scales is None else maps * class_scales[:, None, None]


def _limit_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    factor = min(1.0, (max_pixels / (size[0] * size[1])) ** 0.5)
    return (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
