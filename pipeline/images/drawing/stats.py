"""Statistics and quality of a mask, measured without true masks.

None stands for an undefined measure, such as the confidence of a class without pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

STABILITY_STEP = 0.1
"""Step of the threshold, up and down, for the stability of a mask."""


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


def compare_contenders(class_maps: Float[np.ndarray, "k h w"], background: float | None) -> tuple[float, float]:
    """Compute mean margin and mean entropy of the class maps and the background, if any.

    Args:
        class_maps: Evidence in [0, 1].
        background: Value with which the background competes; None: there is none.
    """
    if len(class_maps) == 0:
        # Only the background is left.
        return background or 0.0, 0.0
    contenders = class_maps
    if background is not None:
        contenders = np.concatenate([class_maps, np.full_like(class_maps[:1], background)])
    if len(contenders) == 1:
        # Only one class is left.
        return float(contenders.mean()), 0.0
    best, second = find_two_highest(contenders)
    tiny = np.finfo(np.float32).tiny
    shares = contenders / np.maximum(contenders.sum(0), tiny)
    # 0 log 0 is 0.
    entropy = -(shares * np.log(np.maximum(shares, tiny))).sum(0).mean() / np.log(len(contenders))
    return float((best - second).mean()), float(np.clip(entropy, 0, 1))


def find_two_highest(
    values: Float[np.ndarray, "k h w"],
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Find the highest and the second highest of at least two values of each pixel; faster than to sort a few."""
    best, second = np.maximum(values[0], values[1]), np.minimum(values[0], values[1])
    for one in values[2:]:
        second = np.maximum(second, np.minimum(best, one))
        best = np.maximum(best, one)
    return best, second


def compute_stability(values: Float[np.ndarray, "h w"], threshold: float) -> float | None:
    """Compute the ratio of the pixels above a slightly higher and a slightly lower threshold; None without any."""
    num_low = int(np.count_nonzero(values > threshold - STABILITY_STEP))
    num_high = int(np.count_nonzero(values > threshold + STABILITY_STEP))
    return num_high / num_low if num_low else None


def count_components(selected: Bool[np.ndarray, "h w"]) -> int:
    """Count connected components; pixels that touch at a corner are connected."""
    _, num_components = ndimage.label(selected, structure=np.ones((3, 3), dtype=bool))
    return int(num_components)
