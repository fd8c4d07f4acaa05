"""Ranking metrics of scores: the average precision of each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from pipeline.training.events import ValidationRecord


@dataclass(frozen=True, kw_only=True)
class RankingMetrics:
    """Average precision over a set of images."""

    average_precision: dict[str, float]
    """In [0, 1], by class name, in the order of the classes; without the classes that no image shows."""
    without_positives: tuple[str, ...]
    """The classes that no image shows."""
    num_images: int

    @property
    def mean_average_precision(self) -> float | None:
        """Mean over the classes that some image shows; None if there is no such class."""
        if not self.average_precision:
            return None
        return sum(self.average_precision.values()) / len(self.average_precision)

    def describe(self) -> ValidationRecord:
        """Convert to plain values for JSON."""
        return {
            "mean_average_precision": self.mean_average_precision,
            "average_precision": dict(self.average_precision),
            "without_positives": list(self.without_positives),
            "num_images": self.num_images,
        }


def compute_average_precision(scores: Float[np.ndarray, " n"], is_positive: Bool[np.ndarray, " n"]) -> float:
    """Compute the area under the precision-recall steps of one class, in [0, 1].

    Equal scores form one step, so their order has no effect.

    Raises:
        ValueError: No image is positive, or a score is NaN.

    >>> compute_average_precision(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
    0.8333333333333333
    """
    if not is_positive.any():
        raise ValueError("average precision needs at least one positive image, got none; leave the class out")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN; has the training diverged?")
    order = np.argsort(-scores, kind="stable")
    last_of_step = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    num_found = np.cumsum(is_positive[order])[last_of_step]
    precision = num_found / (last_of_step + 1)
    recall = num_found / is_positive.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def compute_ranking_metrics(
    scores: Float[np.ndarray, "n c"], image_labels: Bool[np.ndarray, "n c"], class_names: Sequence[str]
) -> RankingMetrics:
    """Compute the average precision of every class that at least one image shows.

    Args:
        scores: Of any scale; a higher score is more likely.
        image_labels: True for the classes present in an image.
        class_names: In the order of the columns.
    """
    shown = [bool(image_labels[:, index].any()) for index in range(len(class_names))]
    return RankingMetrics(
        average_precision={
            name: compute_average_precision(scores[:, index], image_labels[:, index])
            for index, name in enumerate(class_names)
            if shown[index]
        },
        without_positives=tuple(name for index, name in enumerate(class_names) if not shown[index]),
        num_images=len(scores),
    )
