"""Labelling a chunk with a model: samples -> class maps -> masks and statistics.

    samples -> decode (threads) -> batches of one shape -> ClassMapper (device) -> masks, rows (threads)

No Ray here: an actor calls `ChunkLabeler.label_chunk`, and so does a plain loop. Several threads may call it at once: a
lock keeps one on the device while others decode and encode.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8

from models.bundle import ModelBundle
from models.mctformer import MCTformer
from pipeline.images.drawing.columns import make_mask_columns
from pipeline.images.mapping.class_mapper import ClassMapper
from pipeline.images.mapping.evidence import ImageEvidence
from pipeline.images.masks import build_palette, encode_class_maps
from pipeline.labelling.batches import BatchMapper
from pipeline.labelling.prepare import ReadyImage, RejectedSample, SamplePreparer, reject
from pipeline.run.config import LabelConfig, settle_config
from pipeline.run.records import PART_SCHEMA, Reason, Sample, Status
from pipeline.run.vocabulary import Vocabulary

OUT_OF_MEMORY = "the device has too little memory for this image alone; label it on a larger one or in smaller views"

NOT_FINITE = (
    "the model gives NaN or infinite values for this image, again in float32; look at the image, and if many say so at "
    "the weights of the model and at the device"
)

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class ChunkLabeler:
    """Labels chunks with one model on one device."""

    def __init__(
        self,
        *,
        model: MCTformer,
        bundle: ModelBundle,
        vocabulary: Vocabulary,
        config: LabelConfig,
        device: torch.device,
        batch_size: int,
        num_threads: int,
        use_bf16: bool,
    ) -> None:
        """Put the model on its device.

        Args:
            model: In evaluation mode; moved to `device`.
            bundle: Input statistics and classes of the model.
            vocabulary: Its classes are the model's, in the same order.
            config: Determines the bytes; the remaining arguments only affect the speed.
            device: Device of the model and the class maps.
            batch_size: Images of one shape in a forward pass, as `limit_batch_size` allows.
            num_threads: Threads that decode images and encode masks.
            use_bf16: Run the blocks under bfloat16 autocast; maps stay float32.
        """
        config = settle_config(config, model.config.grid_side)
        self._config = config
        self._window = batch_size + 2 * num_threads
        self._palette = build_palette(vocabulary.colours, vocabulary.classes)
        self._preparer = SamplePreparer(config=config, vocabulary=vocabulary, patch_size=model.config.patch_size)
        mapper = ClassMapper(
            model=model.to(device).eval(), bundle=bundle, config=config, device=device, use_bf16=use_bf16
        )
        self._batches = BatchMapper(mapper, batch_size)
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="label")

    def label_chunk(self, samples: Sequence[Sample], on_progress: Callable[[], None] = lambda: None) -> pa.Table:
        """Label the samples of a chunk.

        Args:
            samples: Still encoded.
            on_progress: Called after every step of an image or batch, from any thread.

        Returns:
            One row a sample, in order, with the schema `PART_SCHEMA`. A sample that cannot be labelled is a rejected
            row with its reason.
        """
        rows: dict[int, dict[str, Any]] = {}
        unfinished: deque[tuple[int, Future[dict[str, Any]]]] = deque()

        def keep_rejections() -> Iterator[ReadyImage]:
            for outcome in _map_ahead(self._threads, self._prepare, enumerate(samples), self._window):
                on_progress()
                if isinstance(outcome, RejectedSample):
                    rows[outcome.position] = outcome.row
                else:
                    yield outcome

        def finish_first() -> None:
            position, future = unfinished.popleft()
            rows[position] = future.result()
            on_progress()

        for image, evidence in self._batches.find_evidence(keep_rejections(), on_progress):
            if evidence is None:
                rows[image.position] = reject(image.row, Reason.OUT_OF_MEMORY, OUT_OF_MEMORY)
            elif not evidence.is_finite:
                rows[image.position] = reject(image.row, Reason.NOT_FINITE, NOT_FINITE)
            else:
                finish = partial(make_labelled_row, image.row, evidence, self._config, self._palette)
                unfinished.append((image.position, self._threads.submit(finish)))
            while len(unfinished) > self._window:
                finish_first()
        while unfinished:
            finish_first()
        return pa.Table.from_pylist([rows[position] for position in range(len(samples))], schema=PART_SCHEMA)

    def _prepare(self, numbered: tuple[int, Sample]) -> ReadyImage | RejectedSample:
        return self._preparer.prepare(*numbered)


def make_labelled_row(
    row: dict[str, Any], evidence: ImageEvidence, config: LabelConfig, palette: UInt8[np.ndarray, "256 3"]
) -> dict[str, Any]:
    """Draw the mask of an image and complete its row.

    Args:
        row: Columns that do not depend on the model.
        evidence: Of the image.
        config: Of the run.
        palette: Colours of the mask.
    """
    maps, classes = evidence.scale_maps(), evidence.list_classes()
    labelled = row | {
        "status": str(Status.LABELLED),
        "class_ids": list(evidence.class_ids),
        "suggested_class_ids": list(evidence.suggested_class_ids),
        **make_mask_columns(row, maps, classes, config.maps, palette),
    }
    if config.maps.keep_maps:
        labelled["class_maps"] = encode_class_maps(evidence.grid_maps)
    return labelled


def _map_ahead(
    threads: ThreadPoolExecutor, function: Callable[[Item], Outcome], items: Iterable[Item], window: int
) -> Iterator[Outcome]:
    """Apply a function in threads, at most `window` items ahead of the consumer, in order."""
    pending: deque[Future[Outcome]] = deque()
    for item in items:
        pending.append(threads.submit(function, item))
        if len(pending) >= window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
