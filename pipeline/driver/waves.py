"""One wave of a labelling run, as its driver sees it: rows come, shards are sealed, silence is noticed."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.driver.cluster import POLL_PERIOD_S, Engine, WaveSigns
from pipeline.driver.ledger import Ledger, Progress
from pipeline.driver.stop import Stop
from pipeline.errors import WaveError

LOOK_PERIOD_S = 5.0
"""How often a driver that hears nothing looks at its workers."""
START_TIMEOUT_S = 600.0
"""Silence may last so long until a labelling actor runs: its process has to start and to load PyTorch."""
NOTICE_PERIOD_S = 60.0
"""How often one wait is told of."""


@dataclass
class WaitNotices:
    """Tells an operator what is waited for: at once, then every minute, and when it is over."""

    on_warning: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _since_s: float | None = None
    _told_s: float = 0.0

    def note(self, what: str | None) -> None:
        """Note what is waited for; None: nothing any longer."""
        now = self.clock()
        if what is None:
            if self._since_s is not None:
                self.on_warning(f"goes on after a wait of {now - self._since_s:.0f} s")
            self._since_s = None
        elif self._since_s is None or now - self._told_s >= NOTICE_PERIOD_S:
            self._since_s = now if self._since_s is None else self._since_s
            self._told_s = now
            self.on_warning(f"waiting: {what}")


@dataclass(kw_only=True)
class SilenceWatch:
    """Notices that nothing is heard of a wave, and why that may be."""

    engine: Engine
    limit_s: float
    notices: WaitNotices
    clock: Callable[[], float] = time.monotonic
    _heard_s: float = field(init=False)
    _looked_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._heard_s = self._looked_s = self.clock()

    def hear(self) -> None:
        """Note that something came back: a chunk, the end of a shard, a seal."""
        self._heard_s = self.clock()

    def look(self) -> None:
        """Look at the workers, if it is time.

        Raises:
            WaveError: Nothing was heard for too long, and nothing that is waited for explains it.
        """
        now = self.clock()
        if now - self._looked_s < LOOK_PERIOD_S:
            return
        self._looked_s = now
        signs = self.engine.look()
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
        # Tasks that reported once and are silent now hold what is taken themselves.
        are_ours = signs.num_alive or (not signs.num_actors and signs.beats)
        if missing and not signs.num_alive:
            # A cluster that is still to grow is no failure.
            self._heard_s = now
            self.notices.note(f"no worker can start: {missing}")
        elif silent_s >= (max(self.limit_s, START_TIMEOUT_S) if is_starting else self.limit_s):
            raise SilenceError(_describe_silence(silent_s, signs), may_be_others=bool(taken and not are_ours))
        elif taken and not are_ours:
            self.notices.note(f"no worker can start: {taken}")


class SilenceError(WaveError):
    """Nothing was heard of a wave for too long."""

    def __init__(self, message: str, *, may_be_others: bool) -> None:
        """Say what was seen, and whether others may hold the resources that workers want."""
        super().__init__(message)
        self.may_be_others = may_be_others


class WaveEnd(NamedTuple):
    """How a wave ended early."""

    reason: str
    may_be_others: bool
    """Others hold what its workers want: nothing that this run does wrong."""


def _describe_silence(silent_s: float, signs: WaveSigns) -> str:
    actors = f"{signs.num_alive} of {signs.num_actors} labelling actors alive" if signs.num_actors else "no actors"
    last = min(signs.beats.values(), key=lambda beat: beat.age_s, default=None)
    heard = f"the last sign {last.age_s:.0f} s ago ({last.doing})" if last else "no sign of any worker"
    return f"no chunk and no sign of a worker for {silent_s:.0f} s: {actors}; {heard}; {signs.resources.describe()}"


def run_wave(
    ledger: Ledger,
    engine: Engine,
    stop: Stop,
    on_progress: Callable[[Progress], None],
    on_pause: Callable[[], None],
    notices: WaitNotices,
) -> WaveEnd | None:
    """Label the shards of a wave and seal those that are complete; nothing of it is left running afterwards.

    Returns:
        What ended it early, None if nothing did: what is committed stays. Words, as an exception would hold the frames
        that it passed and all that they hold.

    Raises:
        WaveError: What is left of the wave cannot be ended.
    """
    watch = SilenceWatch(engine=engine, limit_s=ledger.options.no_progress_timeout_s, notices=notices)
    failure = None

    def pause() -> None:
        on_progress(ledger.show())
        on_pause()
        if not stop.is_requested:
            watch.look()

    on_pause()
    try:
        with closing(engine.label_chunks(ledger.run, ledger.wave, ledger.options)) as rows:
            for fields in rows:
                if fields is not None:
                    ledger.take(fields)
                if ledger.collect_seals(timeout_s=0.0) or fields is not None:
                    watch.hear()
                pause()
                if stop.is_requested and stop.remaining_s == 0:
                    break
    except WaveError as error:
        failure = WaveEnd(str(error), getattr(error, "may_be_others", False))
    if not stop.is_requested:
        engine.end_wave()
        watch.hear()
    # A seal that is given up is no loss: the parts are there, and the next driver seals the shard.
    try:
        while ledger.has_seals and not (stop.is_requested and stop.remaining_s == 0):
            if ledger.collect_seals(timeout_s=POLL_PERIOD_S):
                watch.hear()
            pause()
    except WaveError as error:
        names = ledger.abandon_seals()
        failure = failure or WaveEnd(f"{len(names)} shards such as '{names[0]}' were being sealed: {error}", False)
    ledger.collect_seals(timeout_s=0.0)
    on_progress(ledger.show())
    return failure
