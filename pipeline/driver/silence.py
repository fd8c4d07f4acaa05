"""Silence of a wave: when the driver waits, when it warns, and when it ends the wave."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.driver.cluster import Cluster, WaveState
from pipeline.errors import WaveError

LOOK_PERIOD_S = 5.0
"""Seconds between two checks of the workers."""
START_TIMEOUT_S = 600.0
"""Minimum tolerated silence before the first labelling actor runs: its process starts and loads PyTorch."""
NOTICE_PERIOD_S = 60.0
"""Seconds between two warnings of one wait."""


@dataclass
class WaitNotices:
    """Warns of a wait: immediately, then every minute, and when it ends."""

    on_warning: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _since_s: float | None = None
    _told_s: float = 0.0

    def note(self, what: str | None) -> None:
        """Record what the driver waits for; None: nothing."""
        now = self.clock()
        if what is None:
            if self._since_s is not None:
                self.on_warning(f"resumed after a wait of {now - self._since_s:.0f} s")
            self._since_s = None
        elif self._since_s is None or now - self._told_s >= NOTICE_PERIOD_S:
            self._since_s = now if self._since_s is None else self._since_s
            self._told_s = now
            self.on_warning(f"waiting: {what}")


@dataclass(kw_only=True)
class SilenceWatch:
    """Detects a silent wave and its cause."""

    cluster: Cluster
    limit_s: float
    notices: WaitNotices
    clock: Callable[[], float] = time.monotonic
    _heard_s: float = field(init=False)
    _looked_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._heard_s = self._looked_s = self.clock()

    def hear(self) -> None:
        """Record a report or a seal."""
        self._heard_s = self.clock()

    def look(self) -> None:
        """Check the workers if a check is due.

        Raises:
            SilenceError: The wave was silent for too long, and no known wait explains it.
        """
        now = self.clock()
        if now - self._looked_s < LOOK_PERIOD_S:
            return
        self._looked_s = now
        signs = self.cluster.look()
        if signs.silent_s < self.limit_s:
            self._heard_s = max(self._heard_s, now - signs.silent_s)
        waits = [beat.waiting_for for beat in signs.beats.values() if beat.waiting_for and beat.age_s < NOTICE_PERIOD_S]
        if waits:
            self.notices.note(f"{len(waits)} workers wait for a store: {waits[0]}")
            return
        silent_s = now - self._heard_s
        if silent_s < LOOK_PERIOD_S:
            self.notices.note(None)
            return
        missing, taken = signs.resources.describe_missing(), signs.resources.describe_taken()
        is_starting = signs.num_actors and not signs.num_alive
        # Tasks that reported once and are now silent hold these resources.
        are_ours = signs.num_alive or (not signs.num_actors and signs.beats)
        if missing and not signs.num_alive:
            # The cluster may still grow.
            self._heard_s = now
            self.notices.note(f"no worker can start: {missing}")
        elif silent_s >= (max(self.limit_s, START_TIMEOUT_S) if is_starting else self.limit_s):
            raise SilenceError(_describe_silence(silent_s, signs), may_be_others=bool(taken and not are_ours))
        elif taken and not are_ours:
            self.notices.note(f"no worker can start: {taken}")


class SilenceError(WaveError):
    """A wave was silent for too long."""

    def __init__(self, message: str, *, may_be_others: bool) -> None:
        """Keep the message, and whether other jobs may hold the resources that the workers need."""
        super().__init__(message)
        self.may_be_others = may_be_others


def _describe_silence(silent_s: float, signs: WaveState) -> str:
    actors = f"{signs.num_alive} of {signs.num_actors} labelling actors alive" if signs.num_actors else "no actors"
    last = min(signs.beats.values(), key=lambda beat: beat.age_s, default=None)
    heard = f"the last report {last.age_s:.0f} s ago ({last.doing})" if last else "no report of any worker"
    return f"no chunk and no report of a worker for {silent_s:.0f} s: {actors}; {heard}; {signs.resources.describe()}"


class WaveEnd(NamedTuple):
    """Why a wave ended early."""

    reason: str
    may_be_others: bool
    """Whether other jobs may hold the resources that its workers need."""
