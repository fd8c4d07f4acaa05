"""Batches of one shape on the device: one is computed while the one before is read, halved where memory runs out."""

import logging
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from pipeline.images.mapping.class_mapper import ClassMapper
from pipeline.images.mapping.evidence import ImageEvidence
from pipeline.labelling.prepare import ReadyImage

MAX_BATCH_IMAGES = 128
"""Most images of a batch whose size the device decides."""
MAX_BATCH_PIXELS = 64 * 448**2
"""Most pixels of such a batch. It fills a GPU: on a smaller one the batch is halved until its memory suffices."""
MAX_PENDING_PIXELS = 48_000_000
"""Maximum number of decoded pixels that wait for a batch of their shape to fill: 144 MB."""

OUT_OF_MEMORY_WORDS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    # What is left of a search of cuDNN none of whose kernels got its memory.
    "unable to find an engine to execute this computation",
)
"""Words of errors of CUDA, cuBLAS and cuDNN that have no type of their own."""

logger = logging.getLogger(__name__)


class QueuedBatch(NamedTuple):
    """A batch that the device may still be computing."""

    images: Sequence[ReadyImage]
    read: Callable[[], list[ImageEvidence]] | None
    """Waits for the device; None: memory ran out."""
    in_float32: bool


def limit_batch_size(batch_size: int | None, device: torch.device) -> int | None:
    """Limit the batch size to that of a device; None: the device decides.

    A CPU gets one image at a time: rounding in its kernels depends on the batch size, so pixels would depend on the
    other images of the batch.
    """
    return 1 if device.type == "cpu" else batch_size


class BatchMapper:
    """Finds classes in batches of images. Several threads may share it: a lock keeps one on the device."""

    def __init__(self, mapper: ClassMapper, batch_size: int | None) -> None:
        """Keep a model on its device.

        Args:
            mapper: The model.
            batch_size: Images of one shape in a batch, as `limit_batch_size` allows; None: as many as fill a GPU.
        """
        self._mapper = mapper
        self._batch_size = batch_size or MAX_BATCH_IMAGES
        self._max_batch_pixels = sys.maxsize if batch_size else MAX_BATCH_PIXELS
        self._lock = threading.Lock()

    def find_evidence(
        self, images: Iterable[ReadyImage], on_progress: Callable[[], None]
    ) -> Iterator[tuple[ReadyImage, ImageEvidence | None]]:
        """Find the classes in each image, batch by batch; the device computes a batch while the host reads another.

        Args:
            images: Of any shapes and number.
            on_progress: Called after every batch.

        Yields:
            Each image with what was found; None for an image that alone is too large for the device.
        """
        before: QueuedBatch | None = None
        for batch in batch_by_shape(images, self._limit_batch):
            queued = self._queue(batch)
            on_progress()
            if before is not None:
                yield from zip(before.images, self._read(before, on_progress), strict=True)
            before = queued
        if before is not None:
            yield from zip(before.images, self._read(before, on_progress), strict=True)

    def _limit_batch(self, shape: tuple[int, ...]) -> int:
        """Images of a shape in a batch: fewer once a batch of as many pixels was too large for the device."""
        num_pixels = shape[0] * shape[1]
        return max(1, min(self._batch_size, self._max_batch_pixels // num_pixels))

    def _queue(self, batch: Sequence[ReadyImage], *, in_float32: bool = False) -> QueuedBatch:
        """Begin to find the classes in a batch."""
        guides = [image.guide for image in batch if image.guide is not None]
        frames, stacked_guides = np.stack([image.frame for image in batch]), np.stack(guides) if guides else None
        class_ids, sizes = [image.class_ids for image in batch], [image.upright_size for image in batch]
        with self._lock:
            try:
                read = self._mapper.queue(frames, class_ids, sizes, stacked_guides, in_float32=in_float32)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                read = None
        return QueuedBatch(batch, read, in_float32)

    def _read(self, queued: QueuedBatch, on_progress: Callable[[], None]) -> list[ImageEvidence | None]:
        """Wait for a batch; split it if memory ran out, and run images with non-finite values again in float32.

        None stands for an image that alone is too large.
        """
        batch = queued.images
        found: list[ImageEvidence | None] = []
        if queued.read is not None:
            try:
                found = list(queued.read())
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        on_progress()
        if not found:
            return self._split(queued, on_progress)
        places = [place for place, evidence in enumerate(found) if evidence is not None and not evidence.is_finite]
        if places and not queued.in_float32:
            logger.warning("%d of %d images give non-finite values, they are tried in float32", len(places), len(batch))
            again = self._queue([batch[place] for place in places], in_float32=True)
            for place, evidence in zip(places, self._read(again, on_progress), strict=True):
                # Without enough memory for float32 an image stays non-finite.
                found[place] = evidence or found[place]
        return found

    def _split(self, queued: QueuedBatch, on_progress: Callable[[], None]) -> list[ImageEvidence | None]:
        """Find the classes in the halves of a batch for which memory ran out; the next batches are smaller, too."""
        batch = queued.images
        torch.cuda.empty_cache()
        if len(batch) == 1:
            return [None]
        logger.warning("out of memory with %d images of %s, the batch is halved", len(batch), batch[0].frame.shape)
        half = len(batch) // 2
        if not queued.in_float32:
            height, width, _ = batch[0].frame.shape
            self._max_batch_pixels = min(self._max_batch_pixels, half * height * width)
        found: list[ImageEvidence | None] = []
        for part in (batch[:half], batch[half:]):
            found += self._read(self._queue(part, in_float32=queued.in_float32), on_progress)
        return found


def is_out_of_memory(error: RuntimeError) -> bool:
    """True for errors by which PyTorch and the libraries below it report too little memory of the device."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY_WORDS)


def batch_by_shape(images: Iterable[ReadyImage], limit: Callable[[tuple[int, ...]], int]) -> Iterator[list[ReadyImage]]:
    """Gather images of one shape into batches of a size that depends on the shape.

    Which images share a batch depends on the chunk alone, as long as memory suffices.
    """
    waiting: dict[tuple[int, ...], list[ReadyImage]] = defaultdict(list)
    num_pixels = 0
    for image in images:
        group = waiting[image.frame.shape]
        group.append(image)
        num_pixels += image.num_pixels
        is_full = len(group) >= limit(image.frame.shape)
        if not is_full and num_pixels < MAX_PENDING_PIXELS:
            continue
        if not is_full:
            group = max(waiting.values(), key=lambda held: sum(item.num_pixels for item in held))
        batch = waiting.pop(group[0].frame.shape)
        num_pixels -= sum(item.num_pixels for item in batch)
        yield batch
    yield from waiting.values()
