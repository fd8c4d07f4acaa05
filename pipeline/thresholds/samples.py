"""Kept maps and truth at a grid of pixels of each image: little enough to try many thresholds in memory."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pipeline.commit.manifests import Manifest, stream_manifest
from pipeline.evaluation.evaluate import FindTruth, decode_truth
from pipeline.images.decode import turn_upright
from pipeline.kept_maps.images import read_images
from pipeline.kept_maps.row_maps import make_row_maps
from pipeline.kept_maps.source import KEPT_COLUMNS
from pipeline.run.config import LabelConfig
from pipeline.run.records import InputShard, Status

MAX_SAMPLED_SIDE_PX = 96
"""Every n-th pixel is looked at, so that the longer side has at most so many: maps come from a few dozen patches a
side. An image of two classes takes about 60 kB."""
_COLUMNS = ("index", *(name for name in KEPT_COLUMNS if name not in ("tags_unknown", "classes", "image_sha256")))
_PLAIN = LabelConfig()
"""Maps as they are kept, which no pixels refine."""


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where the images are whose pixels refine the maps of a manifest, and how they do."""

    shard: InputShard
    config: LabelConfig
    patch_size: int
    """Of the model, in pixels."""


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


def read_samples(
    manifest_uri: str, find_truth: FindTruth | None, num_classes: int, most: int, source: ImageSource | None = None
) -> list[MapSample]:
    """Sample the labelled images of a manifest.

    Args:
        manifest_uri: A manifest with kept maps.
        find_truth: Gives the true mask of a key; images without one are left out. None: none has one, all are taken.
        num_classes: Of the run.
        most: At most so many of these images, at equal distances.
        source: Of the images, if pixels refine the maps.

    Raises:
        ManifestError: A labelled row has no maps.
        ShardError: Images are needed, and those that were labelled are not there.
        LabellingError: A true mask does not fit its image or the run.
    """
    with stream_manifest(manifest_uri) as manifest:
        rows = [row for row in manifest.iterate_rows(_COLUMNS) if row["status"] == Status.LABELLED]
        pairs = [(row, None if find_truth is None else find_truth(row["key"])) for row in rows]
        wanted = spread([pair for pair in pairs if find_truth is None or pair[1] is not None], most)
        if source is None:
            return [_sample_row(row, None, truth, num_classes, _PLAIN, None) for row, truth in wanted]
        images = _read_images(manifest, source, [row["index"] for row, _ in wanted])
        return [
            _sample_row(row, image, truth, num_classes, source.config, source.patch_size)
            for (row, truth), image in zip(wanted, images, strict=True)
        ]


def _read_images(manifest: Manifest, source: ImageSource, wanted: Sequence[int]) -> Iterator[bytes | None]:
    """Read the images of some rows of a manifest, by their places in it, which rise; a chunk in memory at a time."""
    starts = np.cumsum([0, *(num_rows for num_rows, _ in manifest.footer["chunks"])])
    by_chunk: dict[int, list[int]] = defaultdict(list)
    for place in wanted:
        by_chunk[int(np.searchsorted(starts, place, side="right")) - 1].append(place)
    for chunk, images in read_images(source.shard, source.config.inputs, manifest, by_chunk.keys()):
        yield from (images[place - starts[chunk]] for place in by_chunk[chunk])


def _sample_row(
    row: Mapping[str, Any],
    image: bytes | None,
    payload: bytes | None,
    num_classes: int,
    config: LabelConfig,
    patch_size: int | None,
) -> MapSample:
    """Sample a row with its true mask, if it has one; both of them still encoded."""
    step = -(-max(row["height"], row["width"]) // MAX_SAMPLED_SIDE_PX)
    maps = make_row_maps(row, image, config, patch_size).numpy()
    truth = None
    if payload is not None:
        stored = decode_truth(payload, row["key"], (row["height"], row["width"]), num_classes)
        upright = turn_upright(stored, row["exif_orientation"])
        rows_at, columns_at = (_spread_over(upright.shape[axis], maps.shape[axis + 1]) for axis in (0, 1))
        truth = upright[np.ix_(rows_at, columns_at)][::step, ::step].reshape(-1)
    sampled = np.ascontiguousarray(maps[:, ::step, ::step].reshape(len(maps), -1))
    return MapSample(class_ids=tuple(row["class_ids"]), maps=sampled, truth=truth)


def _spread_over(num_from: int, num_to: int) -> np.ndarray:
    """Give the nearest of `num_from` pixels for each of `num_to`: maps of a huge image are smaller than its truth."""
    return ((np.arange(num_to) + 0.5) * num_from / num_to).astype(np.int64)
