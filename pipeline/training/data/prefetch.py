"""Prefetching of batches in a thread, and the time that the network waits for them."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

POLL_PERIOD_S = 0.5


class TrainingBatch(NamedTuple):
    """Images of one step of one worker; padded with images of weight 0 to a constant size."""

    keys: tuple[str, ...]
    """Of the images with weight 1."""
    images: UInt8[Tensor, "b 3 s s"]
    image_labels: Bool[Tensor, "b c"]
    weights: Float[Tensor, " b"]
    """1 for an image, 0 for padding and for an image that could not be decoded."""
    operations: Float32[np.ndarray, "b l 2"] | None = None
    """Operations of each image and their arguments, in the order in which they are applied; None: no image has any."""


def make_batch(
    blocks: Sequence[dict[str, np.ndarray]],
    *,
    batch_size: int,
    image_size: int,
    num_classes: int,
    is_pinned: bool = False,
) -> TrainingBatch:
    """Make a batch from augmented rows, padded to `batch_size`.

    Args:
        blocks: As `augment_samples` returns them, together at most `batch_size` rows; none: padding only.
        batch_size: Images of the batch.
        image_size: Side of the images, in pixels.
        num_classes: Of the vocabulary.
        is_pinned: Whether the images are in page-locked memory, from which a GPU copies while the CPU goes on.
    """
    images = torch.empty(batch_size, 3, image_size, image_size, dtype=torch.uint8, pin_memory=is_pinned)
    image_labels = torch.zeros(batch_size, num_classes, dtype=torch.bool)
    weights = torch.zeros(batch_size)
    operations = np.zeros((batch_size, *blocks[0]["operations"].shape[1:]), np.float32) if blocks else None
    keys: list[str] = []
    number = 0
    for block in blocks:
        places = slice(number, number + len(block["key"]))
        # Ray's arrays are read-only views of its object store. This is the only copy of them in this process.
        images.numpy()[places] = block["image"]
        image_labels.numpy()[places] = block["image_labels"]
        weights.numpy()[places] = block["is_valid"]
        if operations is not None:
            operations[places] = block["operations"]
        keys += [str(key) for key, is_valid in zip(block["key"], block["is_valid"], strict=True) if is_valid]
        number = places.stop
    images[number:] = 0
    return TrainingBatch(tuple(keys), images, image_labels, weights, operations)


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class BatchFeeder:
    """Queue of batches that a thread fills from an iterator."""

    def __init__(self, batches: Iterator[TrainingBatch], depth: int) -> None:
        """Start the thread; the queue has at most `depth` batches."""
        self.waited_s = 0.0
        """Seconds that the callers of `take` have waited in total."""
        self._queue: queue.Queue[TrainingBatch | _Failure | None] = queue.Queue(depth)
        self._is_wanted = True
        threading.Thread(target=self._fill_queue, args=(batches,), name="batches", daemon=True).start()

    def take(self) -> TrainingBatch:
        """Remove and return the next batch.

        Raises:
            RuntimeError: The iterator has no further batch.
            BaseException: The error of the iterator.
        """
        started_s = time.monotonic()
        item = self._queue.get()
        self.waited_s += time.monotonic() - started_s
        if item is None:
            raise RuntimeError("there are fewer batches than steps; this is a defect, please report it")
        if isinstance(item, _Failure):
            raise item.error
        return item

    def close(self) -> None:
        """Stop the thread; do not wait for its end."""
        self._is_wanted = False

    def _fill_queue(self, batches: Iterator[TrainingBatch]) -> None:
        try:
            for batch in batches:
                if not self._put_item(batch):
                    return
            self._put_item(None)
        except BaseException as error:  # noqa: BLE001 (`take` raises it again)
            self._put_item(_Failure(error))

    def _put_item(self, item: TrainingBatch | _Failure | None) -> bool:
        """Wait for space in the queue; return False if the feeder was closed."""
        while self._is_wanted:
            try:
                self._queue.put(item, timeout=POLL_PERIOD_S)
            except queue.Full:
                continue
            return True
        return False
