"""How far the views and the heads of a model agree on the classes of a batch of images: work on the device.

Nothing here waits for the device, and the number of operations does not depend on the number of images.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from models.class_maps import scale_min_max


class Presence(NamedTuple):
    """Probability that each class is in each image: mean and standard deviation over views."""

    mean: Float[Tensor, "b c"]
    std: Float[Tensor, "b c"]


def compute_presence(class_logits: Float[Tensor, "v b c"], patch_logits: Float[Tensor, "v b c"] | None) -> Presence:
    """Compute the presence probability of each class: mean and standard deviation over the views.

    The probability of a view is the mean over class tokens and patches, if a model has both. Class tokens learn late
    and patches early; the mean is nearly as good as the better of both (docs/measurements.md).

    Args:
        class_logits: Of each view.
        patch_logits: Of each view; None if the model has none.
    """
    probabilities = class_logits.sigmoid()
    if patch_logits is not None:
        probabilities = (probabilities + patch_logits.sigmoid()) / 2
    std, mean = torch.std_mean(probabilities, dim=0, correction=0)
    return Presence(mean=mean, std=std)


def compute_agreements(groups: Sequence[Float[Tensor, "_ b k gh gw"]], threshold: float) -> list[Float[Tensor, "b k"]]:
    """Compute how far the maps of each group agree on each class: mean IoU over all pairs of maps of a group.

    Args:
        groups: Maps on one grid, of any scale; groups have any number of maps.
        threshold: Each map, scaled to [0, 1], marks the patches above this value.

    Returns:
        Of each group; NaN if it has fewer than two maps or none marks a patch.
    """
    maps = torch.cat(list(groups))
    marked = scale_min_max(maps.flatten(0, 1)).unflatten(0, maps.shape[:2]) > threshold
    iou = _compute_iou(marked.flatten(3).float())
    first, found = 0, []
    for group in groups:
        found.append(_average_pairs(iou, range(first, first + len(group))))
        first += len(group)
    return found


def _compute_iou(marked: Float[Tensor, "v b k n"]) -> Float[Tensor, "b k v v"]:
    """IoU of each pair of masks, of 0 and 1; NaN if both are empty."""
    masks = marked.permute(1, 2, 0, 3)
    # Sums of at most 2^24 ones are exact.
    overlap = masks @ masks.transpose(-2, -1)
    size = overlap.diagonal(dim1=-2, dim2=-1)
    return overlap / (size[..., :, None] + size[..., None, :] - overlap)


def _average_pairs(iou: Float[Tensor, "b k v v"], places: Sequence[int]) -> Float[Tensor, "b k"]:
    """Mean over the pairs of some maps that are not NaN. Selected as views: the device would wait for an index."""
    pairs = [iou[..., a, b] for a, b in combinations(places, 2)]
    if len(pairs) == 1:
        return pairs[0]
    return torch.stack(pairs, -1).nanmean(-1) if pairs else torch.full_like(iou[..., 0, 0], torch.nan)
