"""Thresholds without true masks, from histograms."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.thresholds.choice import choose_threshold, compute_threshold


def test_threshold_without_truth_lies_between_two_groups() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.05, 3000), rng.normal(0.7, 0.05, 1000)]).clip(0, 0.999)
    histogram = np.bincount((values * 100).astype(int), minlength=100)
    assert 0.35 < compute_threshold(histogram) < 0.55


@settings(max_examples=50)
@given(st.dictionaries(st.integers(0, 99), st.integers(1, 10**6), min_size=1, max_size=20))
def test_threshold_without_truth_parts_any_histogram_of_two_bins(counts: Any) -> None:
    histogram = np.zeros(100, np.int64)
    histogram[list(counts)] = list(counts.values())
    found = compute_threshold(histogram)
    if len(counts) == 1:
        assert found is None
    else:
        assert found is not None
        assert min(counts) / 100 < found <= max(counts) / 100


def test_images_with_constant_maps_do_not_affect_the_threshold() -> None:
    flat, parted = np.zeros(100, np.int64), np.zeros(100, np.int64)
    flat[0], parted[[20, 59]] = 7, 5
    threshold = compute_threshold(parted)
    assert threshold is not None
    assert choose_threshold([flat, parted, flat]) == round(threshold, 2) == 0.5
    assert choose_threshold([flat]) is None
