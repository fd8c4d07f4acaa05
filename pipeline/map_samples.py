"""Kept maps and truth at a grid of pixels of each image: little enough to try many thresholds in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from pipeline.decode import turn_upright
from pipeline.evaluation import FindTruth, decode_truth
from pipeline.kept_maps import KEPT_COLUMNS
from pipeline.manifests import stream_manifest
from pipeline.masks import decode_class_maps
from pipeline.pixel_maps import enlarge_maps
from pipeline.records import Status
from pipeline.remask import measure_upright, require_row_maps

MAX_SAMPLED_SIDE_PX = 96
"""Every n-th pixel is looked at, so that the longer side has at most so many: maps come from a few dozen patches a
side. An image of two classes takes about 60 kB."""
_COLUMNS = tuple(name for name in KEPT_COLUMNS if name not in ("tags_unknown", "classes", "image_sha256"))


@dataclass(frozen=True, kw_only=True)
class MapSample:
    """The class maps of an image, and its truth, at the same pixels."""

    class_ids: tuple[int, ...]
    maps: Float[np.ndarray, "k p"]
    """In [0, 1], before any class scales."""
    truth: UInt8[np.ndarray, " p"] | None


def spread(values: Sequence[Any], most: int) -> list[Any]:
    """Take at most so many values, at equal distances.

    >>> spread(range(10), 3)
    [0, 3, 6]
    """
    return [values[index * len(values) // most] for index in range(most)] if len(values) > most else list(values)


def read_samples(manifest_uri: str, find_truth: FindTruth | None, num_classes: int, most: int) -> list[MapSample]:
    """Sample the labelled images of a manifest.

    Args:
        manifest_uri: A manifest with kept maps.
        find_truth: Gives the true mask of a key; images without one are left out. None: none has one, all are taken.
        num_classes: Of the run.
        most: At most so many of these images, at equal distances.

    Raises:
        ManifestError: A labelled row has no maps.
        LabellingError: A true mask does not fit its image or the run.
    """
    with stream_manifest(manifest_uri) as manifest:
        rows = [row for row in manifest.iterate_rows(_COLUMNS) if row["status"] == Status.LABELLED]
    pairs = [(row, None if find_truth is None else find_truth(row["key"])) for row in rows]
    wanted = [pair for pair in pairs if find_truth is None or pair[1] is not None]
    return list(_sample_rows(spread(wanted, most), num_classes))


def _sample_rows(rows: Sequence[tuple[Mapping[str, Any], bytes | None]], num_classes: int) -> Iterator[MapSample]:
    """Sample rows, each with its true mask."""
    for row, payload in rows:
        require_row_maps(row)
        step = -(-max(row["height"], row["width"]) // MAX_SAMPLED_SIDE_PX)
        grid = torch.from_numpy(decode_class_maps(row["class_maps"]).copy())[None]
        maps = enlarge_maps([grid], measure_upright(row)).numpy()
        truth = None
        if payload is not None:
            stored = decode_truth(payload, row["key"], (row["height"], row["width"]), num_classes)
            upright = turn_upright(stored, row["exif_orientation"])
            rows_at, columns_at = (_spread_over(upright.shape[axis], maps.shape[axis + 1]) for axis in (0, 1))
            truth = upright[np.ix_(rows_at, columns_at)][::step, ::step].reshape(-1)
        sampled = np.ascontiguousarray(maps[:, ::step, ::step].reshape(len(maps), -1))
        yield MapSample(class_ids=tuple(row["class_ids"]), maps=sampled, truth=truth)


def _spread_over(num_from: int, num_to: int) -> np.ndarray:
    """Give the nearest of `num_from` pixels for each of `num_to`: maps of a huge image are smaller than its truth."""
    return ((np.arange(num_to) + 0.5) * num_from / num_to).astype(np.int64)
