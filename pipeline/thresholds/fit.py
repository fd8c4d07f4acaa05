"""Thresholds from true masks: one for all classes, then one for each class, by coordinate ascent on the mean IoU.

With a threshold for each class, a pixel belongs to the class whose map is highest relative to its threshold. One
threshold with `MapConfig.class_scales` expresses the same, and that is what is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pipeline.evaluation.scores import NUM_THRESHOLDS, count_best, make_empty_counts, score_confusion, score_curve
from pipeline.run.records import IGNORE_LABEL
from pipeline.thresholds.samples import MapSample

LOWEST, HIGHEST = 0.01, 0.99
"""Range of the threshold of a class."""
FACTORS = 2.0 ** (np.arange(-8, 9) / 8)
"""Factors tried on the threshold of one class: down to half and up to double, in each round."""
MAX_ROUNDS = 6
MIN_GAIN = 1e-4
"""Gain in mean IoU below which a threshold stays."""
MIN_IMAGES = 10
"""A class with fewer images keeps the common threshold."""


@dataclass(frozen=True)
class PixelTable:
    """Sampled pixels of many images that have a truth (not 255); k is the largest number of classes of an image."""

    values: Float[np.ndarray, "p k"]
    """Class maps; 0 where an image has fewer classes."""
    ids: UInt8[np.ndarray, "n k"]
    """Classes of each image; 0 where it has fewer."""
    image: Int[np.ndarray, " p"]
    """Index of the image of each pixel."""
    truth: UInt8[np.ndarray, " p"]
    num_classes: int

    @cached_property
    def has_class(self) -> Bool[np.ndarray, "n c_plus_1"]:
        """True where an image is tagged with a class."""
        return np.stack([(self.ids == class_id).any(1) for class_id in range(self.num_classes + 1)], axis=1)

    def take(self, wanted: Bool[np.ndarray, " n"]) -> "PixelTable":
        """Table of the pixels of some images; the indices of images stay."""
        kept = wanted[self.image]
        return PixelTable(self.values[kept], self.ids, self.image[kept], self.truth[kept], self.num_classes)


def make_table(samples: Sequence[MapSample], num_classes: int) -> PixelTable:
    """Join samples with truth into one table."""
    most = max((len(sample.class_ids) for sample in samples), default=1)
    ids = np.zeros((len(samples), most), np.uint8)
    values, image, truth = [np.zeros((0, most), np.float32)], [np.zeros(0, np.int32)], [np.zeros(0, np.uint8)]
    for number, sample in enumerate(samples):
        assert sample.truth is not None
        counted = sample.truth != IGNORE_LABEL
        ids[number, : len(sample.class_ids)] = sample.class_ids
        values.append(np.zeros((int(counted.sum()), most), np.float32))
        values[-1][:, : len(sample.class_ids)] = sample.maps[:, counted].T
        truth.append(sample.truth[counted])
        image.append(np.full(len(truth[-1]), number, np.int32))
    return PixelTable(np.concatenate(values), ids, np.concatenate(image), np.concatenate(truth), num_classes)


def count_confusion(table: PixelTable, thresholds: Float[np.ndarray, " c"]) -> Int[np.ndarray, "c_plus_1 c_plus_2"]:
    """Count pixels by true class and class of the mask, at one threshold for each class."""
    # Class 0 stands for no class: its map is zero, and a value divided by infinity is not above 1.
    by_id = np.concatenate([[np.inf], thresholds]).astype(np.float32)
    relative = table.values / by_id[table.ids][table.image]
    place = relative.argmax(1)
    rows = np.arange(len(place))
    winner = np.where(relative[rows, place] > 1, table.ids[table.image, place], 0)
    side = table.num_classes + 1
    index = table.truth.astype(np.int64) * (side + 1) + winner
    return np.bincount(index, minlength=side * (side + 1)).reshape(side, side + 1)


def score_thresholds(table: PixelTable, thresholds: Float[np.ndarray, " c"]) -> float:
    """Mean IoU over background and classes, at one threshold for each class."""
    return score_confusion(count_confusion(table, thresholds)).mean_iou


def fit_common(table: PixelTable) -> Float[np.ndarray, " c"]:
    """Find the common threshold with the highest mean IoU, repeated for each class."""
    place = table.values.argmax(1)
    best_class = table.ids[table.image, place].astype(np.int64)
    best = table.values[np.arange(len(place)), place]
    histogram = count_best(table.truth[None], best[None], best_class[None], table.num_classes)
    counts = replace(make_empty_counts(table.num_classes), histogram=histogram)
    curve = [scores.mean_iou for scores in score_curve(counts)]
    # A common threshold of 0 would leave no class scale above 0.
    return np.full(table.num_classes, (1 + int(np.argmax(curve[1:]))) / NUM_THRESHOLDS)


def fit_by_class(table: PixelTable, start: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    """Improve the thresholds class by class until no change of one gains `MIN_GAIN`."""
    thresholds = start.copy()
    by_class = [table.take(table.has_class[:, class_id]) for class_id in range(1, table.num_classes + 1)]
    total = count_confusion(table, thresholds)
    for _ in range(MAX_ROUNDS):
        before = thresholds.copy()
        for index, part in enumerate(by_class):
            if table.has_class[:, index + 1].sum() < MIN_IMAGES:
                continue
            # Only images with the class can change.
            others = total - count_confusion(part, thresholds)
            thresholds[index] = _improve_class(others, part, thresholds, index)
            total = others + count_confusion(part, thresholds)
        if np.array_equal(before, thresholds):
            break
    return thresholds


def _improve_class(
    others: Int[np.ndarray, "c_plus_1 c_plus_2"], part: PixelTable, thresholds: Float[np.ndarray, " c"], index: int
) -> float:
    """Find the best threshold of one class with the others fixed."""
    highest = score_confusion(others + count_confusion(part, thresholds)).mean_iou + MIN_GAIN
    best = float(thresholds[index])
    for factor in FACTORS:
        tried = thresholds.copy()
        tried[index] = np.clip(thresholds[index] * factor, LOWEST, HIGHEST)
        score = score_confusion(others + count_confusion(part, tried)).mean_iou
        if score > highest:
            best, highest = float(tried[index]), score
    return best


def to_scales(thresholds: Float[np.ndarray, " c"]) -> tuple[float, tuple[float, ...] | None]:
    """Convert thresholds of the classes to one threshold and a factor in (0, 1] for each map.

    >>> to_scales(np.array([0.2, 0.4]))
    (0.2, (1.0, 0.5))
    >>> to_scales(np.array([0.3, 0.3]))
    (0.3, None)
    """
    lowest = float(thresholds.min())
    if (thresholds == lowest).all():
        return round(lowest, 6), None
    return round(lowest, 6), tuple(round(lowest / float(value), 6) for value in thresholds)
