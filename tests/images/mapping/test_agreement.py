"""Presence of classes, and the agreement of views and heads, in a batch."""

import math
from typing import Any

import pytest
import torch

from pipeline.images.mapping.agreement import compute_agreements, compute_presence

THRESHOLD = 0.4


def compute_agreement(maps: torch.Tensor) -> torch.Tensor:
    (found,) = compute_agreements([maps], THRESHOLD)
    return found


def make_maps(rng_seed: int, num_images: int = 3, num_classes: int = 2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(rng_seed)
    return torch.rand(num_images, num_classes, 6, 7, generator=rng)


def compute_iou(a: Any, b: Any) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else math.nan


def test_agreement_is_the_mean_over_pairs_of_maps() -> None:
    marked = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.float32).reshape(3, 1, 1, 2, 2)
    assert compute_agreement(marked).item() == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)


def test_agreement_of_a_group_ignores_the_other_groups() -> None:
    views, heads = torch.stack([make_maps(seed) for seed in range(3)]), torch.stack([make_maps(8), make_maps(9)])
    found = compute_agreements([views, heads], THRESHOLD)
    for one, group in zip(found, (views, heads), strict=True):
        torch.testing.assert_close(one, compute_agreement(group))


def test_agreement_of_a_batch_is_that_of_each_image_and_class() -> None:
    maps = torch.stack([make_maps(seed) for seed in range(4)])
    found = compute_agreement(maps)
    for image in range(3):
        for place in range(2):
            own = maps[:, image, place]
            scaled = (own - own.amin((1, 2), True)) / (own.amax((1, 2), True) - own.amin((1, 2), True))
            pairs = [compute_iou(scaled[a] > THRESHOLD, scaled[b] > THRESHOLD) for a in range(4) for b in range(a)]
            assert found[image, place].item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_agreement_is_unknown_for_one_map_or_empty_maps() -> None:
    assert compute_agreement(make_maps(0)[None]).isnan().all()
    assert compute_agreement(torch.zeros(2, 1, 1, 3, 3)).isnan().all()


def test_pair_of_empty_maps_does_not_count() -> None:
    maps = torch.zeros(3, 1, 1, 2, 2)
    maps[0, 0, 0, 0, 0] = 1
    assert compute_agreement(maps).item() == 0.0


def test_agreement_ignores_the_scale_of_both() -> None:
    attention = make_maps(1)
    assert (compute_agreement(torch.stack([attention, 30 * attention])) == 1).all()
    assert (compute_agreement(torch.stack([attention, attention.max() - attention])) < 0.6).all()


def test_presence_is_mean_and_deviation_over_views() -> None:
    presence = compute_presence(torch.tensor([[[0.0, 100.0]], [[0.0, -100.0]]]), None)
    torch.testing.assert_close(presence.mean, torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(presence.std, torch.tensor([[0.0, 0.5]]))
    assert compute_presence(torch.ones(1, 1, 3), None).std.tolist() == [[0.0] * 3]


def test_presence_is_the_mean_over_class_tokens_and_patches() -> None:
    presence = compute_presence(torch.tensor([[[100.0, 0.0]]]), torch.tensor([[[-100.0, 0.0]]]))
    assert presence.mean.tolist() == [[0.5, 0.5]]
