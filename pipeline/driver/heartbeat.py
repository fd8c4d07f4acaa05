"""Heartbeat of a driver in its output folder, which reveals a second driver.

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
"""Seconds between two checks. Two drivers that start together may both miss the other's heartbeat; the next check finds
it."""
MAX_SILENCE_S = 3 * PERIOD_S
"""A driver whose heartbeat is older counts as dead."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A driver process."""

    host: str
    pid: int
    started_s: float
    """Unix time in seconds. With host and pid it identifies the driver."""


def describe_this_driver() -> Driver:
    """Describe this process as a driver."""
    return Driver(host=socket.gethostname(), pid=os.getpid(), started_s=time.time())


class Heartbeat:
    """Writes the heartbeat of one driver, and warns of others.

    It warns and does not lock. A lock would have to be broken after every crash, and two drivers write the same bytes
    under the same names.
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
            notices: Receives warnings of other drivers and of store failures.
            driver: The writer; None: this process.
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
        """Write the heartbeat if it is due; warn once of each other driver. A store failure does not end a run."""
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
        """Another driver with a fresh heartbeat, and the age of its heartbeat in seconds."""
        try:
            beat = parse_json(read_bytes(self._uri))
            silent_s = now - beat.pop("beat_s")
            driver = Driver(**beat)
        except FileNotFoundError:
            return None, 0.0
        except (ValueError, TypeError, KeyError, AttributeError):
            # Damaged; no decision depends on this file.
            return None, 0.0
        return (driver, silent_s) if driver != self._driver and silent_s < MAX_SILENCE_S else (None, 0.0)
