"""Columns of a row that depend on its mask: the encoded mask and its statistics.

Labelling and new masks of kept maps share this code.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pipeline.images.drawing.draw import draw_mask
from pipeline.images.drawing.grid_maps import GridMaps
from pipeline.images.drawing.stats import join_mask_stats
from pipeline.images.masks import encode_mask, name_mask_file
from pipeline.images.orientation import place_on_stored_pixels
from pipeline.run.config import MapConfig


def make_mask_columns(
    row: Mapping[str, Any],
    maps: GridMaps,
    classes: Sequence[Mapping[str, Any]],
    config: MapConfig,
    palette: UInt8[np.ndarray, "256 3"],
) -> dict[str, Any]:
    """Draw the mask of a row and measure it.

    Args:
        row: With its key and orientation.
        maps: In [0, 1], at the size of the upright image, before class scales.
        classes: Known columns of each class, with `class_id` and `presence`, in the order of the maps.
        config: Thresholds, class scales, least presence.
        palette: Colours of the mask.
    """
    class_ids = [one["class_id"] for one in classes]
    factors = take_class_scales(config.class_scales, class_ids)
    presence = np.array([one["presence"] for one in classes])
    drawn = draw_mask(maps if factors is None else maps.multiply(factors), class_ids, presence, config)
    stored = place_on_stored_pixels(drawn.mask, row["exif_orientation"])
    return {
        "mask": {"bytes": encode_mask(stored, palette, row["exif_orientation"]), "path": name_mask_file(row["key"])},
        **join_mask_stats(classes, drawn.stats, drawn.doubtful_class_ids),
    }


def take_class_scales(class_scales: Sequence[float] | None, class_ids: Sequence[int]) -> Float[np.ndarray, " k"] | None:
    """Scales of some classes, in the order of `class_ids` (from 1); None: no factors."""
    return None if class_scales is None else np.array([class_scales[class_id - 1] for class_id in class_ids])
