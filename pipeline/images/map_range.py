"""Range of a class map: maps that are constant up to rounding are not stretched, which would draw noise."""

import numpy as np
from jaxtyping import Bool, Float

from models.rounding import NOISE


def find_constant(low: Float[np.ndarray, "*any"], high: Float[np.ndarray, "*any"]) -> Bool[np.ndarray, "*any"]:
    """True for float32 maps that are constant up to rounding, from their extremes; false for maps with NaN.

    The rule is that of `models.class_maps.scale_min_max`.
    """
    least = NOISE * np.finfo(np.float32).eps * np.maximum(abs(low), abs(high))
    constant: np.ndarray = high - low <= np.maximum(least, np.finfo(np.float32).tiny)
    return constant
