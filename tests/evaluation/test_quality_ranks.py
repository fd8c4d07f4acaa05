"""Rank correlation of columns with the true IoU."""

from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.quality_ranks import (
    CLASS_COLUMNS,
    IMAGE_COLUMNS,
    MIN_VALUES,
    ScoredClass,
    ScoredImage,
    bin_by_quality,
    compute_class_ious,
    rank_columns,
    score_image,
)
from pipeline.run.records import CLASS_STATS, IGNORE_LABEL, PART_SCHEMA


def make_images(qualities: Any, ious: Any, **columns: Any) -> list[Any]:
    return [
        ScoredImage(
            manifest_uri="m",
            place=place,
            key=str(place),
            iou=iou,
            columns=dict.fromkeys(IMAGE_COLUMNS) | {"quality": quality} | columns,
            classes=(ScoredClass(iou=iou, columns=dict.fromkeys(CLASS_COLUMNS) | {"presence": 1 - quality}),),
        )
        for place, (quality, iou) in enumerate(zip(qualities, ious, strict=True))
    ]


def test_columns_are_columns_of_a_manifest() -> None:
    assert set(IMAGE_COLUMNS) <= set(PART_SCHEMA.names)
    assert set(CLASS_COLUMNS) <= {field.name for field in CLASS_STATS}


def test_column_in_the_order_of_iou_has_correlation_one_and_its_reverse_minus_one() -> None:
    ious = np.random.default_rng(0).permutation(50) / 50
    scores = {score.column: score for score in rank_columns(make_images(ious**3, ious))}
    assert set(scores) == {"quality", "presence"}
    assert scores["quality"].correlation == pytest.approx(1)
    assert scores["presence"].correlation == pytest.approx(-1)
    assert scores["quality"].lowest_tenth_iou == pytest.approx(np.mean([0, 1, 2, 3, 4]) / 50)
    assert scores["presence"].lowest_tenth_iou == pytest.approx(np.mean([45, 46, 47, 48, 49]) / 50)
    assert (scores["quality"].of, scores["presence"].of) == ("image", "class")


def test_constant_column_has_no_correlation() -> None:
    images = make_images(np.full(30, 0.5), np.arange(30) / 30)
    assert np.isnan(rank_columns(images)[0].correlation)


def test_few_images_have_no_ranks_and_no_bins() -> None:
    few = make_images(np.arange(MIN_VALUES - 1), np.arange(MIN_VALUES - 1))
    assert rank_columns(few) == []
    assert bin_by_quality(few) == []


def test_bins_hold_all_images_in_the_order_of_quality() -> None:
    qualities = np.random.default_rng(1).uniform(size=47)
    bins = bin_by_quality(make_images(qualities, 2 * qualities))
    assert sum(one.num_images for one in bins) == 47
    assert [one.mean_quality for one in bins] == sorted(one.mean_quality for one in bins)
    assert [one.mean_iou for one in bins] == pytest.approx([2 * one.mean_quality for one in bins])


def test_iou_of_an_image_is_the_mean_over_classes_that_mask_or_truth_shows() -> None:
    truth = np.array([[1, 1, 0, 2, IGNORE_LABEL]], np.uint8)
    mask = np.array([[1, 0, 0, 3, 4]], np.uint8)
    assert compute_class_ious(truth, mask, range(1, 6)) == {1: 0.5, 2: 0.0, 3: 0.0}
    columns = dict.fromkeys(CLASS_COLUMNS)
    row = dict.fromkeys(IMAGE_COLUMNS) | {"index": 7, "key": "k"}
    row |= {"classes": [columns | {"class_id": 1}, columns | {"class_id": 5}]}
    image = score_image(row, "m", truth, mask, 5)
    assert image is not None
    assert image.iou == pytest.approx(0.5 / 3)
    assert [one.iou for one in image.classes] == [0.5]
    assert score_image(row, "m", np.zeros_like(truth), np.zeros_like(mask), 5) is None
