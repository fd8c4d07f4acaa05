"""The assembly: every step of labelling in order.

plan -> read tasks: chunks -> labelling actors: rows -> commit tasks: parts -> driver: counts, seals
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.chunk_source import ChunkSource
from pipeline.errors import LabellingError
from pipeline.label_actor import LabelChunks, LabelOptions, commit_row
from pipeline.ledger import Ledger, Progress
from pipeline.resume import ShardWork, plan_run
from pipeline.run import Run
from pipeline.stats import LabelCounts
from pipeline.storage import delete

logger = logging.getLogger(__name__)

MAX_READ_TASKS = 5_000
"""Read tasks in one dataset: Ray's driver needs 10 ms and 4 kB for each, before the first one runs."""
MAX_SHARDS_PER_TASK = 4
"""A lost read task is read again, so a task takes only a few shards even when there are many."""
MAX_IDLE_WAVES = 3
"""Waves in a row that may end without a chunk, a seal or a verdict: Ray may fail, but not for ever."""


@dataclass(frozen=True, kw_only=True)
class LabelSummary:
    """What an invocation did."""

    counts: LabelCounts
    num_chunks: int
    num_sealed: int
    failed_shards: dict[str, str]
    """Error of each shard that is not published."""
    was_stopped: bool
    num_shards_left: int
    elapsed_s: float


def build_dataset(run: Run, work: Sequence[ShardWork], options: LabelOptions) -> Dataset:
    """Chain the steps: chunks -> rows -> parts -> counts."""
    context = DataContext.get_current()
    # A block closes at this size, never inside a row: every chunk is a block of its own, so that what is
    # in flight (and is lost with an actor) is a few chunks and not a few hundred megabytes.
    context.target_max_block_size = 1
    # Waiting for a GPU is not an error on a cluster that scales.
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = False
    shards_per_task = min(MAX_SHARDS_PER_TASK, math.ceil(len(work) / MAX_READ_TASKS))
    chunks = ray.data.read_datasource(
        ChunkSource(work, run.config.inputs, shards_per_task), num_cpus=0.5, override_num_blocks=len(work)
    )
    rows = chunks.map_batches(
        LabelChunks,
        # Without the list of shards: Ray keeps the arguments of actors, and ships them to each.
        fn_constructor_args=(replace(run, shards=()), options),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=options.num_actors, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
        ),
        num_cpus=options.cpus_per_actor,
        num_gpus=options.gpus_per_actor or None,
    )
    return rows.map_batches(
        commit_row, fn_kwargs={"out_uri": run.out_uri}, batch_size=1, batch_format="pyarrow", num_cpus=0.25
    )


def label_run(
    run: Run,
    options: LabelOptions,
    *,
    limit: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stop: threading.Event | None = None,
) -> LabelSummary:
    """Label all that remains of a run, wave by wave, until nothing does.

    Between waves the plan is made anew from storage, so nothing that the driver remembers is needed to
    go on. A shard that fails is left out of later waves of this invocation and reported.

    Raises:
        ray.exceptions.RayError: Ray failed in the last of `MAX_IDLE_WAVES` waves without progress.
        LabellingError: So many waves ended without an error and without progress.
    """
    stop = stop or threading.Event()
    totals = _Totals(started_s=time.monotonic())
    num_idle_waves = 0
    while not stop.is_set():
        plan = plan_run(run, limit)
        delete(plan.leftover_parts)
        work = [item for item in plan.work if item.shard.name not in totals.failed_shards]
        if not work:
            break
        wave = work[: MAX_READ_TASKS * MAX_SHARDS_PER_TASK]
        ledger = Ledger(
            run=run, options=options, plan=plan, wave=wave, started_s=totals.started_s, counts=totals.counts
        )
        failure = _label_wave(ledger, on_progress, stop)
        totals.enter(ledger)
        num_idle_waves = 0 if ledger.made_progress else num_idle_waves + 1
        if num_idle_waves == MAX_IDLE_WAVES:
            names = ", ".join(item.shard.name for item in work[:5])
            raise failure or LabellingError(f"no progress on {len(work)} shards ({names}); run the same command again")
    return totals.summarise(num_shards_left=len(plan_run(run, limit).work), was_stopped=stop.is_set())


def _label_wave(
    ledger: Ledger, on_progress: Callable[[Progress], None], stop: threading.Event
) -> ray.exceptions.RayError | None:
    """Label the shards of a wave; an error of Ray is returned, for what is committed stays."""
    failure = None
    try:
        for fields in _iterate_rows(build_dataset(ledger.run, ledger.wave, ledger.options)):
            ledger.take(fields)
            ledger.collect_seals(timeout_s=0.0)
            on_progress(ledger.show())
            if stop.is_set():
                break
    except ray.exceptions.RayError as error:
        logger.warning("Ray gave up on this wave, it is taken up again from what is committed: %s", error)
        failure = error
    ledger.collect_seals(timeout_s=None)
    on_progress(ledger.show())
    return failure


def _iterate_rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from cast(pa.Table, batch).to_pylist()


@dataclass(kw_only=True)
class _Totals:
    """What all waves of an invocation did."""

    started_s: float
    counts: LabelCounts = field(default_factory=LabelCounts)
    num_chunks: int = 0
    num_sealed: int = 0
    failed_shards: dict[str, str] = field(default_factory=dict)

    def enter(self, ledger: Ledger) -> None:
        self.counts = ledger.counts
        self.num_chunks += ledger.num_chunks
        self.num_sealed += ledger.num_sealed
        self.failed_shards |= ledger.failed_shards

    def summarise(self, num_shards_left: int, was_stopped: bool) -> LabelSummary:
        return LabelSummary(
            counts=self.counts,
            num_chunks=self.num_chunks,
            num_sealed=self.num_sealed,
            failed_shards=self.failed_shards,
            was_stopped=was_stopped and num_shards_left > 0,
            num_shards_left=num_shards_left,
            elapsed_s=time.monotonic() - self.started_s,
        )
