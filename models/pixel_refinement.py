"""Refinement of class maps at the edges of their image, which a grid of patches cannot resolve.

The computation has no weights. The result for an image does not depend on the others of its batch.
"""

import logging
import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances of the 8 neighbours of a pixel, in pixels; those of the authors of PAMR and of PAR."""
DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Steps (down, right) to the 8 neighbours."""
NUM_NEIGHBOURS = len(DILATIONS) * len(DIRECTIONS)
COLOUR_SCALE = 0.3
"""Colour difference at which the weight has fallen by a factor of e, in local standard deviations (PAR's w1)."""
POSITION_SCALE = 0.3
"""The same for the distance, in standard deviations of the distances of all neighbours (PAR's w1)."""
POSITION_WEIGHT = 0.01
"""Weight of the position term relative to the colour term (PAR's w2)."""
MIN_COLOUR_STD = 1e-6
"""Lower bound of the local standard deviation, far below a grey level (1 / 255); only uniform areas reach it."""
MAX_WEIGHTS = 2**26
"""Weights on a device at the same time, 256 MiB; larger batches are refined in groups. Fused kernels store none."""
MOST_MAPS = 8
"""Maps of a program of the fused kernels at most, for which it computes the weights once."""
MAX_CAUSE = 200
"""Characters of a logged cause."""
MAX_DIFFERENCE = 1e-4
"""Largest difference of the fused kernels from the plain form in a trial, for maps in [0, 1]."""


def refine_by_pixels(
    class_maps: Float[Tensor, "b k h w"], image_rgb: Float[Tensor, "b 3 h w"], *, num_iterations: int
) -> Float[Tensor, "b k h w"]:
    """Average class maps repeatedly over the neighbours of each pixel, weighted by similarity of colour.

    The weights of a pixel's neighbours sum to 1. A constant map therefore stays constant, values stay within the range
    of their map, and refinement commutes with scaling and shifting a map. The background, a constant threshold, needs
    no map: refinement would not change it.

    Args:
        class_maps: Any scale.
        image_rgb: The image of the maps, in [0, 1].
        num_iterations: Rounds of averaging; each reaches at most 24 pixels far. 0: the maps stay unchanged.

    Returns:
        float32, computed in float32 for inputs of any type. On a CPU the bytes of an image are equal in any batch. On a
        GPU with Triton fused kernels compute it (`choose_form`), whose results differ by rounding.

    Raises:
        ValueError: `num_iterations` is negative.

    Source: Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020), pixel-adaptive mask
    refinement (PAMR), in the form of Ru et al., "Learning Affinity from Attention" (CVPR 2022), pixel-adaptive
    refinement (PAR), with its constants:
    weight = softmax(-mean over rgb of (|difference| / (w1 std))^2) + w2 softmax(-(distance / (w1 std))^2). There the
    weights sum to 1 + w2, so maps grow with every round; here they are normalised. Neighbours are read as shifted views
    and added one at a time, without a copy of the maps for each of them.
    """
    if num_iterations < 0:
        raise ValueError(f"need num_iterations >= 0, got {num_iterations}")
    refine = choose_form(class_maps.device, choose_block(class_maps.shape[1]))
    return refine(class_maps.float(), image_rgb.float(), num_iterations)


def refine_plainly(
    class_maps: Float[Tensor, "b k h w"], image_rgb: Float[Tensor, "b 3 h w"], num_iterations: int
) -> Float[Tensor, "b k h w"]:
    """Refine float32 maps by operations of PyTorch: the form for CPUs, and for GPUs without Triton."""
    h, w = class_maps.shape[-2:]
    # CPU kernels round differently at the end of a tensor, so on a CPU each image is a tensor of its own.
    group = 1 if class_maps.device.type == "cpu" else max(1, MAX_WEIGHTS // (NUM_NEIGHBOURS * h * w))
    refined = [
        _average_neighbours(maps, _weigh_neighbours(rgb), num_iterations)
        for maps, rgb in zip(class_maps.split(group), image_rgb.split(group), strict=True)
    ]
    return torch.cat(refined) if refined else class_maps


def choose_block(num_maps: int) -> int:
    """Choose how many maps of an image a program of the fused kernels refines: a power of 2, at most `MOST_MAPS`."""
    return min(MOST_MAPS, 1 << max(0, num_maps - 1).bit_length())


@cache
def choose_form(device: torch.device, block: int) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Choose between `refine_plainly` and the fused kernels; once a process, for each device and size of a block.

    Kernels are for GPUs, and are compiled and tried once for each size. The plain form is used, and a warning logged,
    if Triton is missing, if the kernels do not compile for the device, or if their result differs.

    Args:
        device: Of the maps.
        block: Maps of a program (`choose_block`).

    Raises:
        torch.OutOfMemoryError: The memory of the device is full; the next call tries again.
    """
    if device.type != "cuda":
        return refine_plainly
    try:
        # Not every build of PyTorch comes with Triton.
        from models.fused_pixel_refinement import refine_fused

        rng = torch.Generator().manual_seed(0)
        maps, image_rgb = torch.rand(1, block, 9, 40, generator=rng), torch.rand(1, 3, 9, 40, generator=rng)
        refined = refine_fused(maps.to(device), image_rgb.to(device), 2).cpu()
        difference = float((refined - refine_plainly(maps, image_rgb, 2)).abs().max())
        if not difference <= MAX_DIFFERENCE:
            raise ArithmeticError(f"refined maps differ by {difference:.2g}")
    except Exception as error:  # compilers and drivers raise any type; the plain form needs neither
        # Errors of compilers have many lines.
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_CAUSE]
        # Triton loads kernels into the memory of the device, and has no type for the error.
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
            raise torch.OutOfMemoryError(f"no memory to try fused kernels on {device}: {cause}") from error
        message = "pixel refinement on %s of %d maps is slower than it could be, without fused kernels: %s"
        logger.warning(message, device, block, cause)
        return refine_plainly
    return refine_fused


def _average_neighbours(
    maps: Float[Tensor, "b k h w"], weights: Float[Tensor, "b p h w"], num_iterations: int
) -> Float[Tensor, "b k h w"]:
    for _ in range(num_iterations):
        mixed = torch.zeros_like(maps)
        for index, neighbours in enumerate(_shift_to_neighbours(maps)):
            mixed.addcmul_(neighbours, weights[:, index : index + 1])
        maps = mixed
    return maps


def _weigh_neighbours(image_rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p h w"]:
    """Compute the weights of a pixel's neighbours by colour and distance, in the order of `_shift_to_neighbours`."""
    b, _, h, w = image_rgb.shape
    scale = 1 / (COLOUR_SCALE * _compute_colour_std(image_rgb))
    weights = torch.empty(b, NUM_NEIGHBOURS, h, w, device=image_rgb.device)
    for index, neighbours in enumerate(_shift_to_neighbours(image_rgb)):
        weights[:, index] = ((neighbours - image_rgb) * scale).square().mean(1).neg()
    # A softmax in place, as the weights are by far the largest tensor.
    weights -= weights.amax(1, keepdim=True)
    weights.exp_()
    weights /= weights.sum(1, keepdim=True)
    return weights.add_(_weigh_positions(image_rgb.device)).div_(1 + POSITION_WEIGHT)


@cache
def _weigh_positions(device: torch.device) -> Float[Tensor, "p 1 1"]:
    """Compute the position term of every neighbour; once a process, because the copy waits for the device."""
    return (POSITION_WEIGHT * weigh_distances()).flatten()[:, None, None].to(device)


def _compute_colour_std(image_rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Compute the standard deviation of the neighbours' colours around every pixel, by channel."""
    total, squares = torch.zeros_like(image_rgb), torch.zeros_like(image_rgb)
    for neighbours in _shift_to_neighbours(image_rgb):
        # Differences to the pixel have the variance of the colours and are small, so their squares lose no precision.
        difference = neighbours - image_rgb
        total += difference
        squares.addcmul_(difference, difference)
    variance = (squares - total.square() / NUM_NEIGHBOURS) / (NUM_NEIGHBOURS - 1)
    return variance.clamp_min(0).sqrt().clamp_min(MIN_COLOUR_STD)


def weigh_distances() -> Float[Tensor, "dilations directions"]:
    """Compute the weights of a pixel's neighbours by distance alone; they sum to 1."""
    distances = torch.tensor([dilation * math.hypot(*step) for dilation in DILATIONS for step in DIRECTIONS])
    weights = (distances / distances.std() / POSITION_SCALE).square().neg().softmax(0)
    return weights.unflatten(0, (len(DILATIONS), len(DIRECTIONS)))


def _shift_to_neighbours(values: Float[Tensor, "b c h w"]) -> Iterator[Float[Tensor, "b c h w"]]:
    """Yield the values of each neighbour of every pixel, as views; edge pixels repeat beyond the edge."""
    h, w = values.shape[-2:]
    reach = max(DILATIONS)
    padded = functional.pad(values, (reach,) * 4, mode="replicate")
    for dilation in DILATIONS:
        for down, right in DIRECTIONS:
            top, left = reach + dilation * down, reach + dilation * right
            yield padded[..., top : top + h, left : left + w]
