"""Class maps resized, and refined by the pixels of their image: work on a device, for a batch.

Labelling and new masks of kept maps share this code, so that they round alike.
"""

from collections.abc import Sequence

from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from models.class_maps import scale_min_max
from models.pixel_refinement import refine_by_pixels


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
