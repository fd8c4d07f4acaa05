"""Validation images: the square in the middle, with memory that does not grow with the length of an image."""

import numpy as np
import pytest
from PIL import Image

from pipeline.images.frames import resize_planes
from pipeline.training.data.augmentation import resize_to_square

SIDE = 32


def make_smooth(height: int, width: int) -> np.ndarray:
    """Colours that change little from pixel to pixel, and nowhere repeat."""
    rng = np.random.default_rng(0)
    few = rng.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC))


def cut_after_resizing(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    short = min(height, width)
    whole = resize_planes(image, (SIDE * height // short, SIDE * width // short))
    top, left = (round((length - SIDE) / 2) for length in whole.shape[1:])
    return whole[:, top : top + SIDE, left : left + SIDE]


@pytest.mark.parametrize(
    "size", [(75, 100), (100, 75), (60, 60), (33, 97), (100, 500), (500, 100), (1, 9), (17, 19), (64, 326)]
)
def test_square_of_a_photo_is_that_of_the_whole_resized_image(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_to_square(image, SIDE), cut_after_resizing(image))


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 501), (8, 4001), (160, 3001), (1201, 64), (64, 100_00)])
def test_square_of_a_long_image_is_that_of_the_whole_resized_image_up_to_its_rounded_length(
    size: tuple[int, int],
) -> None:
    image = make_smooth(*size)
    found, expected = resize_to_square(image, SIDE), cut_after_resizing(image)
    assert np.abs(found.astype(int) - expected).max() <= 4


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (3, 200_001)])
def test_memory_of_a_validation_image_does_not_grow_with_its_length(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    square = resize_to_square(image, SIDE)
    assert square.shape == (3, SIDE, SIDE)
    # What the square is a part of is also in memory.
    whole = square if square.base is None else square.base
    assert whole.nbytes <= 12 * square.nbytes
