"""The number of images to look at until most of the bad ones are found."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.quality_ranks import MIN_VALUES
from pipeline.evaluation.review_effort import count_to_find, count_wanted, measure_effort, trace_found
from tests.evaluation.test_quality_ranks import make_images


def place_in(order: tuple[int, ...], is_bad: list[bool], num_wanted: int) -> int:
    """Number of images up to the bad one that is the `num_wanted`-th in an order."""
    places = [place for place, image in enumerate(order, start=1) if is_bad[image]]
    return places[num_wanted - 1]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.data())
def test_number_is_the_mean_over_all_orders_that_the_values_allow(
    images: list[tuple[int, bool]], data: st.DataObject
) -> None:
    values, is_bad = [value for value, _ in images], [bad for _, bad in images]
    if not any(is_bad):
        return
    num_wanted = data.draw(st.integers(1, sum(is_bad)))
    allowed = [order for order in permutations(range(len(images))) if sorted(values) == [values[i] for i in order]]
    expected = np.mean([place_in(order, is_bad, num_wanted) for order in allowed])
    assert count_to_find(np.array(values, float), np.array(is_bad), num_wanted) == pytest.approx(expected)


def test_quality_in_the_order_of_iou_finds_the_bad_images_at_once() -> None:
    ious = np.random.default_rng(0).permutation(100) / 100
    effort = measure_effort(make_images(ious / 2, ious))
    assert effort is not None
    assert (effort.num_images, effort.num_bad, effort.num_wanted) == (100, 50, 40)
    assert effort.by_quality == 40
    assert effort.at_random == pytest.approx(40 * 101 / 51)


def test_quality_in_the_reverse_order_takes_longer_than_random_order() -> None:
    ious = np.arange(100) / 100
    effort = measure_effort(make_images(1 - ious, ious))
    assert effort is not None
    assert effort.by_quality == 90 > effort.at_random


def test_without_a_bad_image_or_with_few_images_there_is_no_effort() -> None:
    assert measure_effort(make_images(np.arange(50), np.full(50, 0.5))) is None
    assert measure_effort(make_images(np.arange(MIN_VALUES - 1), np.zeros(MIN_VALUES - 1))) is None


def test_images_without_quality_are_not_counted() -> None:
    images = make_images([0.5] * 30, [0] * 30)
    images += make_images([0.25] * 5, [0] * 5, quality=None)
    effort = measure_effort(images)
    assert effort is not None
    assert effort.num_images == 30


def test_more_than_there_are_cannot_be_found() -> None:
    with pytest.raises(ValueError, match="need 1 <= num_wanted <= 1"):
        count_to_find(np.zeros(2), np.array([True, False]), 2)
    with pytest.raises(ValueError, match="none of the images is bad"):
        trace_found(np.zeros(2), np.zeros(2, bool))


def test_share_is_rounded_up() -> None:
    assert [count_wanted(number) for number in (1, 5, 6, 100)] == [1, 4, 5, 80]
    assert count_wanted(30, 0.1) == 3


def test_curve_runs_from_nothing_to_all_and_is_straight_where_values_tie() -> None:
    looked, found = trace_found(np.array([0.0, 0, 1, 2]), np.array([True, False, False, True]))
    assert looked.tolist() == [0, 0.5, 0.75, 1]
    assert found.tolist() == [0, 0.5, 0.5, 1]
