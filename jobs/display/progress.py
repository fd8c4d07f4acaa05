"""How a run shows its progress: a bar in a terminal, lines with the time or JSON in a log."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from jobs.command_line.console import format_duration
from jobs.display.streams import LineStream, write_event, writes_json
from pipeline.driver.ledger import Progress
from pipeline.printable import escape_controls
from pipeline.progress.pace import Pace

LOG_PERIOD_S = 5.0
SILENCE_PERIOD_S = 60.0
"""After so long a line is written even if nothing has changed."""
BAR_PERIOD_S = 0.25
BAR_FORMAT = "{percentage:3.0f}%|{bar:20}| {desc}"
"""Without colours. What is wider than the terminal is cut."""


class ProgressDisplay:
    """Shows states of a run. Use it as a context: a bar leaves the terminal as it was."""

    def __init__(self, rejected_word: str = "rejected", period_s: float = LOG_PERIOD_S) -> None:
        """Prepare to show.

        Args:
            rejected_word: What happened to the rows that the counts of the run call rejected.
            period_s: Least seconds between two lines of a log, unless a shard was published.
        """
        self._rejected_word = rejected_word
        self._period_s = period_s
        self._last_s = time.monotonic()
        self._drawn_s = 0.0
        self._shown: tuple[int, int] = (0, 0)
        self._pace = Pace()
        self._bar: Any = None
        self.last: Progress | None = None
        """The last state."""

    @contextmanager
    def open(self) -> Iterator["ProgressDisplay"]:
        """Draw a bar for as long as the context lasts, if there is a terminal for it; lines go above the bar."""
        terminal = find_terminal()
        if terminal is None:
            yield self
            return
        self._bar = tqdm(total=1.0, file=terminal, bar_format=BAR_FORMAT, dynamic_ncols=True, leave=False)
        before = sys.stdout, sys.stderr
        streams: list[Any] = [LineStream(stream, self._write_above) if stream.isatty() else stream for stream in before]
        sys.stdout, sys.stderr = streams
        try:
            yield self
        finally:
            sys.stdout, sys.stderr = before
            self._bar.close()
            self._bar = None
            for stream in streams:
                if isinstance(stream, LineStream):
                    stream.end_line()

    def __call__(self, progress: Progress) -> None:
        """Show a state, if it is time."""
        self.last = progress
        self._pace.enter(progress)
        now = time.monotonic()
        if self._bar is not None and now - self._drawn_s >= BAR_PERIOD_S:
            self._drawn_s = now
            self._draw(progress)
        has_sealed = progress.num_sealed not in (self._shown[0], 0)
        has_read = progress.counts.num_read != self._shown[1]
        if now - self._last_s < (self._period_s if has_read else SILENCE_PERIOD_S) and not has_sealed:
            return
        self._last_s, self._shown = now, (progress.num_sealed, progress.counts.num_read)
        if self._bar is None or not isinstance(sys.stdout, LineStream):
            write_event("progress", self.describe(progress), self._list_fields(progress))

    def describe(self, progress: Progress) -> str:
        """Describe a state in a line; speed and time left only where they are known."""
        counts = progress.counts
        facts = [f"{progress.num_sealed}/{progress.num_shards} shards", f"{counts.num_read} images"]
        if progress.num_failed:
            facts.insert(1, f"{progress.num_failed} failed")
        if (speed := self._pace.images_per_s) is not None:
            facts.append(f"{speed:.1f} images/s")
        if self._pace.silent_s >= SILENCE_PERIOD_S:
            facts.append(f"nothing for {format_duration(self._pace.silent_s)}")
        elif (left_s := self._pace.seconds_left) is not None:
            facts.append(f"{format_duration(left_s)} left")
        if counts.num_rejected:
            reasons = ", ".join(f"{reason} {num}" for reason, num in sorted(counts.rejected_by_reason.items()))
            facts.append(f"{counts.num_rejected} {self._rejected_word} ({reasons})")
        return escape_controls(", ".join(facts))

    def _draw(self, progress: Progress) -> None:
        share = progress.num_bytes_done / progress.num_bytes if progress.num_bytes else 0.0
        by_shards = progress.num_sealed / progress.num_shards if progress.num_shards else 0.0
        self._bar.n = min(1.0, max(share, by_shards))
        self._bar.set_description_str(self.describe(progress), refresh=True)

    def _write_above(self, stream: Any, line: str) -> None:
        with self._bar.get_lock():
            self._bar.clear(nolock=True)
            stream.write(line + "\n")
            stream.flush()
            self._bar.refresh(nolock=True)

    def _list_fields(self, progress: Progress) -> dict[str, Any]:
        counts = progress.counts
        word = self._rejected_word.replace(" ", "_")
        return {
            "num_shards": progress.num_shards,
            "num_sealed": progress.num_sealed,
            "num_failed": progress.num_failed,
            "num_images": counts.num_read,
            f"num_{word}": counts.num_rejected,
            f"{word}_by_reason": dict(sorted(counts.rejected_by_reason.items())),
            "num_bytes": progress.num_bytes,
            "num_bytes_done": progress.num_bytes_done,
            "images_per_s": self._pace.images_per_s,
            "seconds_left": self._pace.seconds_left,
            "elapsed_s": progress.elapsed_s,
        }


def find_terminal() -> Any:
    """The stream to draw a bar to: standard error or standard output, if one is a terminal that can redraw a line."""
    if writes_json() or os.environ.get("TERM") == "dumb":
        return None
    return next((stream for stream in (sys.stderr, sys.stdout) if stream is not None and stream.isatty()), None)
