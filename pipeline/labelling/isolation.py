"""Labelling in a child process, for chunks whose workers died.

The chunk may not be the cause: it was in flight when its worker died for another reason. So the whole chunk is tried
first. If the child dies too, the images are labelled one by one to find the culprits, and then the others together. The
rows are the same as if the culprits had been rejected at the start.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from pipeline.errors import ChunkError, LabellingError
from pipeline.run.records import PART_SCHEMA, Reason, Sample, Status

MAX_CULPRITS = 16
"""If this many first images of a chunk all fail alone, the rest is not tried: each failure costs a process that loads
the model."""

CRASHED = "the process that labelled this image died or hung, again with this image alone; look at the image"


@runtime_checkable
class Labeler(Protocol):
    """Labels samples: a watched `ChunkLabeler`."""

    def label(self, samples: Sequence[Sample]) -> pa.Table:
        """Return one row per sample, in order."""


_labeler: Labeler | None = None
"""Set in the child process only, when it starts."""


def label_isolated(make_labeler: Callable[[], Labeler], samples: Sequence[Sample]) -> pa.Table:
    """Label samples in child processes. Samples that kill a process become rejected rows.

    Args:
        make_labeler: Called once in each child process; picklable.
        samples: The samples of a chunk.

    Raises:
        ChunkError: Labelling fails for each of several images.
        LabellingError: The child process dies without an image: the machine is at fault.
    """
    with _Child(make_labeler) as child:
        rows = child.try_label(samples)
        if isinstance(rows, pa.Table):
            return rows
        singles: list[pa.Table | str] = []
        for sample in samples:
            singles.append(child.try_label((sample,)))
            if len(singles) in (MAX_CULPRITS, len(samples)) and not any(isinstance(one, pa.Table) for one in singles):
                _require_one_alone(samples, singles)
        errors = {place: answer for place, answer in enumerate(singles) if isinstance(answer, str)}
        kept = [sample for place, sample in enumerate(samples) if place not in errors]
        together = child.try_label(kept)
    # Together they may still need too much memory. The rows of single images are equivalent.
    labelled = (
        together.to_pylist()
        if isinstance(together, pa.Table)
        else [row for answer in singles if isinstance(answer, pa.Table) for row in answer.to_pylist()]
    )
    remaining = iter(labelled)
    merged = [_reject(sample, errors[n]) if n in errors else next(remaining) for n, sample in enumerate(samples)]
    return pa.Table.from_pylist(merged, schema=PART_SCHEMA)


def _require_one_alone(samples: Sequence[Sample], errors: Sequence[object]) -> None:
    if len(samples) > 1:
        raise ChunkError(
            f"labelling fails with every one of {len(errors)} images from '{samples[0].key}' on, each alone, so the "
            f"machine or the model may be at fault rather than the images: {errors[0]}; look at the log of the worker"
        )


def _reject(sample: Sample, error: str) -> dict[str, Any]:
    rejected = {"status": str(Status.REJECTED), "reason": str(Reason.CRASHED), "error": error}
    return {"key": sample.key, **sample.locate_image(), **rejected}


class _Child:
    """A child process with a model, replaced when it dies."""

    def __init__(self, make_labeler: Callable[[], Labeler]) -> None:
        self._make_labeler = make_labeler
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def try_label(self, samples: Sequence[Sample]) -> pa.Table | str:
        """Label samples. Returns the error as text if that fails."""
        pool = self._start()
        try:
            return pool.submit(_label, samples).result()
        except BrokenProcessPool:
            pool.shutdown()
            self._pool = None
            return CRASHED
        except Exception as error:  # noqa: BLE001 (of any type: the row of the image shows it)
            return f"{type(error).__name__}: {error}"

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # A forked child would inherit threads and GPU state of its parent.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_prepare, initargs=(self._make_labeler,))
            try:
                self._pool.submit(_is_ready).result()
            except BrokenProcessPool as error:
                raise LabellingError(
                    "a child process for labelling cannot be started; look at the log of the worker"
                ) from error
        return self._pool


def _prepare(make_labeler: Callable[[], Labeler]) -> None:
    global _labeler
    _labeler = make_labeler()


def _is_ready() -> bool:
    return _labeler is not None


def _label(samples: Sequence[Sample]) -> pa.Table:
    assert _labeler is not None
    return _labeler.label(samples)
