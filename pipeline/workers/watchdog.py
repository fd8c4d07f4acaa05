"""Ends a hanging worker: Ray replaces a dead process, but waits for a hanging one."""

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

EXIT_STALLED = 70
"""Exit code of a process ended by the watchdog: EX_SOFTWARE of sysexits.h."""


def end_process(name: str) -> None:
    """Log the stack of every thread and exit immediately: a hang in C code cannot be interrupted."""
    logger.critical("no progress on %s: this process exits", name)
    faulthandler.dump_traceback(all_threads=True)
    os._exit(EXIT_STALLED)


class Watchdog:
    """Watches pieces of work for progress, each separately: progress of one does not hide a hang of another."""

    def __init__(self, limit_s: float, on_stall: Callable[[str], None] = end_process) -> None:
        """Call `on_stall` with the name of a piece without progress for `limit_s` seconds."""
        self._limit_s = limit_s
        self._on_stall = on_stall
        self._last_s: dict[int, float] = {}
        self._names: dict[int, str] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._poll_stalled_work, name="watchdog", daemon=True).start()

    @contextmanager
    def watch(self, name: str) -> Iterator[Callable[[], None]]:
        """Watch a piece of work; yield the function to call at each progress."""
        with self._lock:
            token = max(self._last_s, default=0) + 1
            self._names[token] = name
            self._last_s[token] = time.monotonic()

        def tick() -> None:
            # A thread of this piece may outlive the piece.
            with self._lock:
                if token in self._last_s:
                    self._last_s[token] = time.monotonic()

        try:
            yield tick
        finally:
            with self._lock:
                del self._last_s[token], self._names[token]

    def _poll_stalled_work(self) -> None:
        while True:
            time.sleep(self._limit_s / 10)
            with self._lock:
                late_s = time.monotonic() - self._limit_s
                stalled = [self._names[token] for token, last_s in self._last_s.items() if last_s < late_s]
            if stalled:
                self._on_stall(stalled[0])
                return
