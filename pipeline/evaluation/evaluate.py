"""Pixel counts and scored images of a manifest against true masks.

rows of a manifest + true masks by key -> counts at the thresholds of the run and at all others, IoU of each image

A rejected sample has no mask and is not scored; the number of rejected samples is counted. So is that of the true masks
that cannot be used, and the first of them are described.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from pipeline.commit.manifests import open_manifest
from pipeline.errors import TruthError
from pipeline.evaluation.boundaries import count_boundaries
from pipeline.evaluation.quality_ranks import IMAGE_COLUMNS, ScoredImage, score_image
from pipeline.evaluation.scores import EvaluationCounts, count_best, count_pixels, make_empty_counts
from pipeline.evaluation.truth import FindTruth, decode_truth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.images.drawing.columns import take_class_scales
from pipeline.images.drawing.grid_maps import GridMaps
from pipeline.images.masks import decode_class_maps, decode_mask
from pipeline.images.orientation import place_on_stored_pixels, turn_size
from pipeline.run.records import IGNORE_LABEL, Status

COLUMNS = (
    *("key", "index", "status", "exif_orientation", "class_ids", "doubtful_class_ids", "mask", "class_maps", "classes"),
    *IMAGE_COLUMNS,
)


MAX_COMPLAINTS = 3
"""Unusable true masks that are described; the others are counted."""


class ManifestScores(NamedTuple):
    """Counts and scored images of one manifest, or of several."""

    counts: EvaluationCounts
    images: list[ScoredImage]
    complaints: list[str]
    """What is wrong with the first `MAX_COMPLAINTS` true masks that cannot be used."""


def evaluate_manifest(
    uri: str,
    find_truth: FindTruth,
    num_classes: int,
    class_scales: Sequence[float] | None = None,
    frame: TruthFrame = TruthFrame.AUTO,
) -> ManifestScores:
    """Count the pixels of a manifest and score each of its images.

    Args:
        uri: Of the manifest.
        find_truth: From key to encoded true mask, or None.
        num_classes: Of the run, without the background.
        class_scales: Of the run, for the curve over thresholds.
        frame: Of the true masks.

    Raises:
        TruthFrameError: A true mask fits its image in both frames, and nothing tells in which it is.
        LabellingError: Several true masks fit one key. A true mask that cannot be used is counted and no error.
    """
    counts = make_empty_counts(num_classes)
    images: list[ScoredImage] = []
    complaints: list[str] = []
    for row in open_manifest(uri).iterate_rows(COLUMNS):
        is_labelled = row["status"] == Status.LABELLED
        try:
            # Of a rejected sample, too: its true mask is one with an image.
            payload = find_truth(row["key"])
            if not is_labelled or payload is None:
                name = "num_without_truth" if is_labelled else "num_rejected"
                counts = replace(counts, **{name: getattr(counts, name) + 1})
                continue
            mask = decode_mask(row["mask"]["bytes"])
            truth = decode_truth(payload, row["key"], mask.shape, num_classes, row["exif_orientation"], frame)
        except TruthError as error:
            name = "num_bad_truth" if is_labelled else "num_rejected"
            counts = replace(counts, **{name: getattr(counts, name) + 1})
            complaints += [str(error)] if is_labelled and len(complaints) < MAX_COMPLAINTS else []
            continue
        counts = counts.merge(_count_image(row, truth, mask, num_classes, class_scales))
        image = score_image(row, uri, truth, mask, num_classes)
        images += [] if image is None else [image]
    return ManifestScores(counts, images, complaints)


def _count_image(
    row: Mapping[str, Any],
    truth: UInt8[np.ndarray, "h w"],
    mask: UInt8[np.ndarray, "h w"],
    num_classes: int,
    class_scales: Sequence[float] | None,
) -> EvaluationCounts:
    counts = make_empty_counts(num_classes)
    has_maps = row["class_maps"] is not None
    values = set(np.unique(truth).tolist())
    classes, tags = values - {0, IGNORE_LABEL}, set(row["class_ids"])
    return replace(
        counts,
        confusion=count_pixels(truth, mask, num_classes),
        histogram=count_by_threshold(truth, row, num_classes, class_scales) if has_maps else counts.histogram,
        boundaries=count_boundaries(truth, mask, num_classes),
        num_images=1,
        num_without_maps=0 if has_maps else 1,
        num_tagged=int(bool(tags)),
        num_tagged_without_class=int(bool(tags) and not classes),
        num_tagged_binary=int(bool(tags) and values == {0, IGNORE_LABEL}),
        num_tagged_other_class=int(bool(tags and classes) and not tags & classes),
    )


def count_by_threshold(
    truth: UInt8[np.ndarray, "h w"],
    row: Mapping[str, Any],
    num_classes: int,
    class_scales: Sequence[float] | None = None,
) -> Int[np.ndarray, "c_plus_1 c_plus_1 bins"]:
    """Count pixels by true class, best class, and number of thresholds below its kept map.

    Args:
        truth: On the stored pixels of the image.
        row: Of the image, with kept maps.
        num_classes: Of the run, without the background.
        class_scales: Of the run; None: 1 for each class.
    """
    upright_size = turn_size((truth.shape[0], truth.shape[1]), row["exif_orientation"])
    best, best_class = _find_best(row, upright_size, class_scales)
    best = place_on_stored_pixels(best, row["exif_orientation"])
    best_class = place_on_stored_pixels(best_class, row["exif_orientation"])
    return count_best(truth, best, best_class, num_classes)


def _find_best(
    row: Mapping[str, Any], upright_size: tuple[int, int], class_scales: Sequence[float] | None
) -> tuple[Float[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Highest class map of each pixel of the upright image, and its class; doubtful classes have no evidence."""
    class_ids = np.asarray(row["class_ids"], np.int64)
    factors = take_class_scales(class_scales, row["class_ids"])
    factors = np.ones(len(class_ids)) if factors is None else factors
    is_drawn = ~np.isin(class_ids, row["doubtful_class_ids"] or [])
    maps = GridMaps([decode_class_maps(row["class_maps"])], upright_size).scale_min_max().multiply(factors)
    # The lowest class wins a tie, as in a mask, and a doubtful class only where all are.
    order = np.lexsort((class_ids, ~is_drawn))
    factors_of_drawn = np.asarray(is_drawn[order], np.float32)[:, None, None]
    best, best_class = np.empty(upright_size, np.float32), np.empty(upright_size, np.int64)
    for tile, values in maps.select(order).iterate_tiles():
        values.clip(0, 1, out=values)
        values *= factors_of_drawn
        best[tile] = values.max(0)
        best_class[tile] = class_ids[order][values.argmax(0)]
    return best, best_class
