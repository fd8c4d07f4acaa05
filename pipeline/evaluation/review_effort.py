"""How many images a reviewer looks at, worst first by a column, until most of the bad ones are found."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pipeline.evaluation.quality_ranks import MIN_VALUES, ScoredImage

BAD_IOU = 0.5
"""An image is bad if its IoU is below."""
FOUND_FRACTION = 0.8
"""Share of the bad images that a reviewer wants to find."""


class ReviewEffort(NamedTuple):
    """Numbers of images to look at until `num_wanted` of the bad ones are found; ties have their expected place."""

    num_images: int
    num_bad: int
    num_wanted: int
    by_quality: float
    """Worst first by `quality`."""
    at_random: float
    """In random order, on average."""


def measure_effort(images: Sequence[ScoredImage]) -> ReviewEffort | None:
    """Measure what `quality` saves a reviewer.

    Args:
        images: Those with a true mask; ones without `quality` are left out.

    Returns:
        The effort; None for fewer than `MIN_VALUES` images, or if none of them is bad.
    """
    known = [(image.columns["quality"], image.iou) for image in images if image.columns["quality"] is not None]
    is_bad = np.array([iou < BAD_IOU for _, iou in known], bool)
    if len(known) < MIN_VALUES or not is_bad.any():
        return None
    num_wanted = count_wanted(int(is_bad.sum()))
    return ReviewEffort(
        num_images=len(known),
        num_bad=int(is_bad.sum()),
        num_wanted=num_wanted,
        by_quality=count_to_find(np.array([quality for quality, _ in known], float), is_bad, num_wanted),
        at_random=count_to_find(np.zeros(len(known)), is_bad, num_wanted),
    )


def count_wanted(num_bad: int, found_fraction: float = FOUND_FRACTION) -> int:
    """Count the bad images that are the wanted share of all, rounded up.

    >>> count_wanted(10), count_wanted(11)
    (8, 9)
    """
    # A product such as 0.1 * 30 exceeds the whole number it stands for.
    return math.ceil(round(found_fraction * num_bad, 9))


def count_to_find(values: Float[np.ndarray, " n"], is_bad: Bool[np.ndarray, " n"], num_wanted: int) -> float:
    """Count the images up to the bad one that is the `num_wanted`-th, lowest value first.

    Images of equal value are in random order, and the result is the mean over their orders: the j-th of b bad images
    among g stands at j (g + 1) / (b + 1).

    >>> count_to_find(np.array([0.1, 0.2, 0.3, 0.4]), np.array([True, False, True, False]), 2)
    3.0
    >>> count_to_find(np.zeros(9), np.array([True] + 8 * [False]), 1)
    5.0

    Args:
        values: Of the images.
        is_bad: Which of them are bad.
        num_wanted: From 1 to the number of bad images.

    Raises:
        ValueError: There are fewer bad images, or none is wanted.
    """
    if not 1 <= num_wanted <= is_bad.sum():
        raise ValueError(f"need 1 <= num_wanted <= {is_bad.sum()}, the number of bad images, got {num_wanted}")
    _, group, num_tied = np.unique(values, return_inverse=True, return_counts=True)
    bad_tied = np.bincount(group, weights=is_bad)
    found = np.cumsum(bad_tied)
    place = int(np.searchsorted(found, num_wanted))
    still_wanted = num_wanted - (found[place] - bad_tied[place])
    before = num_tied[:place].sum()
    return float(before + still_wanted * (num_tied[place] + 1) / (bad_tied[place] + 1))


def trace_found(
    values: Float[np.ndarray, " n"], is_bad: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Trace the share of the bad images found over the share of the images looked at, lowest value first.

    Returns:
        Shares looked at and shares found, both from 0 to 1; between them the expected curve is straight.

    Raises:
        ValueError: No image is bad.
    """
    if not is_bad.any():
        raise ValueError("none of the images is bad; there is nothing to find")
    _, group, num_tied = np.unique(values, return_inverse=True, return_counts=True)
    looked, found = np.cumsum(num_tied), np.cumsum(np.bincount(group, weights=is_bad))
    return np.append(0, looked / len(values)), np.append(0, found / is_bad.sum())
