"""Class maps at image size, with and without refinement by the pixels of the image."""

import itertools
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.drawing.grid_maps import GridMaps
from pipeline.images.pixel_maps import refine_maps
from tests.images.drawing import full_maps


def make_inputs(
    rng_seed: int = 0, grids: Any = ((4, 5), (6, 7)), guide: Any = (24, 30), num_images: int = 1
) -> tuple[list[Any], Any]:
    """Make maps of two classes on patch grids, any scale, and images as guides."""
    rng = torch.Generator().manual_seed(rng_seed)
    maps = [1e-3 * torch.rand(num_images, 2, *grid, generator=rng) ** 3 for grid in grids]
    return maps, torch.randint(0, 256, (num_images, *guide, 3), dtype=torch.uint8, generator=rng)


def draw(maps: Any, guides: Any, num_iterations: int = 5, size: Any = (61, 47)) -> Any:
    """Refine the maps of one image and enlarge them."""
    return torch.from_numpy(full_maps.draw_all(GridMaps([refine_maps(maps, guides, num_iterations)[0].numpy()], size)))


def enlarge(maps: Any, size: Any) -> Any:
    """Enlarge the maps of one image without refinement."""
    return torch.from_numpy(full_maps.draw_all(GridMaps([grid[0].numpy() for grid in maps], size).scale_min_max()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30), st.integers(1, 4))
def test_refined_maps_stay_in_their_range_and_their_peaks_only_fall(
    rng_seed: int, height: int, width: int, num_iterations: int
) -> None:
    maps, guides = make_inputs(rng_seed, guide=(height, width))
    refined = draw(maps, guides, num_iterations)
    assert refined.shape == (2, 61, 47)
    assert refined.min() >= -1e-6
    assert refined.max() <= 1 + 1e-6
    peaks = [refine_maps(maps, guides, rounds).amax((2, 3)) for rounds in range(num_iterations + 1)]
    for before, after in itertools.pairwise(peaks):
        assert (after <= before + 1e-5).all()


def test_peak_that_refining_lowers_is_not_raised_again() -> None:
    maps, guides = make_inputs(grids=((8, 8),), guide=(32, 32))
    refined = draw(maps, guides, num_iterations=10)
    torch.testing.assert_close(enlarge(maps, (61, 47)).amax((1, 2)), torch.ones(2))
    assert (refined.amax((1, 2)) < 0.95).all()


def test_refinement_without_rounds_is_no_refinement_at_the_size_of_the_guide() -> None:
    maps, guides = make_inputs()
    torch.testing.assert_close(draw(maps, guides, 0, size=(24, 30)), enlarge(maps, (24, 30)))


def test_map_without_evidence_is_zero_with_refinement_and_without() -> None:
    maps, guides = make_inputs()
    maps = [torch.zeros_like(grid) for grid in maps]
    assert not draw(maps, guides).any()
    assert not enlarge(maps, (61, 47)).any()


def test_image_of_one_colour_keeps_a_constant_part_of_a_map() -> None:
    """Far from its edge a step keeps both values, so a threshold between them keeps its meaning."""
    maps = [torch.zeros(1, 1, 2, 8)]
    maps[0][..., 4:] = 7.0
    refined = draw(maps, torch.full((1, 24, 400, 3), 90, dtype=torch.uint8), num_iterations=2, size=(24, 400))
    torch.testing.assert_close(refined[..., :40], torch.zeros(1, 24, 40))
    torch.testing.assert_close(refined[..., -40:], torch.ones(1, 24, 40))


def test_scale_of_a_map_before_refinement_does_not_matter() -> None:
    maps, guides = make_inputs()
    torch.testing.assert_close(draw([64 * grid for grid in maps], guides), draw(maps, guides))


def test_image_gets_equal_bytes_alone_and_in_any_batch() -> None:
    maps, guides = make_inputs(num_images=4, guide=(33, 47))
    together = refine_maps(maps, guides, 3)
    for index in range(4):
        one = slice(index, index + 1)
        alone = refine_maps([grid[one].clone() for grid in maps], guides[one].clone(), 3)
        assert torch.equal(alone, together[one])
