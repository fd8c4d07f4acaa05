"""Pixel counts of masks against true masks, and the scores that follow from them.

Pixels are counted by (true class, class of the mask), and for the curve by (true class, best class, value of its map).
The scores at every threshold follow from sums of these counts.

A pixel whose truth is 255 is not counted. A pixel that the mask ignores (255) has no class: it misses its true class.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from pipeline.errors import ManifestError
from pipeline.evaluation.boundaries import NUM_COUNTS
from pipeline.run.records import IGNORE_LABEL

NUM_THRESHOLDS = 100
"""Thresholds of the curve: 0, 0.01 .. 0.99."""


@dataclass(frozen=True, kw_only=True)
class EvaluationCounts:
    """Counts of images and pixels; c classes without the background. Merging is associative and commutative."""

    confusion: Int[np.ndarray, "c_plus_1 c_plus_2"]
    """Pixels by true class and class of the mask; the last column counts pixels that the mask ignores."""
    histogram: Int[np.ndarray, "c_plus_1 c_plus_1 bins"]
    """Pixels by true class, best class, and number of thresholds below the best map."""
    boundaries: Int[np.ndarray, "c 4"]
    """Pixels on and near edges, by class; columns are described at `boundaries.NUM_COUNTS`."""
    num_images: int = 0
    """Labelled images with a usable true mask."""
    num_without_truth: int = 0
    num_rejected: int = 0
    num_without_maps: int = 0
    num_bad_truth: int = 0
    """Labelled images whose true mask cannot be used."""
    num_tagged: int = 0
    """Scored images with tags of the vocabulary."""
    num_tagged_without_class: int = 0
    """Those whose true mask has no class."""
    num_tagged_binary: int = 0
    """Those of the latter whose true mask has both 0 and 255."""
    num_tagged_other_class: int = 0
    """Tagged images whose true mask has classes, but none of the tags."""

    def merge(self, other: "EvaluationCounts") -> "EvaluationCounts":
        """Sum of two counts."""
        return EvaluationCounts(**{name: value + vars(other)[name] for name, value in vars(self).items()})


class Scores(NamedTuple):
    """IoU, precision and recall of masks, by class and overall."""

    iou: Float[np.ndarray, " c_plus_1"]
    """Per class, background first; NaN for a class that neither truth nor masks contain."""
    mean_iou: float
    """Mean over the classes that have an IoU."""
    precision: Float[np.ndarray, " c_plus_1"]
    """Per class; NaN for a class that no mask contains."""
    recall: Float[np.ndarray, " c_plus_1"]
    """Per class; NaN for a class that no truth contains."""
    pixel_accuracy: float
    open_fraction: float
    """Share of the counted pixels that the masks ignore."""


def make_empty_counts(num_classes: int) -> EvaluationCounts:
    """Counts that are all zero."""
    side = num_classes + 1
    return EvaluationCounts(
        confusion=np.zeros((side, side + 1), np.int64),
        histogram=np.zeros((side, side, NUM_THRESHOLDS + 1), np.int64),
        boundaries=np.zeros((num_classes, NUM_COUNTS), np.int64),
    )


def score_masks(counts: EvaluationCounts) -> Scores:
    """Scores of the masks at the thresholds of their run."""
    return score_confusion(counts.confusion)


def score_curve(counts: EvaluationCounts) -> list[Scores]:
    """Scores of the kept class maps at each threshold.

    The mask at a threshold has the best class where its map exceeds the threshold, else background.

    Raises:
        ManifestError: A labelled image has no kept maps.
    """
    if counts.num_without_maps:
        raise ManifestError(
            f"{counts.num_without_maps} of {counts.num_images} images have no class maps; "
            "label with --maps.keep-maps for the curve over thresholds"
        )
    curve = []
    for index in range(NUM_THRESHOLDS):
        confusion = np.zeros_like(counts.confusion)
        confusion[:, :-1] = counts.histogram[:, :, index + 1 :].sum(-1)
        confusion[:, 0] += counts.histogram[:, :, : index + 1].sum((1, 2))
        curve.append(score_confusion(confusion))
    return curve


def score_confusion(confusion: Int[np.ndarray, "c_plus_1 c_plus_2"]) -> Scores:
    """Compute IoU, precision and recall from a confusion matrix, whose last column counts ignored pixels of masks."""
    predicted = confusion[:, :-1]
    hits = np.diag(predicted)
    union = confusion.sum(1) + predicted.sum(0) - hits
    total = confusion.sum()
    iou = _divide(hits, union)
    return Scores(
        iou=iou,
        mean_iou=float(np.nanmean(iou)) if total else float("nan"),
        precision=_divide(hits, predicted.sum(0)),
        recall=_divide(hits, confusion.sum(1)),
        pixel_accuracy=float(hits.sum() / total) if total else float("nan"),
        open_fraction=float(confusion[:, -1].sum() / total) if total else float("nan"),
    )


def _divide(numbers: Int[np.ndarray, " n"], totals: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.where(totals > 0, numbers / np.maximum(totals, 1), np.nan)


def count_pixels(
    truth: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], num_classes: int
) -> Int[np.ndarray, "c_plus_1 c_plus_2"]:
    """Count pixels by true class and class of the mask; the last column counts ignored pixels of the mask."""
    side = num_classes + 1
    counted = truth != IGNORE_LABEL
    predicted = np.where(mask == IGNORE_LABEL, side, mask).astype(np.int64)
    index = truth[counted].astype(np.int64) * (side + 1) + predicted[counted]
    return np.bincount(index, minlength=side * (side + 1)).reshape(side, side + 1)


def count_best(
    truth: UInt8[np.ndarray, "h w"],
    best: Float[np.ndarray, "h w"],
    best_class: Int[np.ndarray, "h w"],
    num_classes: int,
) -> Int[np.ndarray, "c_plus_1 c_plus_1 bins"]:
    """Count pixels by true class, best class, and number of thresholds below the best class map.

    Args:
        truth: Class of each pixel; 255 is ignored.
        best: Highest class map of each pixel, in [0, 1].
        best_class: Class of that map.
        num_classes: Without the background.
    """
    # In single precision, as masks are made.
    thresholds = (np.arange(NUM_THRESHOLDS) / NUM_THRESHOLDS).astype(np.float32)
    num_exceeded = np.searchsorted(thresholds, best, side="left")
    side, num_bins = num_classes + 1, NUM_THRESHOLDS + 1
    counted = truth != IGNORE_LABEL
    index = (truth[counted].astype(np.int64) * side + best_class[counted]) * num_bins + num_exceeded[counted]
    return np.bincount(index, minlength=side * side * num_bins).reshape(side, side, num_bins)
