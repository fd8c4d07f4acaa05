"""Statistics and quality of masks."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.drawing.draw import MAX_SAMPLED_SIDE_PX, choose_lattice, draw_mask
from pipeline.images.drawing.grid_maps import GridMaps
from pipeline.images.drawing.stats import compute_quality
from pipeline.run.config import MapConfig
from pipeline.run.records import CLASS_STATS, IGNORE_LABEL, PART_SCHEMA
from tests.images.drawing import full_maps

THRESHOLD = 0.4


def draw(
    class_maps: Any, class_ids: Any, background: float, foreground: float, presence: Any = None, **maps: Any
) -> Any:
    """Draw maps at the size of their image."""
    values = np.asarray(class_maps, np.float32)
    config = MapConfig(background_threshold=background, foreground_threshold=foreground, **maps)
    likely = np.ones(len(class_ids)) if presence is None else np.array(presence)
    return draw_mask(GridMaps([values], values.shape[1:]), class_ids, likely, config)


def measure(class_maps: Any, class_ids: Any = (1, 2), background: Any = THRESHOLD, foreground: Any = THRESHOLD) -> Any:
    return draw(class_maps, tuple(class_ids[: len(class_maps)]), background, foreground).stats


def make_class_maps(rng_seed: int, num_classes: int = 2, height: int = 12, width: int = 15) -> torch.Tensor:
    return torch.rand(num_classes, height, width, generator=torch.Generator().manual_seed(rng_seed))


@settings(deadline=None)
@given(rng_seed=st.integers(0, 1000), num_classes=st.integers(1, 4), height=st.integers(1, 9), width=st.integers(1, 9))
def test_fractions_add_up_and_measures_stay_in_range(rng_seed: int, num_classes: int, height: int, width: int) -> None:
    stats = measure(make_class_maps(rng_seed, num_classes, height, width), (1, 2, 3, 4), 0.3, 0.5)
    areas = [one.area_fraction for one in stats.classes]
    assert math.isclose(stats.ignore_fraction + stats.background_fraction + sum(areas), 1.0, abs_tol=1e-6)
    assert 0 <= stats.margin_mean <= 1
    assert 0 <= stats.entropy_mean <= 1
    for one in stats.classes:
        assert (one.confidence_mean is None) == (one.area_fraction == 0) == (one.components == 0)
        assert one.confidence_mean is None or one.confidence_mean > 0.5
        assert one.stability is None or 0 <= one.stability <= 1


def test_sharp_map_is_certain_and_stable() -> None:
    class_maps = torch.zeros(1, 10, 10)
    class_maps[0, :5] = 1.0
    stats = measure(class_maps)
    assert stats.background_fraction == stats.classes[0].area_fraction == 0.5
    assert stats.classes[0].confidence_mean == 1.0
    assert stats.classes[0].stability == 1.0
    # Over background the threshold beats 0, over the class 1 beats the threshold.
    assert stats.margin_mean == pytest.approx((0.4 + 0.6) / 2)


def test_stability_is_the_ratio_of_two_nearby_masks() -> None:
    class_maps = torch.tensor([[[0.2, 0.37, 0.42, 0.55, 0.9]]])
    assert measure(class_maps).classes[0].stability == pytest.approx(2 / 4)


def test_class_without_evidence_has_no_confidence_and_no_stability() -> None:
    stats = measure(torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]))
    assert stats.classes[1].area_fraction == 0.0
    assert stats.classes[1].confidence_mean is None
    assert stats.classes[1].stability is None
    assert stats.classes[1].components == 0


def test_equal_contenders_have_full_entropy_and_no_margin() -> None:
    stats = measure(torch.full((2, 3, 3), THRESHOLD))
    assert stats.entropy_mean == pytest.approx(1.0)
    assert stats.margin_mean == pytest.approx(0.0)


def test_background_contends_half_way_between_the_thresholds() -> None:
    assert measure(torch.full((1, 2, 2), 0.9), background=0.2, foreground=0.6).margin_mean == pytest.approx(0.5)


def test_empty_maps_with_threshold_zero_have_no_entropy() -> None:
    stats = measure(torch.zeros(1, 3, 3), background=0.0, foreground=0.0)
    assert stats.entropy_mean == 0.0
    assert stats.background_fraction == 1.0


@pytest.mark.parametrize("has_background", [True, False])
def test_mask_without_classes_is_background(has_background: bool) -> None:
    drawn = draw(np.zeros((0, 2, 3)), (), 0.4, 0.4, has_background=has_background)
    assert drawn.mask.tolist() == [[0] * 3] * 2
    assert (drawn.stats.background_fraction, drawn.stats.classes) == (1.0, ())


def test_pieces_that_touch_at_a_corner_are_one_component() -> None:
    class_maps = torch.zeros(1, 5, 5)
    class_maps[0, 0, 0] = class_maps[0, 1, 1] = class_maps[0, 4, 4] = 1.0
    assert measure(class_maps).classes[0].components == 2


def test_large_image_has_exact_fractions() -> None:
    side = 4 * MAX_SAMPLED_SIDE_PX
    class_maps = torch.zeros(1, side, side)
    class_maps[0, 1, 1] = 1.0
    class_maps[0, side // 2 :, :] = 1.0
    stats = measure(class_maps)
    assert stats.classes[0].area_fraction == (side * side // 2 + 1) / side**2
    # A single pixel is below what the sampled measures see.
    assert stats.classes[0].components == 1


def test_statistics_fit_the_columns_of_a_part() -> None:
    stats = measure(make_class_maps(0))
    for name in ("ignore_fraction", "background_fraction", "margin_mean", "entropy_mean"):
        assert PART_SCHEMA.field(name).type == pa.float32()
        assert isinstance(getattr(stats, name), float)
    rows = [one._asdict() | {"class_id": 1} for one in stats.classes]
    assert set(rows[0]) <= {field.name for field in CLASS_STATS}
    assert pa.array(rows, type=CLASS_STATS)[0]["components"].as_py() == stats.classes[0].components


def test_quality_is_the_stability_of_the_least_stable_class() -> None:
    assert compute_quality([0.9, 0.4]) == 0.4
    assert compute_quality([0.9, None]) == compute_quality([]) == 0.0


def test_confidence_is_the_mean_over_the_own_pixels_only() -> None:
    class_maps = torch.tensor([[[0.9, 0.5, 0.6]], [[0.1, 0.8, 0.1]]])
    stats = measure(class_maps)
    assert [one.confidence_mean for one in stats.classes] == pytest.approx([0.75, 0.8])
    assert np.isclose(stats.classes[0].area_fraction, 2 / 3)


def measure_without_background(class_maps: Any) -> Any:
    return draw(class_maps, range(1, len(class_maps) + 1), 0.9, 0.9, has_background=False).stats


def test_without_background_classes_contend_with_each_other_alone() -> None:
    stats = measure_without_background([[[0.5, 0.5, 0.10, 0.0]], [[0.1, 0.48, 0.12, 0.6]]])
    assert (stats.background_fraction, stats.ignore_fraction) == (0.0, 0.0)
    assert stats.margin_mean == pytest.approx((0.4 + 0.02 + 0.02 + 0.6) / 4)
    # One pixel is won clearly; two more are near to being won or lost.
    assert [entry.stability for entry in stats.classes] == pytest.approx([1 / 3, 1 / 3])
    assert [entry.area_fraction for entry in stats.classes] == [0.5, 0.5]
    assert 0 < stats.entropy_mean < 1


def test_without_background_one_class_alone_has_every_pixel_for_certain() -> None:
    stats = measure_without_background([[[0.2, 0.0, 0.7]]])
    (only,) = stats.classes
    assert (only.area_fraction, only.stability, stats.entropy_mean) == (1.0, 1.0, 0.0)
    assert stats.margin_mean == pytest.approx(0.3)


def label(class_maps: Any, class_ids: Any, background: float = 0.3, foreground: float = 0.6, **maps: Any) -> Any:
    return draw(class_maps, class_ids, background, foreground, **maps).mask.tolist()


def test_pixels_get_class_ignore_or_background_by_the_best_map() -> None:
    assert label([[[0.9, 0.5, 0.1]], [[0.2, 0.4, 0.7]]], [4, 9]) == [[4, IGNORE_LABEL, 9]]


def test_values_at_the_thresholds_are_background_and_ignored() -> None:
    maps = [[[0.25, 0.75, 0.0, 1.0]]]
    assert label(maps, [7], 0.25, 0.75) == [[0, IGNORE_LABEL, 0, 7]]
    assert label(maps, [7], 0.75, 0.75) == [[0, 0, 0, 7]]
    assert label(maps, [7], 1.0, 1.0) == [[0, 0, 0, 0]]


@pytest.mark.parametrize("class_ids", [[2, 5], [5, 2]])
def test_tied_maps_have_the_lower_class_id_in_any_order(class_ids: list[int]) -> None:
    assert label([[[0.8]], [[0.8]]], class_ids) == [[2]]


def test_without_background_every_pixel_gets_its_best_class_at_any_thresholds() -> None:
    maps = [[[0.9, 0.05, 0.0]], [[0.2, 0.1, 0.0]]]
    assert label(maps, [4, 9], has_background=False) == [[4, 9, 4]]


def test_doubtful_class_has_no_pixels_and_no_evidence() -> None:
    maps = [[[0.9, 0.2]], [[0.95, 0.7]]]
    drawn = draw(maps, [4, 9], 0.4, 0.4, presence=[0.9, 0.1], min_presence=0.5)
    assert drawn.mask.tolist() == [[4, 0]]
    assert drawn.doubtful_class_ids == (9,)
    assert [one.area_fraction for one in drawn.stats.classes] == [0.5, 0.0]
    assert (drawn.stats.classes[1].confidence_mean, drawn.stats.classes[1].stability) == (None, None)


@settings(max_examples=60, deadline=None)
@given(
    rng_seed=st.integers(0, 2**31),
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=2),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    num_classes=st.integers(1, 4),
    thresholds=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    has_background=st.booleans(),
)
def test_mask_is_that_of_maps_at_image_size(
    rng_seed: int, shapes: Any, size: Any, num_classes: int, thresholds: Any, has_background: bool
) -> None:
    rng = np.random.default_rng(rng_seed)
    grids = [rng.random((num_classes, *shape)).astype(np.float32) for shape in shapes]
    ids = rng.permutation(254)[:num_classes] + 1
    config = MapConfig(
        background_threshold=thresholds[0], foreground_threshold=thresholds[1], has_background=has_background
    )
    drawn = draw_mask(GridMaps(grids, size).scale_min_max(), ids.tolist(), np.ones(num_classes), config)
    maps = full_maps.scale_min_max(full_maps.enlarge(grids, size))
    expected = full_maps.label(maps, ids.tolist(), thresholds[0], thresholds[1], has_background)
    # Only values at a threshold, or of two maps that are equal, may fall to either side.
    best = maps.sort(0, descending=True).values.numpy()
    second = best[1] if num_classes > 1 else np.full(size, -1.0)
    is_close = (
        np.min([abs(best[0] - thresholds[0]), abs(best[0] - thresholds[1]), abs(best[0] - second)], axis=0) < 1e-5
    )
    assert ((drawn.mask == expected) | is_close).all()


@settings(max_examples=40, deadline=None)
@given(rng_seed=st.integers(0, 2**31), num_classes=st.integers(1, 4), size=st.tuples(*[st.integers(1, 60)] * 2))
def test_statistics_are_those_of_maps_at_image_size(rng_seed: int, num_classes: int, size: Any) -> None:
    rng = np.random.default_rng(rng_seed)
    maps = GridMaps([rng.random((num_classes, 3, 4)).astype(np.float32)], size).scale_min_max()
    ids = list(range(1, num_classes + 1))
    drawn = draw_mask(maps, ids, np.ones(num_classes), MapConfig(background_threshold=0.3, foreground_threshold=0.5))
    values = torch.from_numpy(full_maps.draw_all(maps).clip(0, 1))
    expected = full_maps.measure(values, drawn.mask, ids, 0.3, 0.5)
    found = drawn.stats._asdict()
    for own, other in zip(found.pop("classes"), expected.pop("classes"), strict=True):
        assert own._asdict() == pytest.approx(other, abs=1e-4)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [(300, 700), (700, 301), (1, 700), (129, 129)])
@pytest.mark.parametrize("num_grids", [1, 2])
def test_statistics_of_a_large_image_are_those_of_pixels_at_equal_distances(size: Any, num_grids: int) -> None:
    rng = np.random.default_rng(sum(size))
    grids = [rng.random((3, *shape)).astype(np.float32) for shape in ((9, 11), (5, 4))[:num_grids]]
    maps = GridMaps(grids, size).scale_min_max()
    drawn = draw_mask(maps, [1, 2, 3], np.ones(3), MapConfig(background_threshold=0.5, foreground_threshold=0.6))
    step = math.ceil(max(size) / 128)
    sample = tuple(slice(min(step // 2, (side - 1) // 2), None, step) for side in size)
    values = torch.from_numpy(full_maps.draw_all(maps).clip(0, 1))
    expected = full_maps.measure(values, drawn.mask, [1, 2, 3], 0.5, 0.6, sample)
    found = drawn.stats._asdict()
    for own, other in zip(found.pop("classes"), expected.pop("classes"), strict=True):
        assert own._asdict() == pytest.approx(other, abs=1e-4)
    assert found == pytest.approx(expected, abs=1e-4)


def make_maps_of_two_grids(rng_seed: int, num_classes: int) -> GridMaps:
    """Maps whose values leave [0, 1] by rounding."""
    rng = np.random.default_rng(rng_seed)
    grids = [rng.random((num_classes, *shape)).astype(np.float32) for shape in ((6, 7), (4, 5))]
    return GridMaps(grids, (41, 53)).scale_min_max()


def test_thresholds_of_1_leave_only_background() -> None:
    config = MapConfig(background_threshold=1.0, foreground_threshold=1.0)
    maps = [make_maps_of_two_grids(rng_seed, 2) for rng_seed in range(100)]
    assert max(full_maps.draw_all(one).max() for one in maps) > 1
    for one in maps:
        assert not draw_mask(one, [1, 2], np.ones(2), config).mask.any()


def test_class_without_evidence_wins_no_pixel_of_one_whose_map_is_below_0_by_rounding() -> None:
    config = MapConfig(has_background=False)
    maps = [make_maps_of_two_grids(rng_seed, 1) for rng_seed in range(100)]
    assert min(full_maps.draw_all(one).min() for one in maps) < 0
    for one in maps:
        with_empty = one.select(np.array([0, 0])).multiply(np.array([1.0, 0.0]))
        drawn = draw_mask(with_empty, [1, 2], np.ones(2), config)
        assert (drawn.mask == 1).all()
        confidence = drawn.stats.classes[0].confidence_mean
        assert confidence is not None
        assert 0 <= confidence <= 1


@pytest.mark.parametrize("value", [0.9, 0.7, 0.01])
def test_presence_at_its_limit_is_likely_as_its_column_says(value: float) -> None:
    drawn = draw([[[0.8]]], [3], 0.4, 0.4, presence=[np.float32(value)], min_presence=value)
    assert drawn.doubtful_class_ids == ()


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (375, 500), (4000, 3000)])
def test_lattice_is_bounded_and_within_the_image(size: Any) -> None:
    for side, places in zip(size, choose_lattice(size, MAX_SAMPLED_SIDE_PX), strict=True):
        assert 1 <= len(places) <= MAX_SAMPLED_SIDE_PX
        assert places[0] >= 0
        assert places[-1] < side
        assert abs(places[0] - (side - 1 - places[-1])) <= max(size) / MAX_SAMPLED_SIDE_PX
