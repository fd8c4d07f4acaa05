"""Heartbeats of the workers: current work, and the store that it waits for.

Without reports a driver cannot distinguish a slow worker from a lost one. So each busy worker reports every few seconds
to a small Ray actor on the driver's node. An idle worker does not report: it is no evidence of progress.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from pipeline.storage.outage import Patience, Resumed
from pipeline.workers.watchdog import end_process

BEAT_PERIOD_S = 5.0
READ_TIMEOUT_S = 1800.0
"""Seconds for one chunk, without waits for its store, after which a read task is ended and run again. Longer than the
retries of any store's client (`pipeline.storage.filesystems.S3_OPTIONS`) may take."""


Item = TypeVar("Item")


class Beat(NamedTuple):
    """The last report of a worker."""

    age_s: float
    doing: str
    waiting_for: str | None
    """Why the worker waits for a store; None: it does not wait."""


@runtime_checkable
class Board(Protocol):
    """Collector of the workers' reports."""

    def beat(self, worker: str, doing: str, waiting_for: str | None) -> None:
        """Report that a worker is busy."""

    def read(self) -> dict[str, Beat]:
        """Read the last report of each worker."""


class MemoryBoard:
    """A board in the memory of one process."""

    def __init__(self) -> None:
        """Start without reports."""
        self._beats: dict[str, tuple[float, str, str | None]] = {}

    def beat(self, worker: str, doing: str, waiting_for: str | None) -> None:
        """Report that a worker is busy."""
        self._beats[worker] = (time.monotonic(), doing, waiting_for)

    def read(self) -> dict[str, Beat]:
        """Read the last report of each worker. Ages are by the clock of the board's process."""
        now = time.monotonic()
        return {name: Beat(now - at_s, doing, wait) for name, (at_s, doing, wait) in self._beats.items()}


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Settings of the workers' heartbeats; pickled to each worker."""

    board: Board
    store_outage_s: float
    """How long a worker waits for a store in an outage, in seconds."""
    beat_period_s: float = BEAT_PERIOD_S
    """Seconds between two reports of a busy worker."""
    end_process: Callable[[str], None] = end_process
    """Ends the process; called with the work in which it hangs, or the reason why it is unusable."""

    def open(self) -> "Pulse":
        """Start the heartbeat of this process."""
        return Pulse(self)


class Pulse:
    """The heartbeat of one process. Closing it ends its thread."""

    def __init__(self, reporting: Reporting) -> None:
        """Start the thread; nothing is reported before the worker is busy."""
        self._board = reporting.board
        self._limit_s = reporting.store_outage_s
        self._period_s = reporting.beat_period_s
        self._end_process = reporting.end_process
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._lock = threading.Lock()
        self._busy: dict[int, _Work] = {}
        self._last_s = 0.0
        self._closed = threading.Event()
        threading.Thread(target=self._beat_periodically, name="pulse", daemon=True).start()

    @contextmanager
    def busy(self, doing: str, limit_s: float | None = None) -> Iterator[Patience]:
        """Report this process as busy inside the context; yield the patience for stores.

        Args:
            doing: Description of the work, for messages.
            limit_s: Seconds of work, without waits for stores, after which the process is ended; None: no limit.
        """
        work = _Work(doing, limit_s)
        with self._lock:
            self._busy[id(work)] = work
        self._report_work(work)
        try:
            yield Patience(limit_s=self._limit_s, on_wait=partial(self._note_wait, work))
        finally:
            with self._lock:
                del self._busy[id(work)]

    def read(self, doing: str, start: Callable[[Item | None], Iterator[Item]]) -> Iterator[Item]:
        """Yield the items of an iterator; continue after its last item when an outage ends.

        Args:
            doing: Description of the read, for messages.
            start: Starts the iterator after an item; None: from the beginning.
        """
        items = Resumed(start)
        while True:
            # Only busy while it reads: a reader whose items nothing consumes is no evidence of progress.
            with self.busy(doing, READ_TIMEOUT_S) as patience:
                item = patience.call(items.advance)
            if item is None:
                return
            yield item

    def _note_wait(self, work: "_Work", what: str | None) -> None:
        work.note_wait(what)
        # Immediately: a later report would announce a wait that is over.
        self._report_work(work, always=True)

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _beat_periodically(self) -> None:
        while not self._closed.wait(self._period_s):
            with self._lock:
                working = list(self._busy.values())
            for work in working:
                if work.limit_s is not None and time.monotonic() - work.since_s > work.limit_s:
                    self._end_process(work.doing)
            if working:
                # A wait for a store takes precedence over other work.
                self._report_work(max(working, key=lambda work: work.waiting_for is not None), always=True)

    def _report_work(self, work: "_Work", *, always: bool = False) -> None:
        now = time.monotonic()
        if not always and now - self._last_s < self._period_s:
            return
        self._last_s = now
        self._board.beat(self._worker, work.doing, work.waiting_for)


class _Work:
    """A piece of work in progress."""

    def __init__(self, doing: str, limit_s: float | None) -> None:
        self.doing = doing
        self.limit_s = limit_s
        self.since_s = time.monotonic()
        self.waiting_for: str | None = None

    def note_wait(self, what: str | None) -> None:
        """Record the start or end of a wait; restart the time of the work."""
        self.waiting_for = what
        self.since_s = time.monotonic()
