"""Batches ahead of time: a thread gets them ready while the network computes, and what is waited for is counted."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

POLL_PERIOD_S = 0.5


class TrainingBatch(NamedTuple):
    """Images of one step of one worker, always equally many: what is missing is filled up with weight 0."""

    keys: tuple[str, ...]
    """Of the images that count."""
    images: UInt8[Tensor, "b 3 s s"]
    image_labels: Bool[Tensor, "b c"]
    weights: Float[Tensor, " b"]
    """1 for an image, 0 for one that could not be decoded and for what fills the batch up."""


def make_batch(
    columns: dict[str, np.ndarray], *, batch_size: int, image_size: int, num_classes: int, is_pinned: bool = False
) -> TrainingBatch:
    """Make a batch of augmented rows; there may be fewer than wanted, or none."""
    images = torch.zeros(batch_size, 3, image_size, image_size, dtype=torch.uint8, pin_memory=is_pinned)
    image_labels = torch.zeros(batch_size, num_classes, dtype=torch.bool)
    weights = torch.zeros(batch_size)
    if not columns:
        return TrainingBatch((), images, image_labels, weights)
    number = len(columns["key"])
    # Ray's arrays cannot be written to, which PyTorch warns of: they are copied here anyway.
    images.numpy()[:number] = columns["image"]
    image_labels.numpy()[:number] = columns["image_labels"]
    weights.numpy()[:number] = columns["is_valid"]
    keys = tuple(str(key) for key, is_valid in zip(columns["key"], columns["is_valid"], strict=True) if is_valid)
    return TrainingBatch(keys, images, image_labels, weights)


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class BatchFeeder:
    """Gives the batches of an iterator, which runs ahead in a thread of its own."""

    def __init__(self, batches: Iterator[TrainingBatch], depth: int) -> None:
        """Start at once; at most `depth` batches wait."""
        self.waited_s = 0.0
        """Seconds for which the caller of `take` had to wait, in all."""
        self._queue: queue.Queue[TrainingBatch | _Failure | None] = queue.Queue(depth)
        self._is_wanted = True
        self._thread = threading.Thread(target=self._fill, args=(batches,), name="batches", daemon=True)
        self._thread.start()

    def take(self) -> TrainingBatch:
        """Give the next batch.

        Raises:
            RuntimeError: There is none.
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
        """Let the thread end."""
        self._is_wanted = False

    def _fill(self, batches: Iterator[TrainingBatch]) -> None:
        try:
            for batch in batches:
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001 (raised again by whoever takes it out)
            self._put(_Failure(error))

    def _put(self, item: TrainingBatch | _Failure | None) -> bool:
        while self._is_wanted:
            try:
                self._queue.put(item, timeout=POLL_PERIOD_S)
            except queue.Full:
                continue
            return True
        return False
