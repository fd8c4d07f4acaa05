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


def compute_presence(
    class_logits: Sequence[Float[Tensor, "b c"]], patch_logits: Sequence[Float[Tensor, "b c"] | None]
) -> Presence:
    """Compute the presence probability of each class: mean and standard deviation over the views.

    The probability of a view is the mean over class tokens and patches, if a model has both. Class tokens learn late
    and patches early; the mean is nearly as good as the better of both (docs/measurements.md).

    Args:
        class_logits: Of each view.
        patch_logits: Of each view; all None if the model has none.
    """
    probabilities = torch.stack(list(class_logits)).float().sigmoid()
    by_patch = [logits for logits in patch_logits if logits is not None]
    if by_patch:
        probabilities = (probabilities + torch.stack(by_patch).float().sigmoid()) / 2
    return Presence(mean=probabilities.mean(dim=0), std=probabilities.std(dim=0, correction=0))


def compute_agreement(maps: Float[Tensor, "v b k gh gw"], threshold: float) -> Float[Tensor, "b k"]:
    """Compute the agreement of several maps of each class: mean IoU over all pairs of maps.

    Args:
        maps: On one grid, of any scale.
        threshold: Each map, scaled to [0, 1], marks the patches above this value.

    Returns:
        NaN if there are fewer than two maps or none marks a patch.
    """
    marked = scale_min_max(maps.flatten(0, 1)).unflatten(0, maps.shape[:2]) > threshold
    return _compute_mean_iou(marked.flatten(3).float())


def _compute_mean_iou(marked: Float[Tensor, "v b k n"]) -> Float[Tensor, "b k"]:
    """Mean IoU over the pairs of masks, 0 and 1; NaN if all pairs are empty."""
    masks = marked.permute(1, 2, 0, 3)
    # Sums of at most 2^24 ones are exact.
    overlap = masks @ masks.transpose(-2, -1)
    size = overlap.diagonal(dim1=-2, dim2=-1)
    union = size[..., :, None] + size[..., None, :] - overlap
    pairs = list(combinations(range(len(marked)), 2))
    # An empty pair is 0 / 0, and the mean of no pairs is NaN.
    return (_select_pairs(overlap, pairs) / _select_pairs(union, pairs)).nanmean(-1)


def _select_pairs(values: Float[Tensor, "b k v v"], pairs: Sequence[tuple[int, int]]) -> Float[Tensor, "b k pairs"]:
    """Select the values of pairs: as views, because an index would have to be copied to the device."""
    return torch.stack([values[..., a, b] for a, b in pairs], -1) if pairs else values[..., 0, :0]
