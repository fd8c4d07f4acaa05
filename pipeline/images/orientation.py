"""EXIF orientations: stored pixels turned upright, and upright arrays turned back."""

import numpy as np
from jaxtyping import Shaped

# Per EXIF orientation: swap the axes of the stored pixels, then step through rows and columns like this.
_UPRIGHT_STEPS = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
ORIENTATIONS = frozenset(_UPRIGHT_STEPS)
"""The orientations that EXIF defines, 1 to 8."""


def turn_size(size: tuple[int, int], exif_orientation: int) -> tuple[int, int]:
    """Height and width of an upright image from those of its stored pixels, or the other way round.

    >>> turn_size((480, 640), 6), turn_size((480, 640), 3)
    ((640, 480), (480, 640))

    Raises:
        ValueError: The orientation is not 1 to 8.
    """
    swap, _, _ = _get_steps(exif_orientation)
    return (size[1], size[0]) if swap else (size[0], size[1])


def turn_upright(
    stored: Shaped[np.ndarray, "h w ..."], exif_orientation: int
) -> Shaped[np.ndarray, "upright_h upright_w ..."]:
    """Turn stored pixels upright.

    Raises:
        ValueError: The orientation is not 1 to 8.
    """
    swap, row_step, column_step = _get_steps(exif_orientation)
    return (stored.swapaxes(0, 1) if swap else stored)[::row_step, ::column_step]


def place_on_stored_pixels(
    upright: Shaped[np.ndarray, "upright_h upright_w"], exif_orientation: int
) -> Shaped[np.ndarray, "stored_h stored_w"]:
    """Turn an array in the frame of the upright image back to the frame of the stored pixels.

    >>> place_on_stored_pixels(np.array([[1, 2, 3]]), 6).tolist()
    [[3], [2], [1]]

    Raises:
        ValueError: The orientation is not 1 to 8.
    """
    swap, row_step, column_step = _get_steps(exif_orientation)
    turned = upright[::row_step, ::column_step]
    return np.ascontiguousarray(turned.swapaxes(0, 1) if swap else turned)


def _get_steps(exif_orientation: int) -> tuple[bool, int, int]:
    if exif_orientation not in _UPRIGHT_STEPS:
        raise ValueError(f"need an exif_orientation from 1 to 8, got {exif_orientation}")
    return _UPRIGHT_STEPS[exif_orientation]
