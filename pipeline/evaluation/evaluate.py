"""Manifests against true masks: intersection over union per class, at the threshold used and at all others.

What is counted is pixels by (true class, predicted class), and for the curve by (true class, best class,
how good it is): every threshold follows from sums over these, each pixel counted once.

A pixel whose truth is 255 is not counted. A pixel that the mask leaves open (255) is no class: it misses
its true class, and its share is reported. A rejected sample has no mask and is not judged; how many
there were is reported too.
"""

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch.nn import functional

from models.class_maps import scale_min_max
from pipeline.commit.manifests import open_manifest
from pipeline.errors import LabellingError, ManifestError
from pipeline.evaluation.boundaries import NUM_COUNTS, count_boundaries
from pipeline.evaluation.quality_ranks import IMAGE_COLUMNS, ScoredImage, score_image
from pipeline.images.decode import place_on_stored_pixels
from pipeline.images.masks import decode_class_maps, decode_mask
from pipeline.images.pixel_maps import take_class_scales
from pipeline.run.records import IGNORE_LABEL, Status
from pipeline.storage.storage import get_local_path, join_uri, list_objects, read_bytes

NUM_THRESHOLDS = 100
"""The curve has the thresholds 0, 0.01 .. 0.99."""
COLUMNS = (
    *("key", "index", "status", "exif_orientation", "class_ids", "doubtful_class_ids", "mask", "class_maps", "classes"),
    *IMAGE_COLUMNS,
)

FindTruth = Callable[[str], bytes | None]


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


class ManifestScores(NamedTuple):
    """What one manifest adds to an evaluation."""

    counts: EvaluationCounts
    images: list[ScoredImage]


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


def evaluate_manifest(
    uri: str, find_truth: FindTruth, num_classes: int, class_scales: Sequence[float] | None = None
) -> ManifestScores:
    """Count the pixels of one manifest, and score its images one by one.

    Args:
        uri: Of the manifest.
        find_truth: Gives the true mask of a key, where there is one.
        num_classes: Of the run.
        class_scales: Of the run, for the curve over thresholds.

    Raises:
        LabellingError: A true mask has another size than its image, or classes that the run does not have.
    """
    counts, images = make_empty_counts(num_classes), []
    for row in open_manifest(uri).iterate_rows(COLUMNS):
        if row["status"] != Status.LABELLED:
            counts = replace(counts, num_rejected=counts.num_rejected + 1)
            continue
        payload = find_truth(row["key"])
        if payload is None:
            counts = replace(counts, num_without_truth=counts.num_without_truth + 1)
            continue
        mask = decode_mask(row["mask"]["bytes"])
        truth = decode_truth(payload, row["key"], mask.shape, num_classes)
        counts = counts.merge(_count_image(row, truth, mask, num_classes, class_scales))
        image = score_image(row, uri, truth, mask, num_classes)
        images += [] if image is None else [image]
    return ManifestScores(counts, images)


def _count_image(
    row: Mapping[str, Any],
    truth: UInt8[np.ndarray, "h w"],
    mask: UInt8[np.ndarray, "h w"],
    num_classes: int,
    class_scales: Sequence[float] | None,
) -> EvaluationCounts:
    counts = make_empty_counts(num_classes)
    has_maps = row["class_maps"] is not None
    return replace(
        counts,
        confusion=count_pixels(truth, mask, num_classes),
        histogram=count_by_threshold(truth, row, num_classes, class_scales) if has_maps else counts.histogram,
        boundaries=count_boundaries(truth, mask, num_classes),
        num_images=1,
        num_without_maps=0 if has_maps else 1,
    )


def decode_truth(payload: bytes, key: str, shape: tuple[int, ...], num_classes: int) -> UInt8[np.ndarray, "h w"]:
    """Decode the true mask of a sample.

    Args:
        payload: The PNG.
        key: Of the sample, for messages.
        shape: Height and width of the sample's own mask, in stored pixels.
        num_classes: Of the run.

    Raises:
        LabellingError: It cannot be read, has another size, or classes that the run does not have.
    """
    try:
        truth = decode_mask(payload)
    except ManifestError as error:
        raise LabellingError(f"true mask of '{key}' cannot be read: {error}") from error
    if truth.shape != shape:
        raise LabellingError(
            f"true mask of '{key}' is {truth.shape[1]} x {truth.shape[0]} pixels, its image "
            f"{shape[1]} x {shape[0]}; masks lie on the stored pixels, before any EXIF rotation"
        )
    unknown = [int(value) for value in np.unique(truth) if value > num_classes and value != IGNORE_LABEL]
    if unknown:
        raise LabellingError(
            f"true mask of '{key}' has classes {unknown}, the run has 0 to {num_classes} (255 is ignored); "
            "give masks with the vocabulary's class ids"
        )
    return truth


def count_pixels(
    truth: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], num_classes: int
) -> Int[np.ndarray, "c_plus_1 c_plus_2"]:
    """Count pixels by true class and class of the mask; ignored pixels of the mask go to the last column."""
    side = num_classes + 1
    counted = truth != IGNORE_LABEL
    predicted = np.where(mask == IGNORE_LABEL, side, mask).astype(np.int64)
    index = truth[counted].astype(np.int64) * (side + 1) + predicted[counted]
    return np.bincount(index, minlength=side * (side + 1)).reshape(side, side + 1)


def count_by_threshold(
    truth: UInt8[np.ndarray, "h w"],
    row: Mapping[str, Any],
    num_classes: int,
    class_scales: Sequence[float] | None = None,
) -> Int[np.ndarray, "c_plus_1 c_plus_1 bins"]:
    """Count pixels by true class, best class, and number of thresholds exceeded, from the kept maps."""
    is_turned = row["exif_orientation"] >= 5
    upright_size = truth.shape[::-1] if is_turned else truth.shape
    best, best_class = _find_best(row, upright_size, class_scales)
    best = place_on_stored_pixels(best, row["exif_orientation"])
    best_class = place_on_stored_pixels(best_class, row["exif_orientation"])
    return count_best(truth, best, best_class, num_classes)


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


def _find_best(
    row: Mapping[str, Any], size: tuple[int, ...], class_scales: Sequence[float] | None
) -> tuple[Float[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    maps = torch.from_numpy(np.array(decode_class_maps(row["class_maps"])))[None]
    scaled = scale_min_max(functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False))[0]
    scales = take_class_scales(class_scales, row["class_ids"])
    is_doubtful = torch.isin(torch.tensor(row["class_ids"]), torch.tensor(row["doubtful_class_ids"] or []))
    weights = ~is_doubtful if scales is None else scales * ~is_doubtful
    best, index = (scaled * weights[:, None, None]).max(0)
    return best.numpy(), np.asarray(row["class_ids"], np.int64)[index.numpy()]


def open_truth(truth_uri: str) -> FindTruth:
    """Open a collection of true masks: a folder of PNGs, or a tar of them.

    A sample's mask is the one whose path without suffix is the key, else the one with the key's base name.

    Returns:
        A function that gives the PNG of a key, or None; it raises a LabellingError when several have its base
        name, such as masks of classes and masks of objects in sibling folders.

    Raises:
        LabellingError: There are no PNGs.
    """
    members = dict(_list_tar(truth_uri)) if truth_uri.endswith(".tar") else dict(_list_folder(truth_uri))
    if not members:
        raise LabellingError(f"'{truth_uri}' holds no PNGs; give a folder or a tar of true masks, one per key")
    by_base_name: dict[str, list[str]] = {}
    for name in members:
        by_base_name.setdefault(PurePosixPath(name).name, []).append(name)

    def find(key: str) -> bytes | None:
        names = [key] if key in members else by_base_name.get(PurePosixPath(key).name, [])
        if len(names) > 1:
            raise LabellingError(
                f"true masks '{names[0]}' and '{names[1]}' both fit the key '{key}'; give a folder or tar with one"
            )
        return members[names[0]]() if names else None

    return find


def _list_folder(truth_uri: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    prefix = join_uri(truth_uri, "")
    for item in list_objects(truth_uri):
        if item.uri.endswith(".png"):
            name = item.uri.removeprefix(prefix).removeprefix("/").removesuffix(".png")
            yield name, partial(read_bytes, item.uri)


def _list_tar(truth_uri: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    path = get_local_path(truth_uri)
    payload = None if path else io.BytesIO(read_bytes(truth_uri))
    try:
        with tarfile.open(path, fileobj=payload) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.name.endswith(".png") else None
                if file is not None:
                    yield member.name.removesuffix(".png"), partial(bytes, file.read())
    except tarfile.ReadError as error:
        raise LabellingError(f"'{truth_uri}' is no readable tar: {error}; give a folder or a tar of PNGs") from error
