"""Rank correlation of the columns of a manifest with the true IoU of its masks.

Each column is described by Spearman's correlation with the true IoU, and by the mean IoU of the tenth of the images, or
classes, where the column is lowest and where it is highest.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from scipy.stats import spearmanr

from pipeline.run.records import IGNORE_LABEL

IMAGE_COLUMNS = ("quality", "margin_mean", "entropy_mean", "background_fraction", "ignore_fraction")
CLASS_COLUMNS = (
    "stability",
    "confidence_mean",
    "presence",
    "presence_std",
    "raw_peak",
    "view_agreement",
    "head_agreement",
    "area_fraction",
    "components",
)
NUM_BINS = 10
MIN_VALUES = 2 * NUM_BINS
"""Columns with fewer values are not ranked."""


class ScoredClass(NamedTuple):
    """A tagged class of an image, with its true IoU."""

    iou: float
    columns: Mapping[str, float | None]


class ScoredImage(NamedTuple):
    """A labelled image that has a true mask."""

    manifest_uri: str
    place: int
    """Index in the shard, from 0."""
    key: str
    iou: float
    """Mean over the classes in mask or truth, without the background."""
    columns: Mapping[str, float | None]
    classes: tuple[ScoredClass, ...]


class RankScore(NamedTuple):
    """Rank correlation of one column with the true IoU."""

    column: str
    of: str
    """What has this column: image or class."""
    num_values: int
    correlation: float
    """Spearman's, in [-1, 1]; NaN for a constant column."""
    lowest_tenth_iou: float
    """Mean IoU of the tenth where the column is lowest."""
    highest_tenth_iou: float


class Bin(NamedTuple):
    """A tenth of the images, by quality."""

    mean_quality: float
    mean_iou: float
    num_images: int


def compute_class_ious(
    truth: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], class_ids: Iterable[int]
) -> dict[int, float]:
    """Compute the IoU of classes over the pixels with a truth, without classes that neither side contains."""
    counted = truth != IGNORE_LABEL
    ious = {}
    for class_id in class_ids:
        drawn, true = (mask == class_id) & counted, (truth == class_id) & counted
        num_union = int((drawn | true).sum())
        if num_union:
            ious[class_id] = int((drawn & true).sum()) / num_union
    return ious


def average_ious(class_ious: Mapping[int, float]) -> float | None:
    """IoU of an image: the mean over its classes, without the background; None without a class.

    >>> average_ious({1: 0.5, 3: 0.0}), average_ious({})
    (0.25, None)
    """
    return float(np.mean(list(class_ious.values()))) if class_ious else None


def score_image(
    row: Mapping[str, Any],
    manifest_uri: str,
    truth: UInt8[np.ndarray, "h w"],
    mask: UInt8[np.ndarray, "h w"],
    num_classes: int,
) -> ScoredImage | None:
    """Score an image; None if neither mask nor truth contains a class.

    Args:
        row: Of the image.
        manifest_uri: Manifest of the row.
        truth: On the stored pixels.
        mask: On the stored pixels.
        num_classes: Of the run, without the background.
    """
    ious = compute_class_ious(truth, mask, range(1, num_classes + 1))
    iou = average_ious(ious)
    if iou is None:
        return None
    return ScoredImage(
        manifest_uri=manifest_uri,
        place=row["index"],
        key=row["key"],
        iou=iou,
        columns={name: row[name] for name in IMAGE_COLUMNS},
        classes=tuple(
            ScoredClass(iou=ious[entry["class_id"]], columns={name: entry[name] for name in CLASS_COLUMNS})
            for entry in row["classes"]
            if entry["class_id"] in ious
        ),
    )


def rank_columns(images: Sequence[ScoredImage]) -> list[RankScore]:
    """Correlate each column with at least `MIN_VALUES` values with the true IoU."""
    classes = [one for image in images for one in image.classes]
    ranked = [_rank_column(name, "image", images) for name in IMAGE_COLUMNS]
    ranked += [_rank_column(name, "class", classes) for name in CLASS_COLUMNS]
    return [score for score in ranked if score is not None]


def bin_by_quality(images: Sequence[ScoredImage]) -> list[Bin]:
    """Split images into `NUM_BINS` bins of equal size by quality, worst first; empty for fewer than `MIN_VALUES`."""
    known = sorted((image.columns["quality"], image.iou) for image in images if image.columns["quality"] is not None)
    if len(known) < MIN_VALUES:
        return []
    return [
        Bin(mean_quality=float(part[:, 0].mean()), mean_iou=float(part[:, 1].mean()), num_images=len(part))
        for part in np.array_split(np.array(known), NUM_BINS)
    ]


def _rank_column(column: str, of: str, scored: Sequence[ScoredImage] | Sequence[ScoredClass]) -> RankScore | None:
    known = [(value, one.iou) for one in scored if (value := one.columns[column]) is not None]
    if len(known) < MIN_VALUES:
        return None
    values, ious = np.array(known, dtype=float).T
    order = ious[np.argsort(values, kind="stable")]
    num_tenth = len(order) // NUM_BINS
    return RankScore(
        column=column,
        of=of,
        num_values=len(known),
        correlation=_correlate(values, ious),
        lowest_tenth_iou=float(order[:num_tenth].mean()),
        highest_tenth_iou=float(order[-num_tenth:].mean()),
    )


def _correlate(values: Float[np.ndarray, " n"], ious: Float[np.ndarray, " n"]) -> float:
    if np.ptp(values) == 0 or np.ptp(ious) == 0:
        return float("nan")
    return float(spearmanr(values, ious).statistic)
