"""Thresholds without true masks, from the class maps alone; and a band around a threshold that is left open.

The best class map of an image is high on its objects and low elsewhere, so where it lies well above its own mean it
shows an object. How well differs from model to model and from one refinement to another, and so do mean and spread.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from pipeline.thresholds.samples import MapSample

NUM_BINS = 100
"""Thresholds are whole hundredths, as those of the curves of tagmask evaluate."""
NUM_DEVIATIONS = 0.5
"""Of the rules tried (docs/measurements.md), the one that is never far from the best threshold. Otsu's is as good for
maps that were spread along the affinity once, and 3 to 4 points of mIoU off for maps that were spread twice."""


def count_values(sample: MapSample, class_scales: Sequence[float] | None = None) -> Int[np.ndarray, " bins"]:
    """Count an image's pixels by the value of its best class map, in `NUM_BINS` equal bins from 0 to 1."""
    scales = 1.0 if class_scales is None else np.array([class_scales[n - 1] for n in sample.class_ids])[:, None]
    best = (sample.maps * scales).max(axis=0)
    return np.bincount(np.minimum((best * NUM_BINS).astype(np.int64), NUM_BINS - 1), minlength=NUM_BINS)


def compute_threshold(histogram: Int[np.ndarray, " bins"]) -> float | None:
    """Give the threshold of one image: mean of its values plus `NUM_DEVIATIONS` standard deviations.

    It is at most the lower end of the highest bin that has values, so that something is above it. None where all values
    are in one bin, and nothing can be parted.

    >>> histogram = np.zeros(100, np.int64)
    >>> histogram[[10, 90]] = 5
    >>> compute_threshold(histogram)
    0.705
    """
    if np.count_nonzero(histogram) < 2:
        return None
    centers = (np.arange(len(histogram)) + 0.5) / len(histogram)
    shares = histogram / histogram.sum()
    mean = float((shares * centers).sum())
    deviation = float((shares * (centers - mean) ** 2).sum()) ** 0.5
    highest = float(np.flatnonzero(histogram)[-1]) / len(histogram)
    return round(min(mean + NUM_DEVIATIONS * deviation, highest), 6)


def choose_threshold(histograms: Iterable[Int[np.ndarray, " bins"]]) -> float | None:
    """Choose the threshold of a collection: the mean of the thresholds of its images, in hundredths.

    None where no image has one.
    """
    found = [threshold for threshold in map(compute_threshold, histograms) if threshold is not None]
    return round(float(np.mean(found)), 2) if found else None


def find_band(
    histograms: Sequence[Int[np.ndarray, " bins"]], threshold: float, min_stability: float
) -> tuple[float, float]:
    """Find the widest band around a threshold within which the mask is as stable as wanted.

    Stability is the area above the upper end over the area above the lower end, as a mean share of the images' pixels.

    Args:
        histograms: Of the images, as `count_values` gives them.
        threshold: The middle of the band.
        min_stability: In (0, 1]; 1 leaves no band but where maps have no values.

    Returns:
        Background and foreground threshold, equally far from the middle, in [0, 1].
    """
    shares = np.mean([histogram / histogram.sum() for histogram in histograms], axis=0)
    lower, upper = threshold, threshold
    for step in range(1, NUM_BINS):
        width = step / NUM_BINS
        wider = (round(threshold - width, 6), round(threshold + width, 6))
        if (
            wider[0] < 0
            or wider[1] > 1
            or _measure_area(shares, wider[1]) < min_stability * _measure_area(shares, wider[0])
        ):
            break
        lower, upper = wider
    return lower, upper


def _measure_area(shares: Float[np.ndarray, " bins"], threshold: float) -> float:
    """Give the share of pixels above a threshold; within a bin values are taken to lie evenly."""
    above = np.concatenate([np.cumsum(shares[::-1])[::-1], [0.0]])
    return float(np.interp(threshold * NUM_BINS, np.arange(NUM_BINS + 1), above))
