"""Where the steps of labelling run: Ray Data for the chunks, Ray tasks for what is done once a shard.

read tasks: chunks -> labelling actors: parts -> driver: counts
"""

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol, cast, runtime_checkable

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.attempts import SharedAttempts
from pipeline.chunk_source import ChunkSource
from pipeline.kept_maps import KeptMapSource, require_source
from pipeline.label_actor import LabelChunks, LabelOptions
from pipeline.remask import remask_row
from pipeline.resume import ShardWork
from pipeline.run import Run

MAX_READ_TASKS = 5_000
"""Read tasks in one dataset: Ray's driver needs 10 ms and 4 kB for each, before the first one runs."""
MAX_SHARDS_PER_TASK = 4
"""A lost read task is read again, so a task takes only a few shards even when there are many."""
CALLS_PER_ACTOR = 2
"""Chunks that a labelling actor has in hand: one is on the device while the other is decoded, encoded or committed."""
MAX_WAITING_ROWS = 256
"""Counts of committed chunks that may wait for the driver."""
POLL_PERIOD_S = 0.25


@runtime_checkable
class Engine(Protocol):
    """What labelling needs of a cluster."""

    def label_chunks(
        self, run: Run, work: Sequence[ShardWork], options: LabelOptions
    ) -> Iterator[dict[str, Any] | None]:
        """Label and commit the missing chunks of shards; give the counts of each, and the end of each shard.

        Gives None every now and then while there is nothing to give, so that the driver can look up.
        """

    def submit(self, function: Callable[..., str], **arguments: Any) -> Future[str]:
        """Call a function of a module somewhere else."""


class RayEngine:
    """The cluster that this process is connected to."""

    def label_chunks(
        self, run: Run, work: Sequence[ShardWork], options: LabelOptions
    ) -> Iterator[dict[str, Any] | None]:
        """Label and commit the missing chunks of shards; give the counts of each, and the end of each shard.

        Raises:
            ray.exceptions.RayError: Ray failed; what is committed stays.
        """
        dataset = build_dataset(run, work, options) if run.source is None else build_remask_dataset(run, work)
        inbox: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue(MAX_WAITING_ROWS)
        is_wanted = threading.Event()
        is_wanted.set()
        # Ray Data's iterator blocks until there is a row. A driver has to hear signals meanwhile.
        threading.Thread(target=_fill, args=(inbox, dataset, is_wanted), name="rows", daemon=True).start()
        try:
            while True:
                try:
                    item = inbox.get(timeout=POLL_PERIOD_S)
                except queue.Empty:
                    yield None
                    continue
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    return
                yield item
        finally:
            is_wanted.clear()

    def submit(self, function: Callable[..., str], **arguments: Any) -> Future[str]:
        """Call a function of a module in a Ray task."""
        return _make_remote(function).remote(**arguments).future()


@lru_cache
def _make_remote(function: Callable[..., str]) -> Any:
    """Make a task of a function, once: Ray pickles and exports it anew for every new one."""
    return ray.remote(num_cpus=0.25)(function)


def _set_up_context() -> None:
    context = DataContext.get_current()
    # A block closes at this size, never inside a row: every chunk is a block of its own, so that what is
    # in flight (and is lost with an actor) is a few chunks and not a few hundred megabytes.
    context.target_max_block_size = 1
    # Waiting for a GPU is not an error on a cluster that scales.
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = False


def _count_shards_per_task(work: Sequence[ShardWork]) -> int:
    return min(MAX_SHARDS_PER_TASK, math.ceil(len(work) / MAX_READ_TASKS))


def build_dataset(run: Run, work: Sequence[ShardWork], options: LabelOptions) -> Dataset:
    """Chain the steps: chunks -> parts -> counts.

    An actor commits what it has labelled before it takes up the next chunk. So what is labelled again after a death is
    at most `CALLS_PER_ACTOR` chunks an actor, however slow the store is; masks do not travel; and while one call waits
    for the store, another is on the device.
    """
    _set_up_context()
    attempts = SharedAttempts()
    # Ray Data runs a read task again as often as it dies: `read_guarded` sees to it that this ends.
    chunks = ray.data.read_datasource(
        ChunkSource(work, run.config.inputs, _count_shards_per_task(work), attempts),
        num_cpus=0.5,
        override_num_blocks=len(work),
    )
    return chunks.map_batches(
        LabelChunks,
        # Without the list of shards: Ray keeps the arguments of actors, and ships them to each.
        fn_constructor_args=(replace(run, shards=()), options, attempts),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=options.num_actors,
            max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
            enable_true_multi_threading=True,
        ),
        num_cpus=options.cpus_per_actor,
        num_gpus=options.gpus_per_actor or None,
    )


def build_remask_dataset(run: Run, work: Sequence[ShardWork]) -> Dataset:
    """Chain the steps for a run whose maps are kept: rows of manifests -> parts -> counts.

    A chunk's masks are made and committed by one task: no step waits for a device, and masks need not travel.
    """
    _set_up_context()
    attempts = SharedAttempts()
    source = KeptMapSource(run, work, _count_shards_per_task(work), attempts)
    rows = ray.data.read_datasource(source, num_cpus=0.5, override_num_blocks=len(work))
    return rows.map_batches(
        remask_row,
        # Without lists of shards and manifests: each task gets a copy.
        fn_kwargs={
            "run": replace(run, shards=(), source=replace(require_source(run), manifests=())),
            "attempts": attempts,
        },
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
    )


def _fill(
    inbox: "queue.Queue[dict[str, Any] | BaseException | None]", dataset: Dataset, is_wanted: threading.Event
) -> None:
    """Put the rows of a dataset into the inbox, then None or the error that ended it."""

    def put(item: dict[str, Any] | BaseException | None) -> None:
        while is_wanted.is_set():
            try:
                inbox.put(item, timeout=1.0)
            except queue.Full:
                continue
            return

    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for fields in cast(pa.Table, batch).to_pylist():
                put(fields)
            if not is_wanted.is_set():
                return
        put(None)
    except BaseException as error:  # noqa: BLE001 (raised again by whoever takes it out)
        put(error)
