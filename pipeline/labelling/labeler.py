"""Labelling a chunk with a model: samples -> class maps -> masks and statistics.

    samples -> decode (workers) -> batches of one shape -> ClassMapper (device) -> masks, rows (workers)

No Ray here: an actor calls `ChunkLabeler.label_chunk`, and so does a plain loop. Several threads may call it at once: a
lock keeps one on the device while the workers decode and draw for the others.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import torch

from models.bundle import ModelBundle
from models.mctformer import MCTformer
from pipeline.images.frames import count_image_bytes
from pipeline.images.mapping.class_mapper import ClassMapper
from pipeline.images.mapping.evidence import ImageEvidence
from pipeline.images.masks import build_palette
from pipeline.labelling.batches import MAX_BATCH_IMAGES, BatchMapper
from pipeline.labelling.host_processes import ProcessWorkers
from pipeline.labelling.host_work import HostJobs, HostWorkers, ThreadWorkers
from pipeline.labelling.prepare import ReadyImage, RejectedSample, SamplePreparer, reject
from pipeline.run.config import CHUNKS_AT_ONCE, LabelConfig, settle_config
from pipeline.run.records import PART_SCHEMA, Reason, Sample
from pipeline.run.vocabulary import Vocabulary

OUT_OF_MEMORY = "the device has too little memory for this image alone; label it on a larger one or in smaller views"

NOT_FINITE = (
    "the model gives NaN or infinite values for this image, again in float32 if that fits the device; look at the "
    "image, and if many say so at the weights of the model and at the device"
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
        batch_size: int | None,
        num_workers: int,
        use_bf16: bool,
        use_processes: bool = False,
    ) -> None:
        """Put the model on its device.

        Args:
            model: In evaluation mode; moved to `device`.
            bundle: Input statistics and classes of the model.
            vocabulary: Its classes are the model's, in the same order.
            config: Determines the bytes; the remaining arguments only affect the speed.
            device: Device of the model and the class maps.
            batch_size: Images of one shape in a forward pass, as `limit_batch_size` allows; None: what fills a GPU.
            num_workers: Threads or processes that decode images and draw masks.
            use_bf16: Run the blocks under bfloat16 autocast; maps stay float32.
            use_processes: Whether the workers are processes, which a GPU needs to stay busy.
        """
        config = settle_config(config, model.config.grid_side)
        self._window = (batch_size or MAX_BATCH_IMAGES) + 2 * num_workers
        patch_size = model.config.patch_size
        jobs = HostJobs(
            preparer=SamplePreparer(config=config, vocabulary=vocabulary, patch_size=patch_size),
            config=config,
            palette=build_palette(vocabulary.colours, vocabulary.classes),
        )
        mapper = ClassMapper(
            model=model.to(device).eval(), bundle=bundle, config=config, device=device, use_bf16=use_bf16
        )
        self._batches = BatchMapper(mapper, batch_size)
        self._workers: HostWorkers = ThreadWorkers(jobs, num_workers)
        if use_processes:
            num_pending = CHUNKS_AT_ONCE * self._window
            self._workers = ProcessWorkers(jobs, num_workers, num_pending, count_image_bytes(config, patch_size))

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

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
        finishing: deque[tuple[list[int], Callable[[], list[dict[str, Any]]]]] = deque()

        def keep_rejections() -> Iterator[ReadyImage]:
            for outcome in _map_ahead(self._workers.prepare, enumerate(samples), self._workers.group, self._window):
                on_progress()
                if isinstance(outcome, RejectedSample):
                    rows[outcome.position] = outcome.row
                else:
                    yield outcome

        def keep_found() -> Generator[tuple[ReadyImage, ImageEvidence]]:
            for image, evidence in self._batches.find_evidence(keep_rejections(), on_progress):
                if evidence is None:
                    rows[image.position] = reject(image.row, Reason.OUT_OF_MEMORY, OUT_OF_MEMORY)
                elif not evidence.is_finite:
                    rows[image.position] = reject(image.row, Reason.NOT_FINITE, NOT_FINITE)
                else:
                    yield image, evidence

        def finish_first() -> None:
            positions, wait = finishing.popleft()
            rows.update(zip(positions, wait(), strict=True))
            on_progress()

        found = keep_found()
        try:
            while some := list(islice(found, self._workers.group)):
                wait = self._workers.finish([(image.row, evidence) for image, evidence in some])
                finishing.append(([image.position for image, _ in some], wait))
                while len(finishing) * self._workers.group > self._window:
                    finish_first()
            while finishing:
                finish_first()
        finally:
            # After a failure, what is under way ends here: the error that is raised would keep it, and its memory.
            found.close()
            _await_all(wait for _, wait in finishing)
        return pa.Table.from_pylist([rows[position] for position in range(len(samples))], schema=PART_SCHEMA)


def _map_ahead(
    begin: Callable[[Sequence[Item]], Callable[[], list[Outcome]]], items: Iterable[Item], group: int, window: int
) -> Iterator[Outcome]:
    """Work on groups of items, at most `window` items ahead of the consumer, in order."""
    pending: deque[Callable[[], list[Outcome]]] = deque()
    remaining = iter(items)
    try:
        while some := list(islice(remaining, group)):
            pending.append(begin(some))
            if len(pending) * group >= window:
                yield from pending.popleft()()
        while pending:
            yield from pending.popleft()()
    finally:
        # After a failure. What is under way holds memory until it is waited for.
        _await_all(pending)


def _await_all(waits: Iterable[Callable[[], object]]) -> None:
    """Wait for work whose result nobody needs, and pass over its errors: another one ended the chunk."""
    for wait in waits:
        with suppress(Exception):
            wait()
