"""Pixel counts of masks against true masks, and the scores that follow from them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from pipeline.errors import ManifestError
from pipeline.evaluation.boundaries import NUM_COUNTS
from pipeline.run.records import IGNORE_LABEL

NUM_THRESHOLDS = 100
"""The curve has the thresholds 0, 0.01 .. 0.99."""


@dataclass(frozen=True, kw_only=True)
class EvaluationCounts:
    """What was counted; c classes besides the background. Merging is associative and commutative."""

    confusion: Int[np.ndarray, "c_plus_1 c_plus_2"]
    """Pixels by true class and class of the mask; the last column are pixels that the mask leaves open."""
    histogram: Int[np.ndarray, "c_plus_1 c_plus_1 bins"]
    """Pixels by true class, best class, and number of thresholds that the best map exceeds."""
    boundaries: Int[np.ndarray, "c 4"]
    """Pixels on and near edges, by class: `pipeline.evaluation.boundaries.NUM_COUNTS`."""
    num_images: int = 0
    num_without_truth: int = 0
    num_rejected: int = 0
    num_without_maps: int = 0

    def merge(self, other: "EvaluationCounts") -> "EvaluationCounts":
        """Add up two counts."""
        return EvaluationCounts(
            confusion=self.confusion + other.confusion,
            histogram=self.histogram + other.histogram,
            boundaries=self.boundaries + other.boundaries,
            num_images=self.num_images + other.num_images,
            num_without_truth=self.num_without_truth + other.num_without_truth,
            num_rejected=self.num_rejected + other.num_rejected,
            num_without_maps=self.num_without_maps + other.num_without_maps,
        )


class Scores(NamedTuple):
    """How good masks are."""

    iou: Float[np.ndarray, " c_plus_1"]
    """Per class, the background first; NaN where a class is neither in truth nor in any mask."""
    mean_iou: float
    """Over the classes that have an IoU."""
    precision: Float[np.ndarray, " c_plus_1"]
    """Share of the pixels of a class in the masks that are right; NaN where no mask shows it."""
    recall: Float[np.ndarray, " c_plus_1"]
    """Share of the true pixels of a class that the masks find; NaN where no truth shows it."""
    pixel_accuracy: float
    open_fraction: float
    """Share of the counted pixels that the masks leave open."""


def make_empty_counts(num_classes: int) -> EvaluationCounts:
    """Make counts of nothing."""
    side = num_classes + 1
    return EvaluationCounts(
        confusion=np.zeros((side, side + 1), np.int64),
        histogram=np.zeros((side, side, NUM_THRESHOLDS + 1), np.int64),
        boundaries=np.zeros((num_classes, NUM_COUNTS), np.int64),
    )


def score_masks(counts: EvaluationCounts) -> Scores:
    """Score the masks as they are, at the thresholds of the run."""
    return score_confusion(counts.confusion)


def score_curve(counts: EvaluationCounts) -> list[Scores]:
    """Score the kept maps at each threshold t: the best class where its map exceeds t, else background.

    Raises:
        ManifestError: Some labelled image has no kept maps.
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
    """Score masks by their pixels by true class and class of the mask; the last column are pixels left open."""
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
    """Count pixels by true class and class of the mask; ignored pixels of the mask go to the last column."""
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
    """Count pixels by true class, best class, and number of thresholds that the best class map exceeds."""
    # How many of 0, 0.01 .. 0.99 lie below the value; in single precision, in which masks are made.
    thresholds = (np.arange(NUM_THRESHOLDS) / NUM_THRESHOLDS).astype(np.float32)
    num_exceeded = np.searchsorted(thresholds, best, side="left")
    side, num_bins = num_classes + 1, NUM_THRESHOLDS + 1
    counted = truth != IGNORE_LABEL
    index = (truth[counted].astype(np.int64) * side + best_class[counted]) * num_bins + num_exceeded[counted]
    return np.bincount(index, minlength=side * side * num_bins).reshape(side, side, num_bins)
