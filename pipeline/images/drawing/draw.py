"""The pseudo label of one image and its statistics, from class maps on small grids.

Labelling, new masks of kept maps and calibration share this code, so that they round alike. It runs on the CPU.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from pipeline.images.drawing.grid_maps import GridMaps
from pipeline.images.drawing.stats import (
    ClassMaskStats,
    MaskStats,
    compare_contenders,
    compute_stability,
    count_components,
    find_two_highest,
)
from pipeline.run.config import MapConfig
from pipeline.run.records import IGNORE_LABEL

MAX_SAMPLED_SIDE_PX = 128
"""Margin, entropy, stability and components use this many rows and columns of larger images at most: the maps come from
a few dozen patches a side."""


class DrawnMask(NamedTuple):
    """A pseudo label and its statistics."""

    mask: UInt8[np.ndarray, "h w"]
    """Of the upright image: 0 background, class ids, 255 ignored."""
    stats: MaskStats
    doubtful_class_ids: tuple[int, ...]
    """Classes left out of the mask."""


def draw_mask(
    maps: GridMaps, class_ids: Sequence[int], presence: Float[np.ndarray, " k"], config: MapConfig
) -> DrawnMask:
    """Draw the pseudo label of an image, without its doubtful classes, and measure it.

    A pixel gets the class of its highest map, background, or 255. Its map has to exceed the foreground threshold for
    the class, and is at most the background threshold for the background. The lowest class wins a tie.

    Args:
        maps: In [0, 1] up to rounding, after class scales.
        class_ids: Class of each map, 1 to 254.
        presence: Probability of each class; a class below `config.min_presence` is doubtful.
        config: Thresholds, the least presence, and whether there is background.
    """
    # Rows hold float32, by which the audit judges.
    is_likely = np.asarray(presence, np.float32) >= np.float32(config.min_presence)
    ids = [class_id for class_id, likely in zip(class_ids, is_likely, strict=True) if likely]
    doubtful = tuple(class_id for class_id, likely in zip(class_ids, is_likely, strict=True) if not likely)
    mask, sums = _draw(maps.select(is_likely), ids, config)
    # A doubtful class has no evidence.
    evidence = maps.multiply(is_likely.astype(np.float32)) if doubtful else maps
    stats = _measure(evidence, mask, class_ids, dict(zip(ids, sums, strict=True)), config)
    return DrawnMask(mask, stats, doubtful)


def choose_lattice(size: tuple[int, int], most: int) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " c"]]:
    """Rows and columns of an image at equal distances, at most `most` of each, centred in the image."""
    step = -(-max(size) // most)
    rows, columns = (np.arange(min(step // 2, (side - 1) // 2), side, step) for side in size)
    return rows, columns


def _draw(maps: GridMaps, ids: Sequence[int], config: MapConfig) -> tuple[UInt8[np.ndarray, "h w"], list[float]]:
    """Draw a mask; return it with the sum of each map over the pixels of its class."""
    sums = [0.0] * len(ids)
    if not ids:
        return np.zeros(maps.size, np.uint8), sums
    mask = np.empty(maps.size, np.uint8)
    order = np.argsort(ids)
    ordered = np.asarray(ids, np.uint8)[order]
    for place_of_tile, values in maps.select(order).iterate_tiles():
        tile = mask[place_of_tile]
        if not config.has_background:
            # Below 0 by rounding, a map would lose to one without evidence. With background no threshold is below 0.
            np.maximum(values, 0, out=values)
        best = _choose_best(values, ordered, tile)
        if config.has_background:
            _apply_thresholds(tile, best, config)
        for place, class_id in enumerate(ids):
            # Outside of the class 0 is added: faster than to select its pixels. The highest map of a class is its own.
            own = (tile == class_id).astype(np.float32)
            sums[place] += float(np.multiply(own, best, out=own).sum())
    return mask, sums


def _choose_best(
    values: Float[np.ndarray, "k h w"], ids: UInt8[np.ndarray, " k"], winners: UInt8[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """Write the class of the highest map of each pixel to `winners`; return the maps' highest values."""
    best = values[0]
    winners[:] = ids[0]
    for one, class_id in zip(values[1:], ids[1:], strict=True):
        _replace(winners, one > best, class_id)
        np.maximum(best, one, out=best)
    return best


def _apply_thresholds(winners: UInt8[np.ndarray, "h w"], best: Float[np.ndarray, "h w"], config: MapConfig) -> None:
    """Make pixels background or ignored whose highest map is too low."""
    # Values exceed 1 by rounding only, which is no evidence beyond a threshold of 1.
    low, high = (
        np.float32(np.inf if threshold >= 1 else threshold)
        for threshold in (config.background_threshold, config.foreground_threshold)
    )
    if low == high:
        np.multiply(winners, best > high, out=winners)
        return
    _replace(winners, best <= high, np.uint8(IGNORE_LABEL))
    np.multiply(winners, best > low, out=winners)


def _replace(labels: UInt8[np.ndarray, "h w"], is_replaced: Bool[np.ndarray, "h w"], label: np.uint8) -> None:
    """Replace some labels; several times faster than `np.copyto` with a mask."""
    np.multiply(labels, ~is_replaced, out=labels)
    np.add(labels, np.multiply(is_replaced, label), out=labels)


def _measure(
    maps: GridMaps,
    mask: UInt8[np.ndarray, "h w"],
    class_ids: Sequence[int],
    sums: dict[int, float],
    config: MapConfig,
) -> MaskStats:
    """Measure a pseudo label and its class maps.

    Fractions and confidence are exact; other measures use the pixels of `choose_lattice`. The background competes with
    the mean of both thresholds. Without background, stability measures the lead of a class over the others.
    """
    lattice = choose_lattice(maps.size, MAX_SAMPLED_SIDE_PX)
    sampled = maps.sample(*lattice).clip(0, 1)
    sampled_mask = mask[np.ix_(*lattice)]
    thresholds = (config.background_threshold, config.foreground_threshold)
    margin, entropy = compare_contenders(sampled, sum(thresholds) / 2 if config.has_background else None)
    # A class competes with the threshold, or with the other classes.
    contested, line = (sampled, thresholds[1]) if config.has_background else (_compute_leads(sampled), 0.0)
    num_of = {class_id: int(np.count_nonzero(mask == class_id)) for class_id in class_ids}
    num_background = mask.size - int(np.count_nonzero(mask))
    classes = tuple(
        ClassMaskStats(
            area_fraction=num_of[class_id] / mask.size,
            confidence_mean=min(sums[class_id] / num_of[class_id], 1.0) if num_of[class_id] else None,
            stability=compute_stability(contested[place], line),
            components=count_components(sampled_mask == class_id),
        )
        for place, class_id in enumerate(class_ids)
    )
    return MaskStats(
        ignore_fraction=(mask.size - num_background - sum(num_of.values())) / mask.size,
        background_fraction=num_background / mask.size,
        margin_mean=margin,
        entropy_mean=entropy,
        classes=classes,
    )


def _compute_leads(maps: Float[np.ndarray, "k h w"]) -> Float[np.ndarray, "k h w"]:
    """Lead of each class map over the highest other map; 1 if there is no other map."""
    if len(maps) <= 1:
        return np.ones_like(maps)
    first, second = find_two_highest(maps)
    return maps - np.where(maps == first, second, first)
