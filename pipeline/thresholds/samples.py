"""Samples of kept maps and truth, at a grid of pixels of each image: small enough to try many thresholds in memory."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from pipeline.commit.manifests import Manifest, stream_manifest
from pipeline.errors import TruthError
from pipeline.evaluation.sampling import take_evenly
from pipeline.evaluation.truth import FindTruth, decode_truth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.images.drawing.draw import choose_lattice
from pipeline.images.orientation import turn_upright
from pipeline.kept_maps.chunk_rows import KEPT_COLUMNS
from pipeline.kept_maps.images import read_images
from pipeline.kept_maps.row_maps import make_row_maps
from pipeline.run.config import LabelConfig
from pipeline.run.records import PLACE_COLUMNS, InputShard, Status

MAX_SAMPLED_SIDE_PX = 96
"""Most pixels of the longer side in a sample, which has every n-th pixel: maps come from a few dozen patches a side. An
image of two classes takes about 60 kB."""
_UNUSED = frozenset({"tags_unknown", "classes", "image_sha256", *PLACE_COLUMNS})
_COLUMNS = ("index", *(name for name in KEPT_COLUMNS if name not in _UNUSED))
_PLAIN = LabelConfig()
"""Configuration of maps that no pixels refine."""


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images whose pixels refine the maps of a manifest, and the configuration of the refinement."""

    shard: InputShard
    config: LabelConfig
    patch_size: int
    """Of the model, in pixels."""


@dataclass(frozen=True, kw_only=True)
class MapSample:
    """Class maps and truth of an image, at the same pixels."""

    class_ids: tuple[int, ...]
    maps: Float[np.ndarray, "k p"]
    """In [0, 1], before class scales."""
    truth: UInt8[np.ndarray, " p"] | None


def read_samples(
    manifest_uri: str,
    find_truth: FindTruth | None,
    num_classes: int,
    most: int,
    source: ImageSource | None = None,
    on_bad_truth: Callable[[TruthError], None] | None = None,
    frame: TruthFrame = TruthFrame.AUTO,
    left_out: Collection[int] = (),
) -> list[MapSample]:
    """Sample the labelled images of a manifest.

    Args:
        manifest_uri: A manifest with kept maps.
        find_truth: From key to encoded true mask, or None; images without one are left out. None: all images are
            sampled, without truth.
        num_classes: Of the run, without the background.
        most: Largest number of images, which are taken at equal distances.
        source: Of the images; None: pixels do not refine the maps.
        on_bad_truth: Called with what is wrong with a true mask that cannot be used, whose image is left out; None:
            raised.
        frame: Of the true masks.
        left_out: Indices of rows that are not sampled, as those with which reviewers found fault.

    Raises:
        ManifestError: A labelled row has no maps.
        ShardError: Pixels refine the maps, and the labelled images cannot be read.
        TruthError: A true mask does not match its image or the run.
        TruthFrameError: A true mask fits its image in both frames, and nothing tells in which it is.
    """
    complain = _raise if on_bad_truth is None else on_bad_truth
    with stream_manifest(manifest_uri) as manifest:
        rows = [row for row in manifest.iterate_rows(_COLUMNS) if row["status"] == Status.LABELLED]
        rows = [row for row in rows if row["index"] not in left_out]
        pairs = list(_pair_with_truth(rows, find_truth, num_classes, complain, frame))
        wanted = take_evenly([pair for pair in pairs if find_truth is None or pair[1] is not None], most)
        if source is None:
            return [_sample_row(row, None, truth, num_classes, _PLAIN, None, frame) for row, truth in wanted]
        images = _read_images(manifest, source, [row["index"] for row, _ in wanted])
        return [
            _sample_row(row, image, truth, num_classes, source.config, source.patch_size, frame)
            for (row, truth), image in zip(wanted, images, strict=True)
        ]


def _raise(error: TruthError) -> None:
    raise error


def _pair_with_truth(
    rows: Sequence[Mapping[str, Any]],
    find_truth: FindTruth | None,
    num_classes: int,
    complain: Callable[[TruthError], None],
    frame: TruthFrame,
) -> Iterator[tuple[Mapping[str, Any], bytes | None]]:
    """Pair rows with their encoded true masks, without the rows whose true mask cannot be used."""
    for row in rows:
        payload = None
        if find_truth is not None:
            try:
                payload = find_truth(row["key"])
                if payload is not None:
                    _decode_truth(row, payload, num_classes, frame)
            except TruthError as error:
                complain(error)
                continue
        yield row, payload


def _read_images(manifest: Manifest, source: ImageSource, wanted: Sequence[int]) -> Iterator[bytes | None]:
    """Read the images of rows of a manifest, by ascending index, with one chunk in memory."""
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
    frame: TruthFrame,
) -> MapSample:
    """Sample a row, from its encoded image and its encoded true mask, if any."""
    maps = make_row_maps(row, image, config, patch_size)
    lattice = choose_lattice(maps.size, MAX_SAMPLED_SIDE_PX)
    truth = None
    if payload is not None:
        stored = _decode_truth(row, payload, num_classes, frame)
        upright = turn_upright(stored, row["exif_orientation"])
        truth = upright[np.ix_(*lattice)].reshape(-1)
    sampled = maps.sample(*lattice).clip(0, 1).reshape(maps.num_classes, -1)
    return MapSample(class_ids=tuple(row["class_ids"]), maps=sampled, truth=truth)


def _decode_truth(
    row: Mapping[str, Any], payload: bytes, num_classes: int, frame: TruthFrame
) -> UInt8[np.ndarray, "h w"]:
    size = (row["height"], row["width"])
    return decode_truth(payload, row["key"], size, num_classes, row["exif_orientation"], frame)
