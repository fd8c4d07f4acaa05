"""Do the edges of a mask lie where the true ones are? Boundary F-score per class."""

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from pipeline.run.records import IGNORE_LABEL

TOLERANCE = 0.008
"""How far apart two edges may be to count as one, as a share of the image's diagonal. Source: DAVIS (Perazzi et al.,
CVPR 2016), after Martin et al., PAMI 2004."""

NUM_COUNTS = 4
"""Pixels on edges of the mask, of them near a true edge, pixels on true edges, of them near one of the mask."""


def count_boundaries(
    truth: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"], num_classes: int
) -> Int[np.ndarray, "c 4"]:
    """Count for each class the pixels on its edges, and those near an edge of the other side.

    The edge of a class are its pixels beside a pixel that is not of the class; the border of the image is none. What
    the truth leaves open (255) is not of the class, so where a true mask has a band of open pixels around an object, as
    that of PASCAL VOC, its edge is the inner one. An edge of the mask on open pixels counts only where it is near a
    true one.

    Returns:
        Rows are classes from 1; columns as `NUM_COUNTS` names them.
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
    """Find the pixels of a region that touch a pixel outside of it, at a side."""
    return region & ~ndimage.binary_erosion(region, border_value=1)


def score_boundaries(counts: Int[np.ndarray, "c 4"]) -> Float[np.ndarray, " c"]:
    """Compute the boundary F-score of each class from counts that may be sums; NaN where no class has an edge.

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
