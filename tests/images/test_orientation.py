"""EXIF orientations: sizes and pixels turned upright and back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.orientation import ORIENTATIONS, place_on_stored_pixels, turn_size, turn_upright


@given(height=st.integers(1, 6), width=st.integers(1, 6), orientation=st.sampled_from(sorted(ORIENTATIONS)))
def test_size_and_pixels_turn_alike_and_turn_back(height: int, width: int, orientation: Any) -> None:
    stored = np.arange(height * width).reshape(height, width)
    upright = turn_upright(stored, orientation)
    assert upright.shape == turn_size(stored.shape, orientation)
    assert turn_size(upright.shape, orientation) == stored.shape
    assert np.array_equal(place_on_stored_pixels(upright, orientation), stored)


@pytest.mark.parametrize("orientation", [0, 9, 42])
def test_invalid_orientation_is_an_error_that_names_it(orientation: int) -> None:
    for turn in (
        lambda: turn_size((2, 3), orientation),
        lambda: turn_upright(np.zeros((2, 3)), orientation),
        lambda: place_on_stored_pixels(np.zeros((2, 3)), orientation),
    ):
        with pytest.raises(ValueError, match=f"exif_orientation from 1 to 8, got {orientation}"):
            turn()
