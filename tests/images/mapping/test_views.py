"""Views of a frame, and their maps back in the frame."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.mapping.views import View, list_views, make_view, return_to_frame
from pipeline.run.config import ViewConfig

PATCH_SIZE = 16


def make_images(height: int, width: int, num_channels: int = 3) -> torch.Tensor:
    return torch.rand(2, num_channels, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def test_views_are_every_scale_and_its_flip() -> None:
    config = ViewConfig(scales=(1.0, 0.75), flip=True)
    assert list_views(config) == (View(1.0, False), View(1.0, True), View(0.75, False), View(0.75, True))
    assert list_views(ViewConfig(scales=(1.0,), flip=False)) == (View(1.0, False),)


@settings(deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_view_at_scale_1_changes_no_pixel(height: int, width: int) -> None:
    images = make_images(height, width)
    assert torch.equal(make_view(images, View(1.0, False), PATCH_SIZE), images)
    assert torch.equal(make_view(images, View(1.0, True), PATCH_SIZE), images.flip(-1))


@settings(deadline=None)
@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    scale=st.sampled_from([0.1, 0.5, 0.75, 1.25, 2.0]),
    snap=st.booleans(),
)
def test_scaled_view_has_the_scaled_size_and_at_least_a_patch(
    height: int, width: int, scale: float, snap: bool
) -> None:
    view = make_view(make_images(height, width), View(scale, False), PATCH_SIZE, snap_to_patches=snap)
    for side, scaled in zip((height, width), view.shape[-2:], strict=True):
        assert scaled >= PATCH_SIZE
        assert scaled == PATCH_SIZE or abs(scaled - side * scale) <= (PATCH_SIZE / 2 if snap else 0.5)
        assert not snap or scaled % PATCH_SIZE == 0


@settings(deadline=None)
@given(
    height=st.integers(16, 50), width=st.integers(16, 50), scale=st.sampled_from([0.75, 1.0, 1.5]), snap=st.booleans()
)
def test_flipped_view_is_the_mirrored_view(height: int, width: int, scale: float, snap: bool) -> None:
    images = make_images(height, width)
    straight = make_view(images, View(scale, False), PATCH_SIZE, snap_to_patches=snap)
    flipped = make_view(images, View(scale, True), PATCH_SIZE, snap_to_patches=snap)
    assert torch.equal(flipped, straight.flip(-1))


@settings(deadline=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scale=st.sampled_from([0.75, 1.0]),
)
def test_flipped_view_of_a_flipped_image_has_flipped_maps(
    grid: tuple[int, int], size: tuple[int, int], scale: float
) -> None:
    maps = make_images(*grid, num_channels=4)
    straight = return_to_frame(maps, View(scale, False), size)
    assert straight.shape == (2, 4, *size)
    # The flipped view of the flipped image is the image itself, so the model gives the same maps.
    assert torch.equal(return_to_frame(maps, View(scale, True), size), straight.flip(-1))


@settings(deadline=None)
@given(
    value=st.floats(-10, 10, width=32),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_constant_maps_stay_constant(value: float, grid: tuple[int, int], size: tuple[int, int]) -> None:
    maps = torch.full((1, 2, *grid), value)
    torch.testing.assert_close(return_to_frame(maps, View(1.0, False), size), torch.full((1, 2, *size), value))


def test_maps_already_in_the_frame_stay_what_they_are() -> None:
    maps = make_images(7, 5, num_channels=2)
    assert torch.equal(return_to_frame(maps, View(1.0, False), (7, 5)), maps)


def test_returned_maps_keep_their_place() -> None:
    maps = torch.zeros(1, 1, 4, 8)
    maps[0, 0, 1, 6] = 1.0
    frame = return_to_frame(maps, View(1.0, True), (64, 128))
    row, column = divmod(int(frame[0, 0].argmax()), 128)
    assert 16 <= row < 32
    assert 16 <= column < 32
