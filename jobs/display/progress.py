"""The progress line of a run: shards, images, speed, time left."""

import time
from collections import deque

from jobs.command_line.console import format_duration
from pipeline.driver.ledger import Progress

PROGRESS_PERIOD_S = 5.0
SILENCE_PERIOD_S = 60.0
"""After so long a line is printed even if nothing has changed."""
WINDOW_S = 600.0
"""Speed and time left are those of the last ten minutes."""


class ProgressPrinter:
    """Prints a line every few seconds: shards, images, speed, time left."""

    def __init__(self, period_s: float = PROGRESS_PERIOD_S) -> None:
        """Print at most one line in `period_s` seconds, and one whenever a shard is published."""
        self._period_s = period_s
        self._last_s = time.monotonic()
        self._num_sealed = 0
        self._num_read = 0
        self._pace = Pace()
        self.last: Progress | None = None
        """What was shown last."""

    def __call__(self, progress: Progress) -> None:
        """Show a state, if it is time."""
        self.last = progress
        self._pace.enter(progress)
        now = time.monotonic()
        has_sealed = progress.num_sealed not in (self._num_sealed, 0)
        has_read = progress.counts.num_read != self._num_read
        if now - self._last_s < (self._period_s if has_read else SILENCE_PERIOD_S) and not has_sealed:
            return
        self._last_s, self._num_sealed, self._num_read = now, progress.num_sealed, progress.counts.num_read
        print(self._describe(progress), flush=True)

    def _describe(self, progress: Progress) -> str:
        counts = progress.counts
        return (
            f"{progress.num_sealed}/{progress.num_shards} shards, {counts.num_read} images "
            f"({counts.num_rejected} rejected), {self._pace.describe(progress)}"
        )


class Pace:
    """How fast a run goes, by what came back lately. Starting actors takes a while: it begins with the first chunk."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        """Look back over `window_s` seconds."""
        self._window_s = window_s
        self._changes: deque[Progress] = deque()

    def enter(self, progress: Progress) -> None:
        """Enter a state, if something came back since the last one."""
        if not progress.counts.num_read:
            return
        if not self._changes or progress.counts.num_read != self._changes[-1].counts.num_read:
            self._changes.append(progress)
        while len(self._changes) > 2 and progress.elapsed_s - self._changes[1].elapsed_s > self._window_s:
            self._changes.popleft()

    def describe(self, progress: Progress) -> str:
        """Write speed and time left; neither where nothing came back for long."""
        silent_s = progress.elapsed_s - (self._changes[-1].elapsed_s if self._changes else 0.0)
        if silent_s >= SILENCE_PERIOD_S:
            return f"nothing for {format_duration(silent_s)}"
        if len(self._changes) < 2:
            return "- images/s, - left"
        first = self._changes[0]
        seconds = progress.elapsed_s - first.elapsed_s
        num_images = progress.counts.num_read - first.counts.num_read
        num_bytes = progress.num_bytes_done - first.num_bytes_done
        left_s = (progress.num_bytes - progress.num_bytes_done) * seconds / num_bytes if num_bytes > 0 else None
        left = "-" if left_s is None else format_duration(left_s)
        return f"{num_images / seconds:.1f} images/s, {left} left"
