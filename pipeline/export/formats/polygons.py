"""Masks as closed polygons, as formats without run lengths need them. OpenCV is in extra `export`."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int


def find_polygons(region: Bool[np.ndarray, "h w"]) -> Iterator[Int[np.ndarray, "points 2"]]:
    """Find one polygon a component, whose points are centres of pixels at its border, x before y.

    A hole is joined to the outline by a cut of no width, so that filling the polygon by parity leaves it out, up to
    pixels at its border. A component of one or two pixels repeats its points: tools need at least three.

    Args:
        region: Pixels of a class.
    """
    import cv2

    outlines, levels = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if levels is None:
        return
    for number, outline in enumerate(outlines):
        if levels[0][number][3] >= 0:
            # A hole, which belongs to its component.
            continue
        ring = outline[:, 0]
        hole = levels[0][number][2]
        while hole >= 0:
            ring = _cut_to(ring, outlines[hole][:, 0])
            hole = levels[0][hole][0]
        yield ring if len(ring) >= 3 else np.resize(ring, (3, 2))


def _cut_to(ring: Int[np.ndarray, "points 2"], hole: Int[np.ndarray, "others 2"]) -> Int[np.ndarray, "more 2"]:
    """Join the outline of a hole to a ring, where they come near each other."""
    # The nearest point of the ring to the first of the hole, then the nearest of the hole to that.
    place = int(((ring - hole[0]) ** 2).sum(1).argmin())
    other = int(((hole - ring[place]) ** 2).sum(1).argmin())
    turned = np.roll(hole, -other, axis=0)
    return np.concatenate([ring[: place + 1], turned, turned[:1], ring[place:]])
