"""A sign of life under the output folder: two drivers at once do no harm, but they do the work twice."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from models.documents import parse_json
from pipeline.storage.storage import delete, join_uri, put_atomic, read_bytes

DRIVER_FILE = "driver.json"
PERIOD_S = 60.0
LOOK_PERIOD_S = 5.0
"""Of two drivers that start at the same moment each may write before the other's sign is there: only a look soon after
shows it."""
MAX_SILENCE_S = 3 * PERIOD_S
"""A driver that was silent for so long is taken for dead."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """Who drives a run."""

    host: str
    pid: int
    started_s: float
    """Unix time in seconds; with host and pid it names the driver."""


class Heartbeat:
    """Writes the sign of life of one driver, and notices those of others.

    It is a warning and no lock: a lock would have to be broken after every crash, and every name and byte that
    two drivers write is the same anyway.
    """

    def __init__(self, out_uri: str, driver: Driver, clock: Callable[[], float] = time.time) -> None:
        """Write to `out_uri`; nothing happens before `beat` is called."""
        self._uri = join_uri(out_uri, DRIVER_FILE)
        self._driver = driver
        self._clock = clock
        self._last_s: float | None = None
        self._looked_s: float | None = None
        self._seen: Driver | None = None

    @property
    def is_due(self) -> bool:
        """Whether `beat` would ask the store."""
        return self._looked_s is None or self._clock() - self._looked_s >= LOOK_PERIOD_S

    def beat(self) -> str | None:
        """Write a sign of life, if it is time. Gives a warning when another driver wrote one; once for each."""
        if not self.is_due:
            return None
        now = self._clock()
        self._looked_s = now
        other, silent_s = self._look(now)
        if self._last_s is None or now - self._last_s >= PERIOD_S:
            self._last_s = now
            put_atomic(self._uri, json.dumps(asdict(self._driver) | {"beat_s": now}).encode())
        if other is None or other == self._seen:
            return None
        self._seen = other
        return (
            f"another driver (process {other.pid} on {other.host}) worked on this output "
            f"{max(0, round(silent_s))} s ago; "
            "if it is still alive, both do the same work twice (nothing is lost or doubled): stop one of them"
        )

    def end(self) -> None:
        """Take the sign of life away, unless another driver wrote over it."""
        other, _ = self._look(self._clock())
        if self._last_s is not None and other is None:
            delete([self._uri])

    def _look(self, now: float) -> tuple[Driver | None, float]:
        """Give the other driver whose sign of life is there and fresh, and for how long it was silent."""
        try:
            beat = parse_json(read_bytes(self._uri))
            silent_s = now - beat.pop("beat_s")
            driver = Driver(**beat)
        except FileNotFoundError:
            return None, 0.0
        except (ValueError, TypeError, KeyError, AttributeError):
            # Whatever this file holds, it decides nothing.
            return None, 0.0
        return (driver, silent_s) if driver != self._driver and silent_s < MAX_SILENCE_S else (None, 0.0)
