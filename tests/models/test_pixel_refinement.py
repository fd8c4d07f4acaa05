"""Class maps drawn to the edges of their image."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.pixel_refinement import DILATIONS, DIRECTIONS, MIN_COLOUR_STD, POSITION_WEIGHT, refine_by_pixels


def make_inputs(rng_seed: int = 0, size: Any = (2, 3, 20, 31)) -> tuple[torch.Tensor, torch.Tensor]:
    b, k, h, w = size
    rng = torch.Generator().manual_seed(rng_seed)
    return torch.rand(b, k, h, w, generator=rng), torch.rand(b, 3, h, w, generator=rng)


def make_two_colours(height: int = 64, width: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """A slanted edge between two noisy colours: which side each pixel is on, and the image."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = columns + 0.3 * rows < 45
    colours = torch.where(inside, 0.7, 0.3).expand(1, 3, -1, -1)
    return inside, colours + 0.03 * torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def compute_iou(mask: Any, truth: Any) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def refine_plainly(maps: Any, image: Any) -> Any:
    """One round by the definition: all neighbours of all pixels gathered by their clamped coordinates."""
    _, _, h, w = maps.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    steps = torch.tensor(DIRECTIONS)[None] * torch.tensor(DILATIONS)[:, None, None]
    steps = steps.flatten(0, 1)
    at = (rows + steps[:, :1, None]).clamp(0, h - 1), (columns + steps[:, 1:, None]).clamp(0, w - 1)
    colours = image.double()[..., *at]
    std = colours.std(2, keepdim=True).clamp_min(MIN_COLOUR_STD)
    by_colour = -(((colours - image.double()[:, :, None]) / std / 0.3) ** 2).mean(1)
    distance = steps.double().norm(dim=1)
    by_distance = (-((distance / distance.std() / 0.3) ** 2)).softmax(0)[:, None, None]
    weights = (by_colour.softmax(1) + POSITION_WEIGHT * by_distance) / (1 + POSITION_WEIGHT)
    return (maps.double()[..., *at] * weights[:, None]).sum(2)


def test_one_round_equals_the_definition() -> None:
    maps, image = make_inputs()
    refined = refine_by_pixels(maps, image, num_iterations=1)
    torch.testing.assert_close(refined, refine_plainly(maps, image).float(), rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 17), st.integers(1, 17), st.integers(0, 3))
def test_no_value_leaves_the_range_of_its_map(rng_seed: int, height: int, width: int, num_iterations: int) -> None:
    maps, image = make_inputs(rng_seed, (2, 2, height, width))
    refined = refine_by_pixels(maps, image, num_iterations=num_iterations)
    assert refined.shape == maps.shape
    assert (refined >= maps.amin((2, 3), keepdim=True) - 1e-5).all()
    assert (refined <= maps.amax((2, 3), keepdim=True) + 1e-5).all()


@pytest.mark.parametrize("level", [0.0, 0.37, 1e6])
def test_constant_map_stays_constant(level: float) -> None:
    image = make_inputs()[1]
    maps = torch.full((2, 1, 20, 31), level)
    torch.testing.assert_close(refine_by_pixels(maps, image, num_iterations=5), maps, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shade", [0.0, 0.4])
def test_image_of_one_colour_smooths_its_maps(shade: float) -> None:
    maps = make_inputs()[0]
    refined = refine_by_pixels(maps, torch.full((2, 3, 20, 31), shade), num_iterations=3)
    assert refined.isfinite().all()
    assert refined.std() < maps.std()


def test_blurred_map_of_one_side_of_an_edge_is_drawn_to_the_edge() -> None:
    inside, image = make_two_colours()
    coarse = functional.avg_pool2d(inside[None, None].float(), 16)
    blurred = functional.interpolate(coarse, inside.shape, mode="bilinear")
    refined = refine_by_pixels(blurred, image, num_iterations=10)
    before, after = compute_iou(blurred[0, 0] > 0.35, inside), compute_iou(refined[0, 0] > 0.35, inside)
    assert before < 0.93
    assert after > 0.98


def test_scaling_and_shifting_a_map_commutes_with_refining_it() -> None:
    maps, image = make_inputs()
    refined = refine_by_pixels(maps, image, num_iterations=4)
    torch.testing.assert_close(refine_by_pixels(3 * maps - 1, image, num_iterations=4), 3 * refined - 1)


def test_mirrored_image_and_maps_give_mirrored_maps() -> None:
    maps, image = make_inputs()
    mirrored = refine_by_pixels(maps.flip(-1), image.flip(-1), num_iterations=4)
    torch.testing.assert_close(mirrored.flip(-1), refine_by_pixels(maps, image, num_iterations=4))


def test_image_gets_equal_bytes_alone_and_in_any_batch() -> None:
    maps, image = make_inputs(size=(5, 3, 33, 47))
    together = refine_by_pixels(maps, image, num_iterations=3)
    for index in range(5):
        one = slice(index, index + 1)
        assert torch.equal(refine_by_pixels(maps[one].clone(), image[one].clone(), num_iterations=3), together[one])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refined_in_single_precision(dtype: Any) -> None:
    maps, image = (values.to(dtype) for values in make_inputs())
    refined = refine_by_pixels(maps, image, num_iterations=2)
    assert refined.dtype == torch.float32
    assert torch.equal(refined, refine_by_pixels(maps.float(), image.float(), num_iterations=2))


def test_zero_rounds_change_nothing_and_a_negative_number_is_refused() -> None:
    maps, image = make_inputs()
    assert torch.equal(refine_by_pixels(maps, image, num_iterations=0), maps)
    with pytest.raises(ValueError, match="num_iterations >= 0, got -1"):
        refine_by_pixels(maps, image, num_iterations=-1)
