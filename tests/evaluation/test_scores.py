"""Scores of counts: those counted by hand, and sums in any order."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.evaluation.scores import (
    EvaluationCounts,
    count_pixels,
    make_empty_counts,
    score_masks,
)
from pipeline.run.records import IGNORE_LABEL


def test_scores_of_a_few_pixels_are_those_counted_by_hand() -> None:
    truth = np.array([[0, 1, 1, 1, IGNORE_LABEL]], np.uint8)
    mask = np.array([[0, 1, 0, IGNORE_LABEL, 2]], np.uint8)
    scores = score_masks(replace(make_empty_counts(2), confusion=count_pixels(truth, mask, 2), num_images=1))
    # Background: 1 of 2. Class 1: 1 of 3, the pixel left open misses it. Class 2: only where the truth is ignored.
    np.testing.assert_allclose(scores.iou, [1 / 2, 1 / 3, np.nan])
    assert scores.mean_iou == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (scores.pixel_accuracy, scores.open_fraction) == (0.5, 0.25)
    np.testing.assert_allclose(scores.precision, [1 / 2, 1, np.nan])
    np.testing.assert_allclose(scores.recall, [1, 1 / 3, np.nan])


def counts_strategy(side: int = 3) -> Any:
    def pixels(*shape: Any) -> Any:
        return arrays(np.int64, shape, elements=st.integers(0, 2**40))

    number = st.integers(0, 1000)
    return st.builds(
        EvaluationCounts,
        confusion=pixels(side, side + 1),
        histogram=pixels(side, side, 4),
        boundaries=pixels(side - 1, 4),
        num_images=number,
        num_without_truth=number,
        num_rejected=number,
        num_without_maps=number,
        num_bad_truth=number,
        num_tagged=number,
        num_tagged_without_class=number,
        num_tagged_binary=number,
        num_tagged_other_class=number,
    )


def describe(counts: Any) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in vars(counts).items()}


@given(counts_strategy(), counts_strategy(), counts_strategy())
def test_counts_merge_in_any_order_and_grouping(one: Any, two: Any, three: Any) -> None:
    assert describe(one.merge(two)) == describe(two.merge(one))
    assert describe(one.merge(two).merge(three)) == describe(one.merge(two.merge(three)))
