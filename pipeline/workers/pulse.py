"""What workers report to the driver besides their rows: that they are busy, and which store they wait for.

A driver that hears nothing cannot tell a slow worker from a lost one. So each worker that has something in hand says
so every few seconds, to a small Ray actor beside the driver. One that is idle says nothing: it is no evidence that
anything goes on.
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
"""A read task that needs so long for one chunk, beside all waits for its store, is ended and started again: longer than
any store's own tries (`storage.S3_OPTIONS`) may take."""


Item = TypeVar("Item")


class Beat(NamedTuple):
    """The last report of a worker."""

    age_s: float
    doing: str
    waiting_for: str | None
    """What is asked of a store that does not answer, and why; None: nothing is waited for."""


@runtime_checkable
class Board(Protocol):
    """Where workers report."""

    def beat(self, worker: str, doing: str, waiting_for: str | None) -> None:
        """Report that a worker is busy."""

    def read(self) -> dict[str, Beat]:
        """Read the last report of each worker."""


class MemoryBoard:
    """A board in the memory of one process."""

    def __init__(self) -> None:
        """Start with no report."""
        self._beats: dict[str, tuple[float, str, str | None]] = {}

    def beat(self, worker: str, doing: str, waiting_for: str | None) -> None:
        """Report that a worker is busy."""
        self._beats[worker] = (time.monotonic(), doing, waiting_for)

    def read(self) -> dict[str, Beat]:
        """Read the last report of each worker. Ages come from one clock, that of the board."""
        now = time.monotonic()
        return {name: Beat(now - at_s, doing, wait) for name, (at_s, doing, wait) in self._beats.items()}


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """To whom workers report, how long they wait for a store, and how they end. Travels to each of them."""

    board: Board
    store_outage_s: float
    beat_period_s: float = BEAT_PERIOD_S
    """Seconds between two reports of a worker that is busy."""
    end_process: Callable[[str], None] = end_process
    """Called with what a process hangs in, or why it is of no more use: ends the process."""

    def open(self) -> "Pulse":
        """Start to report from this process."""
        return Pulse(self)


class Pulse:
    """Reports from one process. Close it, so that its thread ends."""

    def __init__(self, reporting: Reporting) -> None:
        """Report to a board; nothing is said before the worker is busy."""
        self._board = reporting.board
        self._limit_s = reporting.store_outage_s
        self._period_s = reporting.beat_period_s
        self._end_process = reporting.end_process
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._lock = threading.Lock()
        self._busy: dict[int, _Work] = {}
        self._last_s = 0.0
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    @contextmanager
    def busy(self, doing: str, limit_s: float | None = None) -> Iterator[Patience]:
        """Report that this process is busy for as long as the context lasts; give the patience for stores in it.

        Args:
            doing: What it does, for people.
            limit_s: A process that is busy with it for longer than this beside all waits for stores is ended.
        """
        work = _Work(doing, limit_s)
        with self._lock:
            self._busy[id(work)] = work
        self._report(work)
        try:
            yield Patience(limit_s=self._limit_s, on_wait=partial(self._note_wait, work))
        finally:
            with self._lock:
                del self._busy[id(work)]

    def read(self, doing: str, start: Callable[[Item | None], Iterator[Item]]) -> Iterator[Item]:
        """Give what an iterator gives; go on behind its last item after an outage.

        Args:
            doing: What is read, for people.
            start: Starts the iterator behind an item; None: from the beginning.
        """
        items = Resumed(start)
        while True:
            # Only busy while it reads: a reader whose items nobody takes is no evidence that anything goes on.
            with self.busy(doing, READ_TIMEOUT_S) as patience:
                item = patience.call(items.advance)
            if item is None:
                return
            yield item

    def _note_wait(self, work: "_Work", what: str | None) -> None:
        work.note_wait(what)
        # At once: a driver that would hear of it later would tell of a wait that is over.
        self._report(work, always=True)

    def close(self) -> None:
        """End the thread that reports."""
        self._closed.set()

    def _beat(self) -> None:
        while not self._closed.wait(self._period_s):
            with self._lock:
                working = list(self._busy.values())
            for work in working:
                if work.limit_s is not None and time.monotonic() - work.since_s > work.limit_s:
                    self._end_process(work.doing)
            if working:
                # One that waits for a store is what a driver has to know of.
                self._report(max(working, key=lambda work: work.waiting_for is not None), always=True)

    def _report(self, work: "_Work", *, always: bool = False) -> None:
        now = time.monotonic()
        if not always and now - self._last_s < self._period_s:
            return
        self._last_s = now
        self._board.beat(self._worker, work.doing, work.waiting_for)


class _Work:
    """A piece of work that a process is busy with."""

    def __init__(self, doing: str, limit_s: float | None) -> None:
        self.doing = doing
        self.limit_s = limit_s
        self.since_s = time.monotonic()
        self.waiting_for: str | None = None

    def note_wait(self, what: str | None) -> None:
        """Note what is waited for. What was waited for does not count as time that the work took."""
        self.waiting_for = what
        self.since_s = time.monotonic()
