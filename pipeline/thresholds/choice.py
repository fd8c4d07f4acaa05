"""Thresholds from class maps alone, without true masks, and a band of ignored values around a threshold.

The best class map of an image is high on its objects and low elsewhere, so values well above its mean belong to an
object. Mean and standard deviation follow the model and the refinement, and so does the threshold.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from pipeline.thresholds.samples import MapSample

NUM_BINS = 100
"""Thresholds are whole hundredths, as in the curves of tagmask evaluate."""
NUM_DEVIATIONS = 0.5
"""Of the rules tried (docs/measurements.md), the one that is never far from the best threshold. Otsu's rule is as good
for maps with one step of affinity, and loses 3 to 4 points of mIoU with two steps."""


def count_values(sample: MapSample, class_scales: Sequence[float] | None = None) -> Int[np.ndarray, " bins"]:
    """Count the pixels of a sample by the value of the best class map, in `NUM_BINS` equal bins from 0 to 1."""
    scales = 1.0 if class_scales is None else np.array([class_scales[n - 1] for n in sample.class_ids])[:, None]
    best = (sample.maps * scales).max(axis=0)
    return np.bincount(np.minimum((best * NUM_BINS).astype(np.int64), NUM_BINS - 1), minlength=NUM_BINS)


def compute_threshold(histogram: Int[np.ndarray, " bins"]) -> float | None:
    """Threshold of one image: mean of its values plus `NUM_DEVIATIONS` standard deviations.

    It is at most the lower end of the highest bin with values, so that some values exceed it. None if all values are in
    one bin.

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
    """Threshold of a collection: the mean over its images, in hundredths; None if no image has one."""
    found = [threshold for threshold in map(compute_threshold, histograms) if threshold is not None]
    return round(float(np.mean(found)), 2) if found else None


def find_band(
    histograms: Sequence[Int[np.ndarray, " bins"]], threshold: float, min_stability: float
) -> tuple[float, float]:
    """Find the widest band around a threshold that keeps a stability.

    Stability is the area above the upper end over the area above the lower end, each as the mean share of pixels.

    Args:
        histograms: Of the images, from `count_values`.
        threshold: The middle of the band.
        min_stability: In (0, 1]; with 1 the band contains no values.

    Returns:
        Background and foreground threshold in [0, 1], at equal distances from the middle.
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
    """Share of pixels above a threshold, if values are uniform within a bin."""
    above = np.concatenate([np.cumsum(shares[::-1])[::-1], [0.0]])
    return float(np.interp(threshold * NUM_BINS, np.arange(NUM_BINS + 1), above))
