"""Where the steps of labelling run: Ray Data for the chunks, Ray tasks for what is done once a shard.

read tasks: chunks -> labelling actors: parts -> driver: counts
"""

import math
import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, cast, runtime_checkable

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.commit.plan import ShardWork
from pipeline.driver.cluster_state import Resources, count_alive, end_actors, list_actors, look_at_resources
from pipeline.driver.ray_failures import describe_failure
from pipeline.errors import WaveError
from pipeline.kept_maps.source import KeptMapSource, require_source
from pipeline.labelling.chunk_source import ChunkSource
from pipeline.labelling.label_actor import LabelChunks, LabelOptions
from pipeline.remask import remask_row
from pipeline.run.identity import Run
from pipeline.workers.attempts import Attempts, SharedAttempts
from pipeline.workers.pulse import Beat, Reporting, SharedBoard

MAX_READ_TASKS = 5_000
"""Read tasks in one dataset: Ray's driver needs 10 ms and 4 kB for each, before the first one runs."""
MAX_SHARDS_PER_TASK = 4
"""A lost read task is read again, so a task takes only a few shards even when there are many."""
CALLS_PER_ACTOR = 2
"""Chunks that a labelling actor has in hand: one is on the device while the other is decoded, encoded or committed."""
MAX_WAITING_ROWS = 256
"""Counts of committed chunks that may wait for the driver."""
POLL_PERIOD_S = 0.25
JOIN_TIMEOUT_S = 20.0
"""For how long Ray Data may take to end a dataset."""
READ_CPUS = 0.5
REMASK_CPUS = 1.0
END_TIMEOUT_S = 60.0
"""For how long the actors of a wave may take to be dead once they are ended by force."""


@dataclass(frozen=True, kw_only=True)
class WaveSigns:
    """What is seen of a wave besides its rows."""

    beats: Mapping[str, Beat] = field(default_factory=dict)
    """The last report of each worker, by its host and process."""
    num_actors: int = 0
    """Labelling actors that were asked for."""
    num_alive: int = 0
    """Labelling actors that run."""
    resources: Resources = field(default_factory=Resources)
    """What the workers ask for that cannot be less, and what the cluster has."""

    @property
    def silent_s(self) -> float:
        """Seconds since a worker reported that it is busy."""
        return min((beat.age_s for beat in self.beats.values()), default=math.inf)


@runtime_checkable
class Engine(Protocol):
    """What labelling needs of a cluster."""

    def label_chunks(
        self, run: Run, work: Sequence[ShardWork], options: LabelOptions
    ) -> Generator[dict[str, Any] | None, None, None]:
        """Label and commit the missing chunks of shards; give the counts of each, and the end of each shard.

        Gives None every now and then while there is nothing to give, so that the driver can look up.
        """

    def look(self) -> WaveSigns:
        """Look at the workers of the wave that was started last, and at the cluster."""

    def end_wave(self) -> None:
        """End what is left of the wave that was started last, and wait until it is gone.

        Raises:
            WaveError: Some of it cannot be ended.
        """

    def submit(self, function: Callable[..., Any], **arguments: Any) -> Future[Any]:
        """Call a function of a module somewhere else, with the wave's `reporting` as a further argument."""


class RayEngine:
    """The cluster that this process is connected to."""

    def __init__(self) -> None:
        """Start with no wave."""
        self._reporting: Reporting | None = None
        self._dataset: Dataset | None = None
        self._rows: threading.Thread | None = None
        self._actors_before: set[str] = set()
        self._helpers: set[str] = set()
        self._num_actors = 0
        self._asked: dict[str, float] = {}

    def label_chunks(
        self, run: Run, work: Sequence[ShardWork], options: LabelOptions
    ) -> Generator[dict[str, Any] | None, None, None]:
        """Label and commit the missing chunks of shards; give the counts of each, and the end of each shard.

        Raises:
            WaveError: Ray failed, or a worker did; what is committed stays.
        """
        self._dataset = self._start_wave(run, work, options)
        inbox: queue.Queue[dict[str, Any] | WaveError | None] = queue.Queue(MAX_WAITING_ROWS)
        is_wanted = threading.Event()
        is_wanted.set()
        # Ray Data's iterator blocks until there is a row. A driver has to hear signals meanwhile.
        arguments = (inbox, self._dataset, is_wanted)
        self._rows = threading.Thread(target=_fill, args=arguments, name="rows", daemon=True)
        self._rows.start()
        del arguments
        try:
            while True:
                try:
                    item = inbox.get(timeout=POLL_PERIOD_S)
                except queue.Empty:
                    yield None
                    continue
                if isinstance(item, WaveError):
                    raise item
                if item is None:
                    return
                yield item
        finally:
            is_wanted.clear()

    def begin_wave(self) -> None:
        """Note which actors are not of the wave that begins; end those that the seals of the last one may need."""
        end_actors(lambda: self._helpers & list_actors(), END_TIMEOUT_S)
        self._actors_before = list_actors()

    def _start_wave(self, run: Run, work: Sequence[ShardWork], options: LabelOptions) -> Dataset:
        self.begin_wave()
        board, attempts = SharedBoard(), SharedAttempts()
        # By their handles: Ray's table may not have them yet.
        self._helpers = {board.actor_id, attempts.actor_id}
        self._reporting = Reporting(board=board, store_outage_s=options.store_outage_s)
        if run.source is not None:
            self._num_actors, self._asked = 0, {"CPU": REMASK_CPUS}
            return build_remask_dataset(run, work, attempts, self._reporting)
        self._num_actors = options.num_actors
        self._asked = {"GPU": options.gpus_per_actor, "CPU": options.cpus_per_actor}
        return build_dataset(run, work, options, attempts, self._reporting)

    def look(self) -> WaveSigns:
        """Look at the workers of the wave that was started last, and at the cluster."""
        num_alive = count_alive(self._list_workers())
        # Once all actors run, what is still asked for is the CPUs of those that read for them.
        is_complete = self._num_actors and num_alive >= self._num_actors
        return WaveSigns(
            beats=self._reporting.board.read() if self._reporting else {},
            num_actors=self._num_actors,
            num_alive=num_alive,
            resources=look_at_resources({"CPU": READ_CPUS} if is_complete else self._asked),
        )

    def end_wave(self) -> None:
        """End what is left of the wave that was started last, and wait until it is gone.

        Ray Data drops the handles of its actors when a dataset fails, and an actor without handles ends. But the
        exception of the failure holds frames that hold handles, and so do threads that hang. A pool that lives on keeps
        its CPUs and GPUs from the next wave, which then waits for ever. So the actors are ended by their ids.

        Raises:
            WaveError: Ray still counts some as alive.
        """
        left = end_actors(self._list_workers, END_TIMEOUT_S)
        if self._dataset is not None and self._rows is not None:
            _shut_down(self._dataset)
            self._rows.join(JOIN_TIMEOUT_S)
            # A dataset that was in the middle of starting actors may have started more.
            left = end_actors(self._list_workers, END_TIMEOUT_S)
        self._dataset = self._rows = None
        if left:
            raise WaveError(
                f"{len(left)} actors of a wave that ended live on {END_TIMEOUT_S:.0f} s after a kill by force; "
                "run the same command again"
            )

    def _list_workers(self) -> set[str]:
        """List the labelling actors that are not dead."""
        return list_actors() - self._actors_before - self._helpers

    def submit(self, function: Callable[..., Any], **arguments: Any) -> Future[Any]:
        """Call a function of a module in a Ray task, with the wave's `reporting` as a further argument."""
        return _make_remote(function).remote(**arguments, reporting=self._reporting).future()


@lru_cache
def _make_remote(function: Callable[..., Any]) -> Any:
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


def build_dataset(
    run: Run, work: Sequence[ShardWork], options: LabelOptions, attempts: Attempts, reporting: Reporting
) -> Dataset:
    """Chain the steps: chunks -> parts -> counts.

    An actor commits what it has labelled before it takes up the next chunk. So what is labelled again after a death is
    at most `CALLS_PER_ACTOR` chunks an actor, however slow the store is; masks do not travel; and while one call waits
    for the store, another is on the device.
    """
    _set_up_context()
    # Ray Data runs a read task again as often as it dies: `read_guarded` sees to it that this ends.
    chunks = ray.data.read_datasource(
        ChunkSource(work, run.config.inputs, _count_shards_per_task(work), attempts, reporting),
        num_cpus=READ_CPUS,
        override_num_blocks=len(work),
    )
    return chunks.map_batches(
        LabelChunks,
        # Without the list of shards: Ray keeps the arguments of actors, and ships them to each.
        fn_constructor_args=(replace(run, shards=()), options, attempts, reporting),
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


def build_remask_dataset(run: Run, work: Sequence[ShardWork], attempts: Attempts, reporting: Reporting) -> Dataset:
    """Chain the steps for a run whose maps are kept: rows of manifests -> parts -> counts.

    A chunk's masks are made and committed by one task: no step waits for a device, and masks need not travel.
    """
    _set_up_context()
    source = KeptMapSource(run, work, _count_shards_per_task(work), attempts, reporting)
    rows = ray.data.read_datasource(source, num_cpus=READ_CPUS, override_num_blocks=len(work))
    return rows.map_batches(
        remask_row,
        # Without lists of shards and manifests: each task gets a copy.
        fn_kwargs={
            "run": replace(run, shards=(), source=replace(require_source(run), manifests=())),
            "reporting": reporting,
            "attempts": attempts,
        },
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=REMASK_CPUS,
    )


def _shut_down(dataset: Dataset) -> None:
    """Let Ray Data end what a dataset has started, tasks too; one that hangs in that is left alone."""
    executor = dataset._current_executor
    if executor is None:
        return
    ending = threading.Thread(target=executor.shutdown, kwargs={"force": True}, name="shutdown", daemon=True)
    ending.start()
    ending.join(JOIN_TIMEOUT_S)


def _fill(
    inbox: "queue.Queue[dict[str, Any] | WaveError | None]", dataset: Dataset, is_wanted: threading.Event
) -> None:
    """Put the rows of a dataset into the inbox, then None or what ended it."""

    def put(item: dict[str, Any] | WaveError | None) -> None:
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
        ending = None
    except BaseException as error:  # noqa: BLE001 (of any type: it ends the wave, and the driver decides what follows)
        # Its words alone: the error itself holds the frames that it passed, and so the whole dataset.
        ending = WaveError(describe_failure(error))
    put(ending)
