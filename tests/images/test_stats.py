"""Statistics and quality of masks."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.masks import label_pixels
from pipeline.images.stats import (
    MAX_SAMPLED_SIDE_PX,
    compute_head_agreement,
    compute_iou,
    compute_mask_stats,
    compute_presence,
    compute_quality,
    compute_view_agreement,
)
from pipeline.run.records import CLASS_STATS, PART_SCHEMA

THRESHOLD = 0.4


def measure(class_maps: Any, class_ids: Any = (1, 2), background: Any = THRESHOLD, foreground: Any = THRESHOLD) -> Any:
    class_ids = tuple(class_ids[: len(class_maps)])
    mask = label_pixels(class_maps, torch.tensor(class_ids, dtype=torch.int64), background, foreground)
    return compute_mask_stats(class_maps, mask, class_ids, background, foreground)


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


def test_mask_without_classes_is_background() -> None:
    stats = measure(torch.zeros(0, 3, 3), ())
    assert stats.background_fraction == 1.0
    assert stats.classes == ()


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


def test_iou_of_masks() -> None:
    left = torch.tensor([[True, True, False]])
    right = torch.tensor([[False, True, True]])
    assert compute_iou(left, right) == pytest.approx(1 / 3)
    assert compute_iou(left, left) == 1.0
    assert compute_iou(left, ~left) == 0.0
    assert compute_iou(~left & left, left & ~left) is None


def test_view_agreement_is_the_mean_over_pairs_of_views() -> None:
    marked = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.float32).reshape(3, 1, 2, 2)
    assert compute_view_agreement(marked, THRESHOLD) == [pytest.approx((1 + 1 / 3 + 1 / 3) / 3)]


def test_view_agreement_is_unknown_for_one_view_or_empty_maps() -> None:
    assert compute_view_agreement(make_class_maps(0)[None], THRESHOLD) == [None, None]
    assert compute_view_agreement(torch.zeros(2, 1, 3, 3), THRESHOLD) == [None]


def test_head_agreement_ignores_the_scale_of_both() -> None:
    attention = make_class_maps(1)
    assert compute_head_agreement(attention, 30 * attention, THRESHOLD) == [1.0, 1.0]
    assert compute_head_agreement(attention, attention.max() - attention, THRESHOLD)[0] < 0.6


def test_presence_is_mean_and_deviation_over_views() -> None:
    presence = compute_presence(torch.tensor([[0.0, 100.0], [0.0, -100.0]]), None)
    torch.testing.assert_close(presence.mean, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(presence.std, torch.tensor([0.0, 0.5]))
    assert compute_presence(torch.ones(1, 3), None).std.tolist() == [0.0] * 3


def test_presence_is_the_mean_over_class_tokens_and_patches() -> None:
    presence = compute_presence(torch.tensor([[100.0, 0.0]]), torch.tensor([[-100.0, 0.0]]))
    assert presence.mean.tolist() == [0.5, 0.5]


def test_quality_is_the_stability_of_the_least_stable_class() -> None:
    assert compute_quality([0.9, 0.4]) == 0.4
    assert compute_quality([0.9, None]) == compute_quality([]) == 0.0


def test_confidence_is_the_mean_over_the_own_pixels_only() -> None:
    class_maps = torch.tensor([[[0.9, 0.5, 0.6]], [[0.1, 0.8, 0.1]]])
    stats = measure(class_maps)
    assert [one.confidence_mean for one in stats.classes] == pytest.approx([0.75, 0.8])
    assert np.isclose(stats.classes[0].area_fraction, 2 / 3)


def measure_without_background(class_maps: Any) -> Any:
    maps = torch.tensor(class_maps, dtype=torch.float32)
    ids = list(range(1, len(maps) + 1))
    mask = label_pixels(maps, torch.tensor(ids), 0.9, 0.9, has_background=False)
    return compute_mask_stats(maps, mask, ids, 0.9, 0.9, has_background=False)


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
