"""Boundary F-score of masks."""

from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.boundaries import TOLERANCE, count_boundaries, find_edge, score_boundaries
from pipeline.run.records import IGNORE_LABEL

SIDE = 200
REACH_PX = int(TOLERANCE * SIDE * 2**0.5)


def make_square(shift: int = 0, side: int = 60, value: int = 1) -> Any:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[70 : 70 + side, 70 + shift : 70 + side + shift] = value
    return mask


def score(truth: Any, mask: Any, num_classes: int = 2) -> Any:
    return score_boundaries(count_boundaries(truth, mask, num_classes))


def test_edge_is_the_ring_of_a_region_and_not_the_border_of_the_image() -> None:
    region = np.zeros((5, 5), bool)
    region[:, 2:] = True
    assert find_edge(region)[:, 2].all()
    assert find_edge(region).sum() == 5


def test_equal_masks_score_one_and_classes_in_neither_nothing() -> None:
    truth = make_square()
    np.testing.assert_allclose(score(truth, truth), [1.0, np.nan])


def test_edges_count_as_one_within_the_tolerance_and_no_farther() -> None:
    assert REACH_PX == 2
    assert score(make_square(), make_square(REACH_PX))[0] == 1.0
    # The sides that run along the shift still lie on each other: 60 + 60 of 236 pixels, less the ends.
    assert 0.4 < score(make_square(), make_square(REACH_PX + 1))[0] < 0.6
    assert score(make_square(), make_square(60, side=20))[0] < 0.5


def test_class_on_one_side_only_scores_nothing() -> None:
    assert score(make_square(), np.zeros_like(make_square()))[0] == 0
    assert score(np.zeros_like(make_square()), make_square())[0] == 0


def test_edges_on_open_pixels_of_the_truth_count_only_near_a_true_one() -> None:
    truth, mask = make_square(), make_square()
    truth[find_edge(~(truth == 1))] = IGNORE_LABEL
    truth[:50] = IGNORE_LABEL
    mask[10:30, 10:30] = 1
    assert score(truth, mask)[0] == 1.0
    truth[:50] = 0
    assert score(truth, mask)[0] < 1.0


@pytest.mark.parametrize("axis", [0, 1])
def test_mirrored_masks_score_the_same(axis: int) -> None:
    truth, mask = make_square(), make_square(5, side=50)
    assert score(np.flip(truth, axis), np.flip(mask, axis))[0] == pytest.approx(score(truth, mask)[0])
