"""Work on the host beside a GPU, in processes.

Threads share one interpreter lock with the thread that keeps the GPU busy, which then waits for them.
"""

import dataclasses
import fcntl
import logging
import math
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.labelling.host_work import Finishing, HostJobs, Prepared
from pipeline.labelling.prepare import ReadyImage, RejectedSample
from pipeline.labelling.shared_pixels import SharedPixels
from pipeline.run.records import Sample

GROUP = 4
"""Images in a task: a task costs about a tenth of a millisecond in the process of the device."""
EXIT_ORPHANED = 70
"""Exit code of a worker process whose parent ended before it started."""

logger = logging.getLogger(__name__)


class ProcessWorkers:
    """Processes without a GPU. They end with this process, however it ends."""

    group = GROUP

    def __init__(self, jobs: HostJobs, num_workers: int, max_pending: int, max_image_bytes: int) -> None:
        """Start the processes.

        Args:
            jobs: Copied to each process.
            num_workers: Processes.
            max_pending: Images that are prepared at once, of all chunks; those beyond come through a pipe.
            max_image_bytes: Bytes of the frame and the guide of an image. They come through shared memory, because a
                pipe is copied under the lock of the interpreter; larger ones come through a pipe.
        """
        self._jobs = jobs
        self._num_workers = num_workers
        self._slots = _Slots(math.ceil(max_pending / GROUP), GROUP * max_image_bytes)
        self._lock = threading.Lock()
        self._pool = self._start()

    def prepare(self, numbered: Sequence[tuple[int, Sample]]) -> Callable[[], list[Prepared]]:
        """Begin to prepare samples."""
        copied = [(position, _copy_image(sample)) for position, sample in numbered]
        slot = self._slots.take()
        try:
            future = self._submit(_prepare, slot, copied)
        except BaseException:
            self._slots.give_back(slot)
            raise

        def wait() -> list[Prepared]:
            try:
                return [self._slots.copy_pixels(one) for one in future.result()]
            finally:
                self._slots.give_back(slot)

        return wait

    def finish(self, images: Sequence[Finishing]) -> Callable[[], list[dict[str, Any]]]:
        """Begin to finish images."""
        return self._submit(_finish, images).result

    def close(self) -> None:
        """End the processes and give the shared memory back."""
        self._pool.shutdown(cancel_futures=True)
        self._slots.close()

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        with self._lock:
            try:
                return self._pool.submit(function, *arguments)
            except BrokenProcessPool:
                # A process died with an earlier chunk, which was then tried elsewhere.
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = self._start()
                return self._pool.submit(function, *arguments)

    def _start(self) -> ProcessPoolExecutor:
        # A forked process would inherit the state of the GPU; the server forks from a process that has none.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        shared = (self._slots.path, self._slots.num_bytes)
        return ProcessPoolExecutor(self._num_workers, context, initializer=_begin, initargs=(self._jobs, *shared))


def _copy_image(sample: Sample) -> Sample:
    """Copy an image that is a view of the memory of its chunk, which no pipe takes."""
    if not isinstance(sample.image, memoryview):
        return sample
    return dataclasses.replace(sample, image=bytes(sample.image))


class _InSlot(NamedTuple):
    """Where pixels are in shared memory."""

    offset: int
    shape: tuple[int, ...]


class _Moved(NamedTuple):
    """A prepared image whose pixels are elsewhere."""

    fields: dict[str, Any]
    frame: "_InSlot | np.ndarray"
    guide: "_InSlot | np.ndarray | None"


class _Slots:
    """Memory that is shared with the worker processes, in slots: one for each task under way; none without memory."""

    def __init__(self, number: int, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._memory: SharedPixels | None = None
        if num_bytes == 0:
            return
        try:
            self._memory = SharedPixels.create(number * num_bytes)
        except OSError as error:
            logger.warning("no %d bytes of shared memory (%s): pixels come through pipes", number * num_bytes, error)
            return
        for slot in range(number):
            self._free.put(slot)

    @property
    def path(self) -> str | None:
        """Where other processes open the memory; None without it."""
        return None if self._memory is None else self._memory.path

    def take(self) -> int | None:
        """Take a slot; None if all are taken."""
        try:
            return self._free.get_nowait()
        except queue.Empty:
            return None

    def give_back(self, slot: int | None) -> None:
        """Give a slot back, whose pixels were copied."""
        if slot is not None:
            self._free.put(slot)

    def copy_pixels(self, image: "_Moved | RejectedSample") -> Prepared:
        """Copy the pixels of an image from its slot."""
        if isinstance(image, RejectedSample):
            return image
        frame = self._copy(image.frame)
        guide = None
        if image.guide is not None:
            guide = frame if image.guide is image.frame else self._copy(image.guide)
        return ReadyImage(**image.fields, frame=frame, guide=guide)

    def _copy(self, pixels: "_InSlot | np.ndarray") -> np.ndarray:
        if not isinstance(pixels, _InSlot):
            return pixels
        assert self._memory is not None
        return self._memory.view(pixels.offset, pixels.shape).copy()

    def close(self) -> None:
        """Give the memory back to the machine."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None


_jobs: HostJobs | None = None
_memory: SharedPixels | None = None
_slot_bytes = 0
"""Set in a worker process only, when it starts."""


def _begin(jobs: HostJobs, memory_path: str | None, slot_bytes: int) -> None:
    global _jobs, _memory, _slot_bytes
    _end_with_parent()
    torch.set_num_threads(1)
    _jobs, _slot_bytes = jobs, slot_bytes
    _memory = None if memory_path is None else SharedPixels.open(memory_path)


def _end_with_parent() -> None:
    """Let Linux kill this process when that of the device ends, also during a call that never comes back.

    A thread that waits for it would need the lock of the interpreter. The process that forked this one is no help: it
    lives as long as any of those that it forked.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    # The other end of this pipe is held by the parent alone.
    sentinel = parent.sentinel
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    if connection.wait([sentinel], timeout=0):
        os._exit(EXIT_ORPHANED)


def _prepare(slot: int | None, numbered: Sequence[tuple[int, Sample]]) -> "list[_Moved | RejectedSample]":
    assert _jobs is not None
    start = 0 if slot is None else slot * _slot_bytes
    room = _Room(start, start if slot is None or _memory is None else start + _slot_bytes)
    return [one if isinstance(one, RejectedSample) else room.move(one) for one in _jobs.prepare(numbered)]


class _Room:
    """What is left of a slot, in a worker process."""

    def __init__(self, start: int, end: int) -> None:
        self._start = start
        self._end = end

    def move(self, image: ReadyImage) -> _Moved:
        """Write the pixels of an image to shared memory, as far as there is room."""
        fields = {field.name: getattr(image, field.name) for field in dataclasses.fields(image)}
        del fields["frame"], fields["guide"]
        frame = self._write(image.frame)
        is_one = image.guide is image.frame
        return _Moved(fields, frame, frame if is_one else None if image.guide is None else self._write(image.guide))

    def _write(self, pixels: np.ndarray) -> "_InSlot | np.ndarray":
        if _memory is None or self._start + pixels.nbytes > self._end:
            return pixels
        place = _InSlot(self._start, pixels.shape)
        _memory.view(*place)[:] = pixels
        self._start += pixels.nbytes
        return place


def _finish(images: Sequence[Finishing]) -> list[dict[str, Any]]:
    assert _jobs is not None
    return _jobs.finish(images)
