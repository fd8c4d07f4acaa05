"""Statistics and quality of a mask, measured without true masks.

None stands for an undefined measure, such as the confidence of a class without pixels.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from torch import Tensor

from models.class_maps import scale_min_max
from pipeline.run.records import IGNORE_LABEL

STABILITY_STEP = 0.1
"""Step of the threshold, up and down, for the stability of a mask."""

MAX_SAMPLED_SIDE_PX = 256
"""Measures of shape and margin use every n-th pixel of larger images: the maps come from a few dozen patches a side."""


class ClassMaskStats(NamedTuple):
    """Statistics of one class in a mask."""

    area_fraction: float
    """Share of the image's pixels."""
    confidence_mean: float | None
    """Mean of the class map over the pixels of the class."""
    stability: float | None
    """Pixels above a slightly higher threshold over pixels above a slightly lower one; 1 means a sharp edge."""
    components: int
    """Connected components; pixels that touch at a corner are connected."""


class MaskStats(NamedTuple):
    """Statistics of a mask and its class maps."""

    ignore_fraction: float
    background_fraction: float
    margin_mean: float
    """Highest value minus second highest, mean over pixels; the background competes with its threshold."""
    entropy_mean: float
    """Normalised entropy of the values' shares, mean over pixels; 0: one has all, 1: all are equal."""
    classes: tuple[ClassMaskStats, ...]
    """In the order of the class maps."""


class Presence(NamedTuple):
    """Probability that each class is in the image: mean and standard deviation over views."""

    mean: Float[Tensor, " c"]
    std: Float[Tensor, " c"]


def compute_mask_stats(
    class_maps: Float[Tensor, "k h w"],
    mask: UInt8[Tensor, "h w"],
    class_ids: Sequence[int],
    background_threshold: float,
    foreground_threshold: float,
    *,
    has_background: bool = True,
) -> MaskStats:
    """Measure a pseudo label and its class maps.

    Fractions and confidence are exact; other measures use at most `MAX_SAMPLED_SIDE_PX` pixels a side.

    Args:
        class_maps: Evidence in [0, 1], at the size of the mask.
        mask: Pseudo label.
        class_ids: Class of each map.
        background_threshold: As for `masks.label_pixels`. The background competes with the mean of both thresholds.
        foreground_threshold: As for `masks.label_pixels`; stability is measured around it.
        has_background: As for `masks.label_pixels`. Without it, stability measures the lead of a class over the others.
    """
    pixels = mask.cpu().numpy()
    num_of = np.bincount(pixels.ravel(), minlength=256)
    step = -(-max(mask.shape) // MAX_SAMPLED_SIDE_PX)
    sampled_maps, sampled_pixels = class_maps[:, ::step, ::step], pixels[::step, ::step]
    background = (background_threshold + foreground_threshold) / 2 if has_background else None
    margin, entropy = _compare_contenders(sampled_maps, background)
    # A class competes with the threshold, or with the other classes.
    contested, line = (sampled_maps, foreground_threshold) if has_background else (_compute_leads(sampled_maps), 0.0)
    classes = tuple(
        ClassMaskStats(
            area_fraction=float(num_of[class_id] / pixels.size),
            confidence_mean=_compute_confidence(class_maps[index], mask == class_id),
            stability=_compute_stability(contested[index], line),
            components=_count_components(sampled_pixels == class_id),
        )
        for index, class_id in enumerate(class_ids)
    )
    return MaskStats(
        ignore_fraction=float(num_of[IGNORE_LABEL] / pixels.size),
        background_fraction=float(num_of[0] / pixels.size),
        margin_mean=margin,
        entropy_mean=entropy,
        classes=classes,
    )


def compute_quality(stabilities: Sequence[float | None]) -> float:
    """Quality of a mask in [0, 1]: the stability of its least stable class.

    A class map with a steep edge has nearly the same mask at all thresholds near the chosen one; a map that fades out
    has no clear edge. A mask is as good as its worst class. No other measure here, and no tried product or mean
    of them, correlates better with the true IoU for both of two different models (docs/measurements.md).

    Args:
        stabilities: Of the classes to draw; None for a class without evidence, which counts as 0.

    Returns:
        0 if there are no classes.
    """
    return min((stability or 0.0 for stability in stabilities), default=0.0)


def join_mask_stats(
    classes: Sequence[Mapping[str, Any]], stats: MaskStats, doubtful_class_ids: Sequence[int]
) -> dict[str, Any]:
    """Statistics columns of a row: those of the mask, its quality, and those of each class.

    Args:
        classes: Known columns of each class; those of `stats` replace columns of the same name.
        stats: Of the mask, with the same classes in order.
        doubtful_class_ids: Classes left out of the mask.
    """
    joined = [{**known, **found._asdict()} for known, found in zip(classes, stats.classes, strict=True)]
    quality = compute_quality([one["stability"] for one in joined if one["class_id"] not in doubtful_class_ids])
    doubtful = {"quality": quality, "doubtful_class_ids": list(doubtful_class_ids)}
    return stats._asdict() | doubtful | {"classes": joined}


def compute_presence(class_logits: Float[Tensor, "v c"], patch_logits: Float[Tensor, "v c"] | None) -> Presence:
    """Compute the presence probability of each class: mean and standard deviation over the views.

    The probability of a view is the mean over class tokens and patches, if a model has both. Class tokens learn late
    and patches early; the mean is nearly as good as the better of both (docs/measurements.md).
    """
    probabilities = class_logits.float().sigmoid()
    if patch_logits is not None:
        probabilities = (probabilities + patch_logits.float().sigmoid()) / 2
    return Presence(mean=probabilities.mean(dim=0), std=probabilities.std(dim=0, correction=0))


def compute_iou(a: Bool[Tensor, "h w"], b: Bool[Tensor, "h w"]) -> float | None:
    """Compute the intersection over union of two masks; None if both are empty.

    >>> compute_iou(torch.tensor([[True, True]]), torch.tensor([[True, False]]))
    0.5
    """
    num_union = int((a | b).sum())
    return int((a & b).sum()) / num_union if num_union else None


def compute_view_agreement(view_maps: Float[Tensor, "v k gh gw"], threshold: float) -> list[float | None]:
    """Compute the agreement of the views on each class: mean IoU over all pairs of views.

    Args:
        view_maps: Maps of each view on one grid, in the frame, each scaled to [0, 1].
        threshold: A view marks the patches above this value.

    Returns:
        One value for each class; None if there are fewer than two views or none marks a patch.
    """
    marked = (view_maps > threshold).cpu()
    return [_compute_mean_iou(marked[:, index]) for index in range(marked.shape[1])]


def compute_head_agreement(
    attention: Float[Tensor, "k gh gw"], patch_cam: Float[Tensor, "k gh gw"], threshold: float
) -> list[float | None]:
    """Compute for each class the IoU of the patches that attention and patch CAM mark alone.

    Args:
        attention: Class-to-patch attention, before min-max.
        patch_cam: After ReLU, before min-max.
        threshold: Applied to both after min-max.
    """
    return compute_view_agreement(scale_min_max(torch.stack([attention, patch_cam])), threshold)


def _compare_contenders(class_maps: Float[Tensor, "k h w"], background: float | None) -> tuple[float, float]:
    """Mean margin and mean entropy of the class maps and the background, if any."""
    if len(class_maps) == 0:
        # Only the background is left.
        return background or 0.0, 0.0
    contenders = class_maps
    if background is not None:
        contenders = torch.cat([class_maps, class_maps.new_full((1, *class_maps.shape[1:]), background)])
    if len(contenders) == 1:
        # Only one class is left.
        return float(contenders.mean()), 0.0
    best, second = contenders.topk(2, dim=0).values
    shares = contenders / contenders.sum(dim=0).clamp_min(torch.finfo(contenders.dtype).tiny)
    entropy = torch.special.entr(shares).sum(dim=0) / np.log(len(contenders))
    return float((best - second).mean()), float(entropy.mean().clamp(0, 1))


def _compute_confidence(class_map: Float[Tensor, "h w"], selected: Bool[Tensor, "h w"]) -> float | None:
    chosen = class_map[selected]
    return float(chosen.mean()) if chosen.numel() else None


def _compute_leads(class_maps: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
    """Lead of each class map over the highest other map; 1 if there is no other map."""
    if len(class_maps) == 1:
        return torch.ones_like(class_maps)
    first, second = class_maps.topk(2, dim=0).values
    return class_maps - torch.where(class_maps == first, second, first)


def _compute_stability(values: Float[Tensor, "h w"], threshold: float) -> float | None:
    num_low = int((values > threshold - STABILITY_STEP).sum())
    num_high = int((values > threshold + STABILITY_STEP).sum())
    return num_high / num_low if num_low else None


def _count_components(selected: Bool[np.ndarray, "h w"]) -> int:
    _, num_components = ndimage.label(selected, structure=np.ones((3, 3), dtype=bool))
    return int(num_components)


def _compute_mean_iou(marked: Bool[Tensor, "v gh gw"]) -> float | None:
    overlaps = [compute_iou(marked[a], marked[b]) for a, b in combinations(range(len(marked)), 2)]
    defined = [overlap for overlap in overlaps if overlap is not None]
    return sum(defined) / len(defined) if defined else None
