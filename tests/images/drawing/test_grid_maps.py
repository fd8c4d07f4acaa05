"""Values of maps on grids at the pixels of an image."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.class_maps import scale_min_max
from pipeline.images.drawing.grid_maps import MAX_TILE_SIDE, TILE_PIXELS, GridMaps
from pipeline.images.masks import decode_class_maps, encode_class_maps
from tests.images.drawing import full_maps

SIDES = st.integers(1, 40)
GRIDS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3)


def make_grids(rng_seed: int, shapes: Any, num_classes: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(rng_seed)
    return [(1e-3 * rng.random((num_classes, *shape)) ** 3).astype(np.float32) for shape in shapes]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), GRIDS, SIDES, SIDES)
def test_tiles_are_the_sum_of_the_resized_grids(rng_seed: int, shapes: Any, height: int, width: int) -> None:
    grids = make_grids(rng_seed, shapes)
    expected = full_maps.enlarge(grids, (height, width)).numpy()
    np.testing.assert_allclose(full_maps.draw_all(GridMaps(grids, (height, width))), expected, rtol=1e-5, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), GRIDS, SIDES, SIDES)
def test_scaled_maps_reach_0_and_1_at_pixels_of_the_image(rng_seed: int, shapes: Any, height: int, width: int) -> None:
    grids = make_grids(rng_seed, shapes)
    expected = full_maps.scale_min_max(full_maps.enlarge(grids, (height, width))).numpy()
    found = full_maps.draw_all(GridMaps(grids, (height, width)).scale_min_max())
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, 3e-7, 5.0])
def test_constant_map_becomes_zero(value: float) -> None:
    grids = [np.full((1, 14, 14), value, np.float32), np.full((1, 6, 9), 2 * value, np.float32)]
    assert not full_maps.draw_all(GridMaps(grids, (375, 500)).scale_min_max()).any()


def test_range_of_rounding_is_no_range() -> None:
    grid = np.full((1, 8, 8), 0.3, np.float32)
    grid[0, 4:] = np.nextafter(np.float32(0.3), np.float32(1))
    assert not full_maps.draw_all(GridMaps([grid], (100, 100)).scale_min_max()).any()
    # The kept maps and those that pixels refine are scaled by the same rule.
    assert not decode_class_maps(encode_class_maps(grid)).any()
    assert not scale_min_max(torch.from_numpy(grid)[None]).any()


@pytest.mark.parametrize("value", [1e-39, 1e-45])
def test_range_that_no_float_divides_by_is_no_range(value: float) -> None:
    grid = np.zeros((1, 8, 8), np.float32)
    grid[0, 4:] = value
    assert not full_maps.draw_all(GridMaps([grid], (100, 100)).scale_min_max()).any()


def test_tiles_of_a_usual_image_are_bands_from_the_top() -> None:
    maps = GridMaps(make_grids(0, [(14, 14)]), (700, 500))
    tiles = [tile for tile, _ in maps.iterate_tiles()]
    assert len(tiles) > 1
    assert all(columns == slice(0, 500) for _, columns in tiles)
    assert np.concatenate([np.arange(700)[rows] for rows, _ in tiles]).tolist() == list(range(700))
    assert all(values[0].size <= TILE_PIXELS for _, values in maps.iterate_tiles())


@pytest.mark.parametrize("size", [(3, 2 * MAX_TILE_SIDE + 5), (MAX_TILE_SIDE + 7, 2)])
def test_long_image_has_its_values_in_every_tile(size: tuple[int, int]) -> None:
    grids = make_grids(3, [(4, 9), (2, 5)])
    found = full_maps.draw_all(GridMaps(grids, size))
    np.testing.assert_allclose(found, full_maps.enlarge(grids, size).numpy(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("size", [(2, 3_000_000), (3_000_000, 2)])
def test_memory_does_not_grow_with_the_longest_side(size: tuple[int, int]) -> None:
    maps = GridMaps(make_grids(0, [(24, 8)] if size[0] < size[1] else [(8, 24)]), size)
    tracemalloc.start()
    try:
        assert sum(values[0].size for _, values in maps.scale_min_max().iterate_tiles()) == 6_000_000
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 24e6, f"{peak_bytes / 1e6:.0f} MB"


def test_samples_are_values_of_the_tiles() -> None:
    maps = GridMaps(make_grids(1, [(5, 7), (3, 4)]), (60, 90))
    rows, columns = np.array([0, 7, 59]), np.array([3, 89])
    np.testing.assert_array_equal(maps.sample(rows, columns), full_maps.draw_all(maps)[:, rows][:, :, columns])


def test_maps_are_selected_and_multiplied_by_class() -> None:
    maps = GridMaps(make_grids(1, [(5, 7), (3, 4)], num_classes=3), (60, 90))
    values = full_maps.draw_all(maps)
    np.testing.assert_array_equal(full_maps.draw_all(maps.select(np.array([True, False, True]))), values[[0, 2]])
    factors = np.array([0.5, 1, 0.25])
    found = full_maps.draw_all(maps.multiply(factors))
    np.testing.assert_allclose(found, values * factors[:, None, None], rtol=1e-6)
