"""Do the columns of a manifest predict how good its masks are? Ranks of columns against the true IoU.

A column is worth what its order says of the order of the masks: Spearman's rank correlation with the true IoU, and the
mean IoU of the tenth of the images, or classes, where it is lowest and highest.
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
"""Fewer values than this say nothing of a rank, let alone of a tenth."""


class ScoredClass(NamedTuple):
    """A class of an image that is tagged, with its true IoU."""

    iou: float
    columns: Mapping[str, float | None]


class ScoredImage(NamedTuple):
    """A labelled image whose truth is known."""

    manifest_uri: str
    place: int
    """In the shard, from 0."""
    key: str
    iou: float
    """Mean over the classes, without the background, that the mask or the truth shows."""
    columns: Mapping[str, float | None]
    classes: tuple[ScoredClass, ...]


class RankScore(NamedTuple):
    """How well the order of one column tells the order of IoU."""

    column: str
    of: str
    """image or class: what has this column."""
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
    """Compute the IoU of classes on the pixels that have a truth; classes that neither side shows are left out."""
    counted = truth != IGNORE_LABEL
    ious = {}
    for class_id in class_ids:
        drawn, true = (mask == class_id) & counted, (truth == class_id) & counted
        num_union = int((drawn | true).sum())
        if num_union:
            ious[class_id] = int((drawn & true).sum()) / num_union
    return ious


def score_image(
    row: Mapping[str, Any],
    manifest_uri: str,
    truth: UInt8[np.ndarray, "h w"],
    mask: UInt8[np.ndarray, "h w"],
    num_classes: int,
) -> ScoredImage | None:
    """Score one image, given its row; None if neither mask nor truth shows a class."""
    ious = compute_class_ious(truth, mask, range(1, num_classes + 1))
    if not ious:
        return None
    return ScoredImage(
        manifest_uri=manifest_uri,
        place=row["index"],
        key=row["key"],
        iou=float(np.mean(list(ious.values()))),
        columns={name: row[name] for name in IMAGE_COLUMNS},
        classes=tuple(
            ScoredClass(iou=ious[entry["class_id"]], columns={name: entry[name] for name in CLASS_COLUMNS})
            for entry in row["classes"]
            if entry["class_id"] in ious
        ),
    )


def rank_columns(images: Sequence[ScoredImage]) -> list[RankScore]:
    """Rank every column against the true IoU; those with fewer than `MIN_VALUES` values are left out."""
    classes = [one for image in images for one in image.classes]
    ranked = [_rank(name, "image", images) for name in IMAGE_COLUMNS]
    ranked += [_rank(name, "class", classes) for name in CLASS_COLUMNS]
    return [score for score in ranked if score is not None]


def bin_by_quality(images: Sequence[ScoredImage]) -> list[Bin]:
    """Sort images by quality into ten bins of equal size; the worst first. Empty for fewer than `MIN_VALUES` images."""
    known = sorted((image.columns["quality"], image.iou) for image in images if image.columns["quality"] is not None)
    if len(known) < MIN_VALUES:
        return []
    return [
        Bin(mean_quality=float(part[:, 0].mean()), mean_iou=float(part[:, 1].mean()), num_images=len(part))
        for part in np.array_split(np.array(known), NUM_BINS)
    ]


def _rank(column: str, of: str, scored: Sequence[ScoredImage] | Sequence[ScoredClass]) -> RankScore | None:
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
