"""The assembly: every step of labelling in order.

plan -> read tasks: chunks -> labelling actors: parts -> driver: counts, seals
"""

import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from pipeline.counts import LabelCounts
from pipeline.engine import MAX_READ_TASKS, MAX_SHARDS_PER_TASK, POLL_PERIOD_S, Engine, RayEngine
from pipeline.errors import LabellingError
from pipeline.heartbeat import Driver, Heartbeat
from pipeline.label_actor import LabelOptions
from pipeline.ledger import Ledger, Progress
from pipeline.resume import Plan, plan_run
from pipeline.run import Run
from pipeline.seal import seal_shard
from pipeline.storage import delete

logger = logging.getLogger(__name__)

MAX_READS = 3
"""Waves in which a shard is tried whose store does not give it."""
MAX_IDLE_WAVES = 3
"""Waves in a row that may end without a chunk, a seal or a verdict: Ray may fail, but not for ever."""


@dataclass(frozen=True, kw_only=True)
class LabelSummary:
    """What an invocation did."""

    counts: LabelCounts
    num_chunks: int
    num_sealed: int
    failed_shards: dict[str, str]
    """Error of each shard that is not published."""
    cut_shards: dict[str, str]
    """Of each shard that breaks off, where, and how much of it was not read."""
    was_stopped: bool
    num_shards_left: int
    elapsed_s: float


@dataclass(kw_only=True)
class Stop:
    """The wish of whoever runs a driver that it ends."""

    grace_s: float = 2.0
    """For how long commits and seals that are under way are still waited for."""
    _since_s: float | None = None
    _event: threading.Event = field(default_factory=threading.Event)

    def request(self) -> None:
        """Ask the driver to end; may be called by a handler of signals."""
        if self._since_s is None:
            self._since_s = time.monotonic()
        self._event.set()

    @property
    def is_requested(self) -> bool:
        """Whether the driver should end."""
        return self._event.is_set()

    @property
    def remaining_s(self) -> float:
        """Seconds of grace that are left; all of them while nobody asked."""
        return self.grace_s if self._since_s is None else max(0.0, self._since_s + self.grace_s - time.monotonic())


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What an invocation is to do."""

    make_plan: Callable[[], Plan]
    """Gives what remains, from storage."""
    publish: Callable[..., object] = seal_shard
    """Publishes a shard that is complete: a function of a module."""
    publish_arguments: Mapping[str, Any] = field(default_factory=dict)


def label_run(
    run: Run,
    options: LabelOptions,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_warning: Callable[[str], None] = logger.warning,
    stop: Stop | None = None,
    engine: Engine | None = None,
    assignment: Assignment | None = None,
) -> LabelSummary:
    """Label all that remains of a run, wave by wave, until nothing does.

    Between waves the plan is made anew from storage, so nothing that the driver remembers is needed to
    go on. A shard that fails is left out of later waves of this invocation and reported.

    Args:
        run: What is labelled.
        options: How it is executed.
        on_progress: Called often with where the run stands.
        on_warning: Called with what an operator should know and nothing can be done about here.
        stop: Ends the run between two chunks.
        engine: Where it runs; None: the Ray cluster that this process is connected to.
        assignment: What is to do; None: all that is not published.

    Raises:
        ray.exceptions.RayError: Ray failed in the last of `MAX_IDLE_WAVES` waves without progress.
        LabellingError: So many waves ended without an error and without progress.
    """
    stop, engine = stop or Stop(), engine or RayEngine()
    assignment = assignment or Assignment(make_plan=lambda: plan_run(run))
    totals = _Totals(started_s=time.monotonic())
    heartbeat = Heartbeat(run.out_uri, _describe_driver())
    num_idle_waves = 0
    while True:
        plan = assignment.make_plan()
        delete(plan.leftover_parts)
        work = [item for item in plan.work if item.shard.name not in totals.failed_shards]
        totals.num_shards_left = len(plan.work)
        if not work or stop.is_requested:
            break
        wave = work[: MAX_READ_TASKS * MAX_SHARDS_PER_TASK]
        ledger = Ledger(
            run=run,
            options=options,
            plan=plan,
            wave=wave,
            started_s=totals.started_s,
            counts=totals.counts,
            submit=engine.submit,
            publish=assignment.publish,
            publish_arguments=assignment.publish_arguments,
        )
        failure = _label_wave(ledger, engine, on_progress, lambda: _warn(heartbeat, on_warning), stop)
        totals.enter(ledger)
        if stop.is_requested:
            # The plan would have to be listed again, and the time of grace is short.
            totals.num_shards_left = len(plan.work) - ledger.num_sealed
            break
        if failure is not None:
            on_warning(f"Ray gave up on this wave, it is taken up again from what is committed: {failure}")
        # Shards that cannot be read are given up after some waves, so they do not keep the run from its end.
        num_idle_waves = 0 if ledger.made_progress or ledger.unread_shards else num_idle_waves + 1
        if num_idle_waves == MAX_IDLE_WAVES:
            names = ", ".join(item.shard.name for item in work[:5])
            raise failure or LabellingError(f"no progress on {len(work)} shards ({names}); run the same command again")
    try:
        heartbeat.end()
    except OSError as error:
        on_warning(f"the sign of life cannot be taken away, the next driver may warn of this one: {error}")
    return totals.summarise(was_stopped=stop.is_requested)


def _label_wave(
    ledger: Ledger,
    engine: Engine,
    on_progress: Callable[[Progress], None],
    on_pause: Callable[[], None],
    stop: Stop,
) -> ray.exceptions.RayError | None:
    """Label the shards of a wave; an error of Ray is returned, for what is committed stays."""
    failure = None
    on_pause()
    try:
        for fields in engine.label_chunks(ledger.run, ledger.wave, ledger.options):
            if fields is not None:
                ledger.take(fields)
            ledger.collect_seals(timeout_s=0.0)
            on_progress(ledger.show())
            on_pause()
            if stop.is_requested and stop.remaining_s == 0:
                break
    except ray.exceptions.RayError as error:
        failure = error
    # A seal that is given up is no loss: the parts are there, and the next driver seals the shard.
    while ledger.has_seals and not (stop.is_requested and stop.remaining_s == 0):
        ledger.collect_seals(timeout_s=POLL_PERIOD_S)
        on_progress(ledger.show())
        on_pause()
    ledger.collect_seals(timeout_s=0.0)
    on_progress(ledger.show())
    return failure


def _describe_driver() -> Driver:
    return Driver(host=socket.gethostname(), pid=os.getpid(), started_s=time.time())


def _warn(heartbeat: Heartbeat, on_warning: Callable[[str], None]) -> None:
    """Give a sign of life, and tell of other drivers. A store that fails for a moment does not end a run for that."""
    try:
        warning = heartbeat.beat()
    except OSError as error:
        warning = f"the sign of life cannot be written, other drivers will not see this one: {error}"
    if warning:
        on_warning(warning)


@dataclass(kw_only=True)
class _Totals:
    """What all waves of an invocation did."""

    started_s: float
    counts: LabelCounts = field(default_factory=LabelCounts)
    num_chunks: int = 0
    num_sealed: int = 0
    num_shards_left: int = 0
    failed_shards: dict[str, str] = field(default_factory=dict)
    cut_shards: dict[str, str] = field(default_factory=dict)
    _num_reads: Counter[str] = field(default_factory=Counter)
    """Waves in which the store did not give a shard."""

    def enter(self, ledger: Ledger) -> None:
        self.counts = ledger.counts
        self.num_chunks += ledger.num_chunks
        self.num_sealed += ledger.num_sealed
        self.failed_shards |= ledger.failed_shards
        self.cut_shards |= ledger.cut_shards
        self._num_reads.update(ledger.unread_shards.keys())
        for name, error in ledger.unread_shards.items():
            if self._num_reads[name] >= MAX_READS:
                self.failed_shards[name] = f"{error} (tried {MAX_READS} times)"

    def summarise(self, was_stopped: bool) -> LabelSummary:
        return LabelSummary(
            counts=self.counts,
            num_chunks=self.num_chunks,
            num_sealed=self.num_sealed,
            failed_shards=self.failed_shards,
            cut_shards=self.cut_shards,
            was_stopped=was_stopped and self.num_shards_left > 0,
            num_shards_left=self.num_shards_left,
            elapsed_s=time.monotonic() - self.started_s,
        )
