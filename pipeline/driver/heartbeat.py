"""The heartbeat of a driver under its output folder, so that a second driver is noticed.

Two drivers do no harm, but they do the work twice.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from models.documents import parse_json
from pipeline.driver.silence import WaitNotices
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import delete, put_atomic

DRIVER_FILE = "driver.json"
PERIOD_S = 60.0
LOOK_PERIOD_S = 5.0
"""Of two drivers that start at the same moment, each may write before the other's heartbeat is there. Only a look soon
afterwards shows it."""
MAX_SILENCE_S = 3 * PERIOD_S
"""A driver whose heartbeat is older counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A driving process."""

    host: str
    pid: int
    started_s: float
    """Unix time in seconds. With host and pid it identifies the driver."""


def describe_this_driver() -> Driver:
    """The driver that this process is."""
    return Driver(host=socket.gethostname(), pid=os.getpid(), started_s=time.time())


class Heartbeat:
    """Writes the heartbeat of one driver, and warns of others.

    It is a warning and not a lock. A lock would have to be broken after every crash, and every name and byte that two
    drivers write is the same.
    """

    def __init__(
        self,
        out_uri: str,
        notices: WaitNotices,
        driver: Driver | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare to write to `out_uri`; `beat` writes.

        Args:
            out_uri: Output folder of the run.
            notices: Told of other drivers, and of a store that fails.
            driver: Who writes; None: this process.
            clock: Unix time in seconds.
        """
        self._uri = join_uri(out_uri, DRIVER_FILE)
        self._notices = notices
        self._driver = driver or describe_this_driver()
        self._clock = clock
        self._last_s: float | None = None
        self._looked_s: float | None = None
        self._seen: Driver | None = None

    def beat(self) -> None:
        """Write the heartbeat if it is due; warn once of each other driver. A store that fails does not end a run."""
        now = self._clock()
        if self._looked_s is not None and now - self._looked_s < LOOK_PERIOD_S:
            return
        self._looked_s = now
        try:
            other, silent_s = self._find_other(now)
            if self._last_s is None or now - self._last_s >= PERIOD_S:
                self._last_s = now
                put_atomic(self._uri, json.dumps(asdict(self._driver) | {"beat_s": now}).encode())
        except OSError as error:
            self._notices.note(f"the heartbeat cannot be written, other drivers will not see this one: {error}")
            return
        self._notices.note(None)
        if other is None or other == self._seen:
            return
        self._seen = other
        self._notices.on_warning(
            f"another driver (process {other.pid} on {other.host}) worked on this output "
            f"{max(0, round(silent_s))} s ago; "
            "if it is still alive, both do the same work twice (nothing is lost or doubled): stop one of them"
        )

    def end(self) -> None:
        """Delete the heartbeat, unless another driver wrote over it."""
        try:
            other, _ = self._find_other(self._clock())
            if self._last_s is not None and other is None:
                delete([self._uri])
        except OSError as error:
            self._notices.on_warning(f"the heartbeat cannot be removed, the next driver may warn of this one: {error}")

    def _find_other(self, now: float) -> tuple[Driver | None, float]:
        """The other driver whose heartbeat is there and fresh, and the age of its heartbeat in seconds."""
        try:
            beat = parse_json(read_bytes(self._uri))
            silent_s = now - beat.pop("beat_s")
            driver = Driver(**beat)
        except FileNotFoundError:
            return None, 0.0
        except (ValueError, TypeError, KeyError, AttributeError):
            # Nothing depends on what this file holds.
            return None, 0.0
        return (driver, silent_s) if driver != self._driver and silent_s < MAX_SILENCE_S else (None, 0.0)
