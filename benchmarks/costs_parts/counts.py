"""Work of a GPU on a batch of real photos, counted on a pretended one. Counts do not depend on the machine."""

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from jobs.qualities import QUALITIES
from models.class_maps import refine_class_maps
from pipeline.bundles import load_bundle
from pipeline.images.mapping.class_mapper import ClassMapper
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.labelling.prepare import ReadyImage, SamplePreparer
from pipeline.run.config import LabelConfig, settle_config
from pipeline.run.records import Chunk
from pipeline.run.vocabulary import load_vocabulary
from tests.images.mapping.pretended_device import NAMED, CountedTransfers, DeviceCounts, OnDevice, move_to_device

BATCH_SIZE = 16
LARGE_SIZE = (1500, 2000)


class Counts(NamedTuple):
    """Work of a GPU on a batch of 16 photos, without that of the model, whose blocks run in bfloat16 as on GPUs."""

    launches: int
    launches_by_image: float
    """Launches that each further image adds."""
    waits: int
    uploads: int
    bytes_back: float
    """To the host, an image."""
    refined_bytes_back: float
    """The same with PAR, an image and class."""
    bytes_ratio: float
    """Bytes for photos of 2000 x 1500 pixels over those of 500 x 375."""
    affinity_launches: int
    """Of a view."""


def count_work(model: str, vocabulary: str, shard: str) -> Counts:
    """Count the work on the largest group of photos of one shape.

    Raises:
        ValueError: No 16 of the photos have one shape.
    """
    balanced, best = (_settle(QUALITIES[quality](), model) for quality in ("balanced", "best"))
    photos = _prepare(balanced, model, vocabulary, shard)
    refined_photos = _prepare(best, model, vocabulary, shard)
    counts, double = _count(balanced, model, photos), _count(balanced, model, photos * 2)
    large = _count(balanced, model, [replace(photo, upright_size=LARGE_SIZE) for photo in photos])
    refined = _count(best, model, refined_photos)
    most_classes = max(len(photo.class_ids) for photo in refined_photos)
    return Counts(
        launches=counts.launches.total(),
        launches_by_image=(double.launches.total() - counts.launches.total()) / BATCH_SIZE,
        waits=sum(counts.waits.values()),
        uploads=counts.num_uploads,
        bytes_back=counts.num_downloaded_bytes / BATCH_SIZE,
        refined_bytes_back=refined.num_downloaded_bytes / BATCH_SIZE / most_classes,
        bytes_ratio=large.num_downloaded_bytes / counts.num_downloaded_bytes,
        affinity_launches=_count_affinity(balanced, model, photos),
    )


def _settle(config: LabelConfig, model: str) -> LabelConfig:
    network, _, _ = load_bundle(model)
    return settle_config(config, network.config.grid_side)


def _prepare(config: LabelConfig, model: str, vocabulary: str, shard: str) -> list[ReadyImage]:
    network, _, _ = load_bundle(model)
    preparer = SamplePreparer(
        config=config, vocabulary=load_vocabulary(vocabulary), patch_size=network.config.patch_size
    )
    groups: dict[tuple[int, ...], list[ReadyImage]] = defaultdict(list)
    for piece in read_chunks(list_shards([shard])[0], config.inputs):
        for position, sample in enumerate(piece.samples if isinstance(piece, Chunk) else ()):
            image = preparer.prepare(position, sample)
            if isinstance(image, ReadyImage):
                groups[image.frame.shape].append(image)
    largest = max(groups.values(), key=len, default=[])
    if len(largest) < BATCH_SIZE:
        raise ValueError(f"need {BATCH_SIZE} photos of one shape, got {len(largest)}; raise --num-photos")
    return largest[:BATCH_SIZE]


def _count(config: LabelConfig, model: str, photos: list[ReadyImage]) -> DeviceCounts:
    network, bundle, _ = load_bundle(model)
    move_to_device(network)
    mapper = ClassMapper(
        model=network, bundle=bundle, config=config, device=NAMED, use_bf16=True, transfers=CountedTransfers()
    )
    guides = [photo.guide for photo in photos if photo.guide is not None]
    with DeviceCounts() as counts:
        mapper.queue(
            np.stack([photo.frame for photo in photos]),
            [photo.class_ids for photo in photos],
            [photo.upright_size for photo in photos],
            np.stack(guides) if guides else None,
        )()
    return counts


def _count_affinity(config: LabelConfig, model: str, photos: list[ReadyImage]) -> int:
    network, _, _ = load_bundle(model)
    height, width, _ = photos[0].frame.shape
    patch_size = network.config.patch_size
    with torch.inference_mode():
        output = network(torch.zeros(2, 3, height, width))
        moved = output._replace(
            queries=tuple(OnDevice(one.bfloat16()) for one in output.queries),
            keys=tuple(OnDevice(one.bfloat16()) for one in output.keys),
        )
        maps = torch.rand(2, 2, height // patch_size, width // patch_size)
        with DeviceCounts() as counts:
            refine_class_maps(moved, OnDevice(maps), config.maps.num_affinity_layers, config.maps.affinity_steps)
    return counts.launches.total()
