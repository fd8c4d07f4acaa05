"""Boundary F-score of each class: how well the edges of a mask match the true edges."""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from pipeline.run.records import IGNORE_LABEL

TOLERANCE = 0.008
"""Distance within which two edges match, as a share of the image's diagonal. Source: DAVIS (Perazzi et al., CVPR 2016),
after Martin et al., PAMI 2004."""

NUM_COUNTS = 4
"""Pixels on edges of the mask, those of them near a true edge, pixels on true edges, those of them near an edge of the
mask."""


def count_boundaries(
    truth: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], num_classes: int
) -> Int[np.ndarray, "c 4"]:
    """Count for each class the pixels on its edges, and those of them near an edge of the other side.

    The edge of a class consists of its pixels beside a pixel of another class; the border of the image is no edge.
    Pixels that the truth ignores (255) are not of the class. So around an object with a band of ignored pixels, as in
    PASCAL VOC, the edge is the inner one. An edge of the mask on ignored pixels counts only near a true edge.

    Args:
        truth: Class of each pixel; 255 is ignored.
        mask: Of the same size.
        num_classes: Without the background.

    Returns:
        Rows are classes from 1; columns are described at `NUM_COUNTS`.
    """
    reach_px = max(1.0, TOLERANCE * float(np.hypot(*truth.shape)))
    counts = np.zeros((num_classes, NUM_COUNTS), np.int64)
    for class_id in range(1, num_classes + 1):
        drawn, true = find_edge(mask == class_id), find_edge(truth == class_id)
        hits = drawn & _is_near(true, reach_px)
        judged = hits | (drawn & (truth != IGNORE_LABEL))
        counts[class_id - 1] = judged.sum(), hits.sum(), true.sum(), (true & _is_near(drawn, reach_px)).sum()
    return counts


def find_edge(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Find the pixels of a region that share a side with a pixel outside of it."""
    return region & ~ndimage.binary_erosion(region, border_value=1)


def score_boundaries(counts: Int[np.ndarray, "c 4"]) -> Float[np.ndarray, " c"]:
    """Compute the boundary F-score of each class from counts of one or more images; NaN for a class without edges.

    >>> score_boundaries(np.array([[10, 5, 20, 20]])).round(3).tolist()
    [0.667]
    """
    num_drawn, num_hits, num_true, num_found = counts.T.astype(float)
    precision = np.divide(num_hits, num_drawn, out=np.zeros_like(num_hits), where=num_drawn > 0)
    recall = np.divide(num_found, num_true, out=np.zeros_like(num_hits), where=num_true > 0)
    total = precision + recall
    scores = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return np.where(num_drawn + num_true > 0, scores, np.nan)


def _is_near(edge: Bool[np.ndarray, "h w"], reach_px: float) -> Bool[np.ndarray, "h w"]:
    if not edge.any():
        return edge
    return ndimage.distance_transform_edt(~edge) <= reach_px
