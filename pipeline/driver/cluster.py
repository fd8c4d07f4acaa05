"""The cluster that runs the steps of a run: Ray Data for chunks, Ray tasks for shards."""

import math
import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import pyarrow as pa
import ray
from ray.data import Dataset

from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import Report, read_report
from pipeline.driver.cluster_state import Resources, count_alive, end_actors, list_actors, look_at_resources
from pipeline.driver.dataset import READ_CPUS, build_dataset
from pipeline.driver.steps import Steps, Tasks
from pipeline.errors import WaveError
from pipeline.workers.pulse import Beat, Reporting
from pipeline.workers.ray_failures import describe_ray_failure
from pipeline.workers.shared_state import SharedAttempts, SharedBoard

MAX_READ_TASKS = 5_000
"""Read tasks in one dataset. Ray's driver needs 10 ms and 4 kB for each before the first one runs."""
MAX_SHARDS_PER_TASK = 4
"""Shards per read task. A lost read task is repeated whole, so it takes few shards even when there are many."""
MAX_WAITING_REPORTS = 256
"""Maximum number of reports that wait for the driver."""
POLL_PERIOD_S = 0.25
JOIN_TIMEOUT_S = 20.0
"""Maximum seconds that Ray Data takes to end a dataset."""
END_TIMEOUT_S = 60.0
"""Maximum seconds until the killed actors of a wave are dead."""


Inbox: TypeAlias = "queue.Queue[Report | WaveError | None]"


@dataclass(frozen=True, kw_only=True)
class WaveState:
    """State of a wave as the driver observes it, besides reports."""

    beats: Mapping[str, Beat] = field(default_factory=dict)
    """The last report of each worker, by its host and process."""
    num_actors: int = 0
    """Number of requested actors."""
    num_alive: int = 0
    """Number of running actors."""
    resources: Resources = field(default_factory=Resources)
    """Minimum that a worker requests, and what the cluster has."""

    @property
    def silent_s(self) -> float:
        """Seconds since the last report of any busy worker; infinite without reports."""
        return min((beat.age_s for beat in self.beats.values()), default=math.inf)


@runtime_checkable
class Cluster(Protocol):
    """Interface of a cluster for the driver."""

    max_wave_shards: int
    """Maximum number of shards in a wave."""

    def run_chunks(
        self, steps: Steps, work: Sequence[ShardWork], store_outage_s: float
    ) -> Generator[Report | None, None, None]:
        """Commit the missing chunks of some shards; yield a report of each chunk and of the end of each shard.

        Yields None at intervals while there is no report, so that the driver can do other work.
        """

    def look(self) -> WaveState:
        """Return the state of the workers of the newest wave, and of the cluster."""

    def end_wave(self) -> None:
        """End what remains of the newest wave, and wait until it is gone.

        Raises:
            WaveError: Some of it cannot be ended.
        """

    def submit(self, function: Callable[..., Any], **arguments: Any) -> Future[Any]:
        """Call a function in another process, with the `reporting` of the wave as an additional argument."""


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
        return _make_remote(function).remote(**arguments, reporting=self._reporting).future()


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
