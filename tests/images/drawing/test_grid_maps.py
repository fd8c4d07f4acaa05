"""Values of maps on grids at the pixels of an image."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.drawing.grid_maps import BAND_PIXELS, GridMaps
from tests.images.drawing import full_maps

SIDES = st.integers(1, 40)
GRIDS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3)


def make_grids(rng_seed: int, shapes: Any, num_classes: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(rng_seed)
    return [(1e-3 * rng.random((num_classes, *shape)) ** 3).astype(np.float32) for shape in shapes]


def draw_all(maps: GridMaps) -> np.ndarray:
    return np.concatenate([values for _, values in maps.iterate_bands()], axis=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), GRIDS, SIDES, SIDES)
def test_bands_are_the_sum_of_the_resized_grids(rng_seed: int, shapes: Any, height: int, width: int) -> None:
    grids = make_grids(rng_seed, shapes)
    expected = full_maps.enlarge(grids, (height, width)).numpy()
    np.testing.assert_allclose(draw_all(GridMaps(grids, (height, width))), expected, rtol=1e-5, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), GRIDS, SIDES, SIDES)
def test_scaled_maps_reach_0_and_1_at_pixels_of_the_image(rng_seed: int, shapes: Any, height: int, width: int) -> None:
    grids = make_grids(rng_seed, shapes)
    expected = full_maps.scale_min_max(full_maps.enlarge(grids, (height, width))).numpy()
    found = draw_all(GridMaps(grids, (height, width)).scale_min_max())
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, 3e-7, 5.0])
def test_constant_map_becomes_zero(value: float) -> None:
    grids = [np.full((1, 14, 14), value, np.float32), np.full((1, 6, 9), 2 * value, np.float32)]
    assert not draw_all(GridMaps(grids, (375, 500)).scale_min_max()).any()


def test_bands_cover_a_large_image_once_from_the_top() -> None:
    maps = GridMaps(make_grids(0, [(14, 14)]), (700, 500))
    rows = [rows for rows, _ in maps.iterate_bands()]
    assert len(rows) > 1
    assert np.concatenate([np.arange(700)[band] for band in rows]).tolist() == list(range(700))
    assert all(values[0].size <= BAND_PIXELS for _, values in maps.iterate_bands())


def test_row_wider_than_a_band_is_a_band() -> None:
    maps = GridMaps(make_grids(0, [(2, 30)], num_classes=1), (3, 2 * BAND_PIXELS))
    assert [values.shape for _, values in maps.iterate_bands()] == [(1, 1, 2 * BAND_PIXELS)] * 3


def test_samples_are_values_of_the_bands() -> None:
    maps = GridMaps(make_grids(1, [(5, 7), (3, 4)]), (60, 90))
    rows, columns = np.array([0, 7, 59]), np.array([3, 89])
    np.testing.assert_array_equal(maps.sample(rows, columns), draw_all(maps)[:, rows][:, :, columns])


def test_maps_are_selected_and_multiplied_by_class() -> None:
    maps = GridMaps(make_grids(1, [(5, 7), (3, 4)], num_classes=3), (60, 90))
    np.testing.assert_array_equal(draw_all(maps.select(np.array([True, False, True]))), draw_all(maps)[[0, 2]])
    factors = np.array([0.5, 1, 0.25])
    np.testing.assert_allclose(draw_all(maps.multiply(factors)), draw_all(maps) * factors[:, None, None], rtol=1e-6)
