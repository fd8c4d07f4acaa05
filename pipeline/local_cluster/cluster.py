"""The local cluster: as many child processes as there are shards or workers, whichever is less."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any

from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import Report
from pipeline.driver.cluster import POLL_PERIOD_S, WaveState
from pipeline.driver.steps import Steps
from pipeline.errors import WaveError
from pipeline.local_cluster.child import Child
from pipeline.local_cluster.messages import Answer, Call, Failed, Ready, Reported, Setup, Work
from pipeline.workers.attempts import MAX_DEATHS, AttemptCounter
from pipeline.workers.pulse import MemoryBoard, Reporting

logger = logging.getLogger(__name__)

NUM_SEALS = 2
"""Shards that are published at the same time, by threads of the driver."""
READ_PREFIX = "read "
"""Begins the name of the attempt at a read (`guarded_reads`)."""


class LocalCluster:
    """Child processes of this one. Each reads a shard and commits its chunks; a dead one is replaced."""

    max_wave_shards = 1_000

    def __init__(self, num_workers: int) -> None:
        """Start nothing yet.

        Args:
            num_workers: Maximum number of child processes.
        """
        self._num_workers = num_workers
        self._children: list[Child] = []
        self._waiting: deque[ShardWork] = deque()
        self._num_early_deaths = 0
        self._board = MemoryBoard()
        self._attempts = AttemptCounter()
        self._store_outage_s = 0.0
        self._seals = ThreadPoolExecutor(NUM_SEALS, thread_name_prefix="seal")

    def run_chunks(
        self, steps: Steps, work: Sequence[ShardWork], store_outage_s: float
    ) -> Generator[Report | None, None, None]:
        """Commit the missing chunks of some shards; yield a report of each chunk and of the end of each shard.

        Raises:
            WaveError: Child processes die before they take work, or one reports that it cannot go on.
            LabellingError: The model cannot be loaded.
        """
        self._board, self._attempts, self._store_outage_s = MemoryBoard(), AttemptCounter(), store_outage_s
        self._waiting, self._num_early_deaths = deque(work), 0
        setup = Setup(plan_read=steps.plan_read, workers=steps.workers, store_outage_s=store_outage_s)
        try:
            while self._waiting or any(child.work for child in self._children):
                self._start_missing(setup)
                reports = self._hear(POLL_PERIOD_S)
                yield from reports or (None,)
        finally:
            self.end_wave()

    def _start_missing(self, setup: Setup) -> None:
        num_busy = sum(child.work is not None for child in self._children)
        while len(self._children) < min(self._num_workers, num_busy + len(self._waiting)):
            self._children.append(Child(setup))
        for child in self._children:
            if child.is_ready and child.work is None and self._waiting:
                child.work = self._waiting.popleft()
                child.send(Work(shard=child.work))

    def _hear(self, timeout_s: float) -> list[Report]:
        """Take the messages that have arrived; replace what is dead."""
        by_connection = {child.connection: child for child in self._children}
        reports: list[Report] = []
        for connection in wait(list(by_connection), timeout_s):
            child = by_connection[connection]  # type: ignore[index]
            try:
                message = child.connection.recv()
            except (EOFError, OSError):
                self._bury(child)
                continue
            match message:
                case Ready():
                    child.is_ready, self._num_early_deaths = True, 0
                case Reported():
                    child.note(message.report)
                    reports.append(message.report)
                case Call():
                    self._answer(child, message)
                case Failed():
                    raise message.error if not child.is_ready else WaveError(str(message.error))
                case _:
                    child.work = None
        return reports

    def _answer(self, child: Child, call: Call) -> None:
        if call.method == "beat":
            self._board.beat(**call.arguments)
            return
        chunk = call.arguments["chunk"]
        (child.open_attempts.add if call.method == "begin" else child.open_attempts.discard)(chunk)
        child.send(Answer(value=getattr(self._attempts, call.method)(chunk)))

    def _bury(self, child: Child) -> None:
        """Let another process go on with the work of a dead one.

        Raises:
            WaveError: Several processes in a row died before they took work.
        """
        self._children.remove(child)
        how = child.end()
        logger.info("a worker died: %s", how)
        if any(not name.startswith(READ_PREFIX) for name in child.open_attempts):
            # It died with a chunk, while its read stood still: the shard can be read.
            for name in child.open_attempts:
                if name.startswith(READ_PREFIX):
                    self._attempts.finish(name)
        if child.work is not None:
            self._waiting.appendleft(child.work)
        elif not child.is_ready:
            self._num_early_deaths += 1
            if self._num_early_deaths >= MAX_DEATHS:
                raise WaveError(
                    f"{self._num_early_deaths} worker processes died while they started, the last one: {how}"
                )

    def look(self) -> WaveState:
        """Return the state of the child processes."""
        num_alive = sum(child.is_ready for child in self._children)
        return WaveState(beats=self._board.read(), num_actors=len(self._children), num_alive=num_alive)

    def end_wave(self) -> None:
        """Kill the child processes. What they have committed stays."""
        while self._children:
            self._children.pop().end()

    def submit(self, function: Callable[..., Any], **arguments: Any) -> "Future[Any]":
        """Call a function in a thread, with the `reporting` of the wave as an additional argument."""
        reporting = Reporting(board=self._board, store_outage_s=self._store_outage_s)
        return self._seals.submit(function, **arguments, reporting=reporting)
