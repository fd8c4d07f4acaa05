"""Thresholds without true masks, from the class maps alone; and a band around a threshold that is left open.

The best class map of an image is high on its objects and low elsewhere. Otsu's threshold parts its values into the two
groups whose means lie farthest apart for their sizes; the threshold of a collection is the mean of its images'.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from pipeline.map_samples import MapSample

NUM_BINS = 100
"""Thresholds are whole hundredths, as those of the curves of jobs.evaluate."""


def count_values(sample: MapSample, class_scales: Sequence[float] | None = None) -> Int[np.ndarray, " bins"]:
    """Count an image's pixels by the value of its best class map, in `NUM_BINS` equal bins from 0 to 1."""
    scales = 1.0 if class_scales is None else np.array([class_scales[n - 1] for n in sample.class_ids])[:, None]
    best = (sample.maps * scales).max(axis=0)
    return np.bincount(np.minimum((best * NUM_BINS).astype(np.int64), NUM_BINS - 1), minlength=NUM_BINS)


def compute_otsu(histogram: Int[np.ndarray, " bins"]) -> float | None:
    """Give the threshold in (0, 1) that parts values into two groups with the largest variance between them.

    None where all values are in one bin, and nothing can be parted.

    >>> histogram = np.zeros(100, np.int64)
    >>> histogram[[10, 11, 80, 81]] = 5
    >>> compute_otsu(histogram)
    0.46

    Where a range of thresholds parts them alike it is the middle of the range.

    Source: Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    centers = (np.arange(len(histogram)) + 0.5) / len(histogram)
    num_low, total = np.cumsum(histogram)[:-1], histogram.sum()
    low = num_low / total
    low_sum = np.cumsum(histogram * centers)[:-1] / total
    mean = float((histogram * centers).sum() / total)
    # By whole numbers: rounding must not make a group of an empty one.
    is_parted = (num_low > 0) & (num_low < total)
    between = np.where(is_parted, (mean * low - low_sum) ** 2, 0.0) / np.where(is_parted, low * (1 - low), 1.0)
    best = np.flatnonzero(is_parted & (between >= between.max() * (1 - 1e-9)))
    return round(float(best.mean() + 1) / len(histogram), 6) if len(best) else None


def choose_threshold(histograms: Iterable[Int[np.ndarray, " bins"]]) -> float | None:
    """Choose the threshold of a collection: the mean of Otsu's thresholds of its images, in hundredths.

    None where no image has one.
    """
    found = [threshold for threshold in map(compute_otsu, histograms) if threshold is not None]
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
