"""The cluster that runs the steps of a run: Ray Data for chunks, Ray tasks for shards."""

import math
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, TypeAlias, cast

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import Report, read_report
from pipeline.driver.cluster import POLL_PERIOD_S, WaveState
from pipeline.driver.cluster_state import count_alive, end_actors, list_actors, look_at_resources
from pipeline.driver.steps import Steps, Tasks
from pipeline.errors import WaveError
from pipeline.workers.attempts import Attempts
from pipeline.workers.planned_source import PlannedSource
from pipeline.workers.pulse import Reporting
from pipeline.workers.ray_failures import describe_ray_failure
from pipeline.workers.shared_state import SharedAttempts, SharedBoard

MAX_READ_TASKS = 5_000
"""Read tasks in one dataset. Ray's driver needs 10 ms and 4 kB for each before the first one runs."""
MAX_SHARDS_PER_TASK = 4
"""Shards per read task. A lost read task is repeated whole, so it takes few shards even when there are many."""
MAX_WAITING_REPORTS = 256
"""Maximum number of reports that wait for the driver."""
JOIN_TIMEOUT_S = 20.0
"""Maximum seconds that Ray Data takes to end a dataset."""
END_TIMEOUT_S = 60.0
"""Maximum seconds until the killed actors of a wave are dead."""

READ_CPUS = 0.5

Inbox: TypeAlias = "queue.Queue[Report | WaveError | None]"


class RayCluster:
    """The cluster that this process is connected to."""

    def __init__(self, max_read_tasks: int = MAX_READ_TASKS) -> None:
        """Limit each wave to `max_read_tasks` read tasks; no wave is started yet."""
        self.max_wave_shards = max_read_tasks * MAX_SHARDS_PER_TASK
        self._max_read_tasks = max_read_tasks
        self._reporting: Reporting | None = None
        self._dataset: Dataset | None = None
        self._rows: threading.Thread | None = None
        self._actors_before: set[str] = set()
        self._helpers: set[str] = set()
        self._num_actors = 0
        self._asked: dict[str, float] = {}

    def run_chunks(
        self, steps: Steps, work: Sequence[ShardWork], store_outage_s: float
    ) -> Generator[Report | None, None, None]:
        """Commit the missing chunks of some shards; yield a report of each chunk and of the end of each shard.

        Raises:
            WaveError: Ray failed, or a worker did; what is committed stays.
        """
        self._dataset = self._start_wave(steps, work, store_outage_s)
        inbox: Inbox = queue.Queue(MAX_WAITING_REPORTS)
        is_wanted = threading.Event()
        is_wanted.set()
        # Ray Data's iterator blocks until there is a row, and the driver must handle signals meanwhile.
        arguments = (inbox, self._dataset, is_wanted)
        self._rows = threading.Thread(target=_fill_inbox, args=arguments, name="rows", daemon=True)
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
        """Record the actors that do not belong to the new wave; end the helper actors of the previous wave."""
        # The seals of the previous wave may have used them until now.
        end_actors(lambda: self._helpers & list_actors(), END_TIMEOUT_S)
        self._actors_before = list_actors()

    def _start_wave(self, steps: Steps, work: Sequence[ShardWork], store_outage_s: float) -> Dataset:
        self.begin_wave()
        board, attempts = SharedBoard(), SharedAttempts()
        # Ids of the handles: Ray's table may not list them yet.
        self._helpers = {board.actor_id, attempts.actor_id}
        self._reporting = Reporting(board=board, store_outage_s=store_outage_s)
        workers = steps.workers
        if isinstance(workers, Tasks):
            self._num_actors, self._asked = 0, {"CPU": workers.num_cpus}
        else:
            self._num_actors = workers.num_actors
            self._asked = {"GPU": workers.num_gpus, "CPU": workers.num_cpus}
        groups = _group_shards(work, self._max_read_tasks)
        return build_dataset(steps, groups, self._reporting, attempts)

    def look(self) -> WaveState:
        """Return the state of the workers of the newest wave, and of the cluster."""
        num_alive = count_alive(self._list_workers())
        # Once all actors run, only read tasks still request resources.
        is_complete = self._num_actors and num_alive >= self._num_actors
        return WaveState(
            beats=self._reporting.board.read() if self._reporting else {},
            num_actors=self._num_actors,
            num_alive=num_alive,
            resources=look_at_resources({"CPU": READ_CPUS} if is_complete else self._asked),
        )

    def end_wave(self) -> None:
        """End what remains of the newest wave, and wait until it is gone.

        A failed dataset drops the handles of its actors, and an actor without handles ends. But the traceback of the
        failure and hung threads keep handles alive. A surviving pool holds CPUs and GPUs, for which the next wave then
        waits forever. So the actors are killed by id.

        Raises:
            WaveError: Ray still lists some actors as alive.
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
                f"{len(left)} actors of an ended wave are still alive {END_TIMEOUT_S:.0f} s after they were killed; "
                "run the same command again"
            )

    def _list_workers(self) -> set[str]:
        """The ids of the workers that are not dead."""
        return list_actors() - self._actors_before - self._helpers

    def submit(self, function: Callable[..., Any], **arguments: Any) -> Future[Any]:
        """Call a function in a Ray task, with the `reporting` of the wave as an additional argument."""
        return _translate(_make_remote(function).remote(**arguments, reporting=self._reporting).future())


def _translate(future: "Future[Any]") -> "Future[Any]":
    """A future that fails with a `WaveError` where Ray's fails with an error of Ray."""
    translated: Future[Any] = Future()

    def pass_on(ended: "Future[Any]") -> None:
        error = ended.exception()
        if isinstance(error, ray.exceptions.RayError):
            error = WaveError(describe_ray_failure(error))
        if error is not None:
            translated.set_exception(error)
        else:
            translated.set_result(ended.result())

    future.add_done_callback(pass_on)
    return translated


@lru_cache
def _make_remote(function: Callable[..., Any]) -> Any:
    """A Ray task of a function. Made once: Ray pickles and exports each one."""
    return ray.remote(num_cpus=0.25)(function)


def _group_shards(work: Sequence[ShardWork], max_read_tasks: int) -> list[tuple[ShardWork, ...]]:
    """The shards of each read task."""
    size = min(MAX_SHARDS_PER_TASK, math.ceil(len(work) / max_read_tasks))
    return [tuple(work[start : start + size]) for start in range(0, len(work), size)]


def _shut_down(dataset: Dataset) -> None:
    """Shut down the executor of a dataset and its tasks; stop waiting if that hangs."""
    executor = dataset._current_executor
    if executor is None:
        return
    ending = threading.Thread(target=executor.shutdown, kwargs={"force": True}, name="shutdown", daemon=True)
    ending.start()
    ending.join(JOIN_TIMEOUT_S)


def _fill_inbox(inbox: Inbox, dataset: Dataset, is_wanted: threading.Event) -> None:
    """Put the reports of a dataset into the inbox, then None or the error that ended it."""

    def put(item: Report | WaveError | None) -> None:
        while is_wanted.is_set():
            try:
                inbox.put(item, timeout=1.0)
            except queue.Full:
                continue
            return

    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            table = cast(pa.Table, batch)
            for place in range(table.num_rows):
                put(read_report(table.slice(place, 1)))
            if not is_wanted.is_set():
                return
        ending = None
    except BaseException as error:  # noqa: BLE001 (of any type: it ends the wave, and the driver decides what follows)
        # The message alone: the traceback of the error would keep the dataset alive.
        ending = WaveError(describe_ray_failure(error))
    put(ending)


def _set_up_context() -> None:
    context = DataContext.get_current()
    # A block closes at this size, but never inside a row, so every chunk is its own block. A lost actor then costs a
    # few chunks and not a few hundred megabytes.
    context.target_max_block_size = 1
    context.execution_options.preserve_order = False
    # Waiting for a GPU is not an error on a cluster that scales.
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = False


def build_dataset(
    steps: Steps, groups: Sequence[Sequence[ShardWork]], reporting: Reporting, attempts: Attempts
) -> Dataset:
    """Chain the steps as a dataset: read tasks, then workers.

    A worker commits its rows before it takes the next chunk. A crash therefore loses at most the chunks in flight,
    however slow the store is, and masks stay in their process. While one call waits for the store, another computes.
    """
    _set_up_context()
    parts = [steps.plan_read(group, reporting, attempts) for group in groups]
    # Ray Data retries a read task that dies without limit; `guarded_reads` sets the limit.
    source = PlannedSource(steps.name, parts, steps.read_schema)
    rows = ray.data.read_datasource(source, num_cpus=READ_CPUS, override_num_blocks=sum(map(len, groups)))
    workers, shared = steps.workers, {"reporting": reporting, "attempts": attempts}
    if isinstance(workers, Tasks):
        return rows.map_batches(
            workers.find(),
            fn_kwargs={**workers.arguments, **shared},
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=workers.num_cpus,
        )
    return rows.map_batches(
        workers.find(),
        fn_constructor_kwargs={**workers.arguments, **shared},
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=workers.num_actors,
            max_concurrent_calls_per_actor=workers.calls_per_actor,
            enable_true_multi_threading=True,
        ),
        num_cpus=workers.num_cpus,
        num_gpus=workers.num_gpus or None,
    )
