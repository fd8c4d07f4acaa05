"""Frames and guides: sizes of buckets, resized and normalised images."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.frames import (
    choose_grid,
    choose_shortest_side,
    count_image_bytes,
    fit_frame,
    fit_guide,
    fit_native_size,
    list_bucket_grids,
    normalise,
    resize_planes,
    resize_rgb,
)
from pipeline.run.config import LabelConfig, MapConfig, PixelRefinement, Resolution, ViewConfig

PATCH_SIZE = 16


@settings(deadline=None)
@given(num_patches=st.integers(1, 4096))
def test_bucket_grids_keep_the_budget_and_come_in_both_orientations(num_patches: int) -> None:
    grids = list_bucket_grids(num_patches)
    assert all(1 <= height * width <= num_patches for height, width in grids)
    assert {(width, height) for height, width in grids} == set(grids)
    assert len(set(grids)) == len(grids) <= 11
    assert any(height == width for height, width in grids)


@settings(deadline=None)
@given(num_patches=st.integers(196, 4096))
def test_bucket_grids_use_the_budget_and_span_three_to_one(num_patches: int) -> None:
    grids = list_bucket_grids(num_patches)
    assert min(height * width for height, width in grids) >= 0.85 * num_patches
    # Half a row more or less on nine moves the aspect by a tenth.
    assert 2.6 <= max(width / height for height, width in grids) <= 3.2


def test_bucket_grids_of_784_patches_are_the_known_ones() -> None:
    assert list_bucket_grids(784)[5:] == ((28, 28), (32, 24), (34, 23), (37, 21), (42, 18), (48, 16))


def test_bucket_grids_of_an_empty_budget_are_an_error() -> None:
    with pytest.raises(ValueError, match="num_patches >= 1, got 0"):
        list_bucket_grids(0)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((500, 500), (28, 28)),
        ((375, 500), (24, 32)),
        ((500, 375), (32, 24)),
        ((333, 500), (23, 34)),
        ((1080, 1920), (21, 37)),
        ((1, 1), (28, 28)),
        ((5, 300), (16, 48)),
        ((10_000, 1), (48, 16)),
    ],
)
def test_choose_grid_takes_the_nearest_aspect(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert choose_grid(*size, num_patches=784) == grid


@settings(deadline=None)
@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_choose_grid_of_a_turned_image_is_the_turned_grid(height: int, width: int) -> None:
    turned = choose_grid(width, height, num_patches=784)
    assert choose_grid(height, width, num_patches=784) == turned[::-1]


@pytest.mark.parametrize(
    ("size", "expected"), [((375, 500), (375, 500)), ((1, 1), (16, 16)), ((5, 300), (16, 300)), ((300, 5), (300, 16))]
)
def test_native_size_is_the_own_one_but_at_least_a_patch(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_native_size(*size, patch_size=PATCH_SIZE) == expected


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (448, 336)])
def test_resized_image_of_one_colour_keeps_it(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), (200, 30, 40), dtype=np.uint8)
    for new_size in ((32, 64), size):
        resized = resize_rgb(image, new_size)
        assert resized.shape == (*new_size, 3)
        assert resized.dtype == np.uint8
        assert np.all(resized == (200, 30, 40))


def test_shrunken_image_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_rgb(stripes, (8, 8)).astype(int) - 127).max() <= 12


def make_noise(height: int, width: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resize_with_pillow(image: Any, size: tuple[int, int]) -> Any:
    """Resize across and then down; in one call Pillow begins with what makes the image smaller, and clips otherwise."""
    height, width = size
    across = Image.fromarray(np.ascontiguousarray(image)).resize((width, len(image)), Image.Resampling.BICUBIC)
    return np.asarray(across.resize((width, height), Image.Resampling.BICUBIC))


def make_read_only(image: Any) -> Any:
    image.flags.writeable = False
    return image


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (make_noise(300, 400), (224, 304)),
        (make_noise(300, 400), (37, 500)),
        (make_noise(90, 70), (224, 224)),
        (make_noise(64, 48), (64, 96)),
        (make_noise(1, 300), (16, 48)),
        (make_noise(200, 1), (48, 16)),
        (make_noise(1, 1), (32, 16)),
        (make_noise(500, 3), (7, 3)),
        (make_read_only(make_noise(120, 160)), (64, 80)),
        (make_noise(300, 400)[31:231, 57:190], (96, 64)),
        (make_noise(300, 400)[::2, ::3], (80, 96)),
        (make_noise(120, 160).swapaxes(0, 1), (64, 48)),
        (make_noise(120, 160)[::-1, ::-1], (64, 80)),
    ],
)
def test_resized_image_is_that_of_pillow_up_to_rounding(image: Any, size: tuple[int, int]) -> None:
    before = image.copy()
    expected = resize_with_pillow(image, size).astype(int)
    assert np.abs(resize_rgb(image, size) - expected).max() <= 2
    assert np.array_equal(resize_planes(image, size).transpose(1, 2, 0), resize_rgb(image, size))
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("views", "side_px", "shapes"),
    [
        # A bucket of 14 x 14 patches and its guide of 7 x 7 patches, both of the aspect 4 : 3.
        (ViewConfig(num_patches=196), 112, ((192, 256, 3), (96, 128, 3))),
        (ViewConfig(num_patches=196), 224, ((192, 256, 3), (192, 256, 3))),
        (ViewConfig(resolution=Resolution.NATIVE), 112, ((300, 400, 3), (96, 128, 3))),
    ],
)
def test_frame_has_the_size_of_its_bucket_and_the_guide_that_of_its_own_budget(
    views: Any, side_px: int, shapes: tuple[tuple[int, int, int], tuple[int, int, int]]
) -> None:
    config = LabelConfig(views=views, maps=MapConfig(pixel_side_px=side_px))
    image = make_noise(300, 400)
    frame = fit_frame(image, config.views, PATCH_SIZE)
    guide = fit_guide(image, config, PATCH_SIZE)
    assert (frame.shape, guide.shape) == shapes
    assert np.array_equal(fit_guide(image, config, PATCH_SIZE, frame), guide)


@pytest.mark.parametrize(
    ("side_px", "refinement", "shortest"), [(448, "par", 448), (112, "par", 224), (448, "none", 224)]
)
def test_decoder_may_shrink_to_the_larger_of_frame_and_guide(side_px: int, refinement: Any, shortest: int) -> None:
    maps = MapConfig(pixel_side_px=side_px, pixel_refinement=PixelRefinement(refinement))
    config = LabelConfig(views=ViewConfig(num_patches=196), maps=maps)
    assert choose_shortest_side(config, PATCH_SIZE) == shortest
    num_bytes = count_image_bytes(config, PATCH_SIZE)
    sizes = [(300, 300), (300, 400), (90, 900)]
    frames = [fit_frame(make_noise(*size), config.views, PATCH_SIZE) for size in sizes]
    guides = [fit_guide(make_noise(*size), config, PATCH_SIZE) for size in sizes]
    used = [
        frame.nbytes + (guide.nbytes if refinement == "par" else 0) for frame, guide in zip(frames, guides, strict=True)
    ]
    assert max(used) == num_bytes


def test_image_of_native_resolution_is_never_shrunk_by_its_decoder() -> None:
    config = LabelConfig(views=ViewConfig(resolution=Resolution.NATIVE), maps=MapConfig(pixel_side_px=112))
    assert choose_shortest_side(config, PATCH_SIZE) is None


def test_guide_of_the_size_of_the_frame_takes_no_memory_of_its_own() -> None:
    config = LabelConfig(views=ViewConfig(num_patches=196), maps=MapConfig(pixel_side_px=224))
    image = make_noise(300, 400)
    frame = fit_frame(image, config.views, PATCH_SIZE)
    assert fit_guide(image, config, PATCH_SIZE, frame) is frame


def test_normalised_pixels_have_the_mean_and_the_spread_of_the_model() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    normalised = normalise(images, (0.5, 0.2, 0.75), (0.5, 1.0, 0.125))
    torch.testing.assert_close(normalised.flatten(), torch.tensor([-1.0, 0.0, 2.0]))
