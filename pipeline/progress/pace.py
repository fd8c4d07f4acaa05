"""Speed of an invocation and the time that is left, without guesses."""

from pipeline.driver.ledger import Progress


class Pace:
    """Averages from the start of the driver's work: the start of the workers counts, as users wait for it, too."""

    def __init__(self) -> None:
        """Begin without any state."""
        self._first: Progress | None = None
        self._last_change: Progress | None = None
        self._now: Progress | None = None

    def enter(self, progress: Progress) -> None:
        """Enter a state of the run."""
        self._first = self._first or progress
        if self._last_change is None or _measure(progress) != _measure(self._last_change):
            self._last_change = progress
        self._now = progress

    @property
    def images_per_s(self) -> float | None:
        """Images of this invocation by the seconds since its start; None before the first image."""
        if self._now is None or not self._now.counts.num_read or self._now.elapsed_s <= 0:
            return None
        return self._now.counts.num_read / self._now.elapsed_s

    @property
    def seconds_left(self) -> float | None:
        """Time left by the bytes that this invocation did; None before it did any."""
        if self._now is None or self._first is None:
            return None
        num_done = self._now.num_bytes_done - self._first.num_bytes_done
        num_left = self._now.num_bytes - self._now.num_bytes_done
        return num_left * self._now.elapsed_s / num_done if num_done > 0 else None

    @property
    def silent_s(self) -> float:
        """Seconds since something was done, or since the start."""
        if self._now is None or self._last_change is None:
            return 0.0
        since_s = 0.0 if self._last_change is self._first else self._last_change.elapsed_s
        return self._now.elapsed_s - since_s


def _measure(progress: Progress) -> tuple[int, int, int]:
    return progress.counts.num_read, progress.num_sealed, progress.num_bytes_done
