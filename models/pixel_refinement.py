"""Class maps drawn to the edges of their image: what a grid of patches is too coarse to show.

Plain tensor work without weights. Each image is refined by itself, whatever shares its batch.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

DILATIONS = (1, 2, 4, 8, 12, 24)
"""Distances in pixels at which a pixel looks at its 8 neighbours; those of the authors of PAMR and of PAR."""
DIRECTIONS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Steps (down, right) to the 8 neighbours."""
NUM_NEIGHBOURS = len(DILATIONS) * len(DIRECTIONS)
COLOUR_SCALE = 0.3
"""Local standard deviations of colour after which a neighbour's weight has fallen by a factor of e (PAR's w1)."""
POSITION_SCALE = 0.3
"""The same for its distance, in standard deviations of the distances of all neighbours (PAR's w1)."""
POSITION_WEIGHT = 0.01
"""What nearness weighs beside likeness in colour, which weighs 1 (PAR's w2)."""
MIN_COLOUR_STD = 1e-6
"""Floor of the local standard deviation, far below a grey level (1 / 255): only flat areas reach it."""
MAX_WEIGHTS = 2**26
"""Weights held at once on a device, 256 MiB; images beyond that are refined one group after the other."""


def refine_by_pixels(
    class_maps: Float[Tensor, "b k h w"], image_rgb: Float[Tensor, "b 3 h w"], *, num_iterations: int
) -> Float[Tensor, "b k h w"]:
    """Average class maps, again and again, over those neighbours of each pixel that have its colour.

    The weights of a pixel's neighbours sum to 1. So a constant map stays as it is, no value leaves the range of its
    map, and scaling or shifting a map commutes with refining it. A background that contends with one value
    everywhere, which is what a threshold is, therefore needs no map of its own: refined with the others it would
    be the same threshold.

    Args:
        class_maps: Any scale.
        image_rgb: What the maps belong to, in [0, 1].
        num_iterations: Rounds of averaging. 0 leaves the maps as they are; a round carries at most 24 pixels far.

    Returns:
        float32, computed in float32 whatever the inputs are. On a CPU equal bytes for an image in any batch.

    Raises:
        ValueError: `num_iterations` is negative.

    Source: Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020), pixel-adaptive mask
    refinement (PAMR), in the form of Ru et al., "Learning Affinity from Attention" (CVPR 2022), pixel-adaptive
    refinement (PAR), with its constants:
    weight = softmax(-mean over rgb of (|difference| / (w1 std))^2) + w2 softmax(-(distance / (w1 std))^2). There the
    weights sum to 1 + w2, so that maps grow with every round; here they are normalised. Neighbours are read as
    shifted views and added up one at a time, so that no copy of the maps is made for each of them.
    """
    if num_iterations < 0:
        raise ValueError(f"need num_iterations >= 0, got {num_iterations}")
    h, w = class_maps.shape[-2:]
    # Kernels for CPUs round differently at the end of a tensor, so no image may share one with others.
    group = 1 if class_maps.device.type == "cpu" else max(1, MAX_WEIGHTS // (NUM_NEIGHBOURS * h * w))
    refined = [
        _average(maps, _weigh_neighbours(rgb), num_iterations)
        for maps, rgb in zip(class_maps.float().split(group), image_rgb.float().split(group), strict=True)
    ]
    return torch.cat(refined) if refined else class_maps.float()


def _average(
    maps: Float[Tensor, "b k h w"], weights: Float[Tensor, "b p h w"], num_iterations: int
) -> Float[Tensor, "b k h w"]:
    for _ in range(num_iterations):
        mixed = torch.zeros_like(maps)
        for index, neighbours in enumerate(_shift(maps)):
            mixed.addcmul_(neighbours, weights[:, index : index + 1])
        maps = mixed
    return maps


def _weigh_neighbours(image_rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p h w"]:
    """Weigh the neighbours of every pixel, in the order of `_shift`: by colour, and a little by distance."""
    b, _, h, w = image_rgb.shape
    scale = 1 / (COLOUR_SCALE * _compute_colour_std(image_rgb))
    weights = torch.empty(b, NUM_NEIGHBOURS, h, w, device=image_rgb.device)
    for index, neighbours in enumerate(_shift(image_rgb)):
        weights[:, index] = ((neighbours - image_rgb) * scale).square().mean(1).neg()
    # A softmax in place: the weights are by far the largest tensor here.
    weights -= weights.amax(1, keepdim=True)
    weights.exp_()
    weights /= weights.sum(1, keepdim=True)
    nearness = _weigh_distances().to(image_rgb.device)[:, None, None]
    return weights.add_(POSITION_WEIGHT * nearness).div_(1 + POSITION_WEIGHT)


def _compute_colour_std(image_rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Compute the standard deviation of the neighbours' colours around every pixel, by channel."""
    total, squares = torch.zeros_like(image_rgb), torch.zeros_like(image_rgb)
    for neighbours in _shift(image_rgb):
        # Differences to the pixel vary as the colours do, and are small where squares must not swamp them.
        difference = neighbours - image_rgb
        total += difference
        squares.addcmul_(difference, difference)
    variance = (squares - total.square() / NUM_NEIGHBOURS) / (NUM_NEIGHBOURS - 1)
    return variance.clamp_min(0).sqrt().clamp_min(MIN_COLOUR_STD)


def _weigh_distances() -> Float[Tensor, " p"]:
    distances = torch.tensor([dilation * math.hypot(*step) for dilation in DILATIONS for step in DIRECTIONS])
    return (distances / distances.std() / POSITION_SCALE).square().neg().softmax(0)


def _shift(values: Float[Tensor, "b c h w"]) -> Iterator[Float[Tensor, "b c h w"]]:
    """Give the values of each neighbour at every pixel, as views; beyond its edges an image goes on as it ends."""
    h, w = values.shape[-2:]
    reach = max(DILATIONS)
    padded = functional.pad(values, (reach,) * 4, mode="replicate")
    for dilation in DILATIONS:
        for down, right in DIRECTIONS:
            top, left = reach + dilation * down, reach + dilation * right
            yield padded[..., top : top + h, left : left + w]
