"""The assembly: every step of labelling in order.

plan -> read tasks: chunks -> labelling actors: parts -> driver: counts, seals
"""

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.commit.plan import Plan, plan_run
from pipeline.commit.seal import seal_shard
from pipeline.driver.cluster import MAX_READ_TASKS, MAX_SHARDS_PER_TASK, Engine, RayEngine
from pipeline.driver.heartbeat import Driver, Heartbeat
from pipeline.driver.ledger import Ledger, Progress
from pipeline.driver.stop import Stop
from pipeline.driver.waves import WaitNotices, run_wave
from pipeline.errors import WaveError
from pipeline.labelling.label_actor import LabelOptions
from pipeline.run.counts import LabelCounts
from pipeline.run.identity import Run
from pipeline.storage.outage import Patience
from pipeline.storage.storage import delete

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
        WaveError: `MAX_IDLE_WAVES` waves ended without progress, or what an ended wave left cannot be ended.
        StorageError: The output cannot be listed, also after `options.store_outage_s`.
    """
    stop, engine = stop or Stop(), engine or RayEngine()
    assignment = assignment or Assignment(make_plan=lambda: plan_run(run))
    totals = _Totals(started_s=time.monotonic())
    patience = Patience(limit_s=options.store_outage_s, on_wait=WaitNotices(on_warning).note, stop=stop.event)
    # Apart: a wave that goes on says nothing of a heartbeat that cannot be written.
    notices, heartbeat_notices = WaitNotices(on_warning), WaitNotices(on_warning)
    heartbeat = Heartbeat(run.out_uri, _describe_driver())
    num_idle_waves = 0
    while True:
        try:
            plan = patience.call(lambda: _plan(assignment))
        except OSError:
            if not stop.is_requested:
                raise
            break
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
        failure = run_wave(ledger, engine, stop, on_progress, lambda: _beat(heartbeat, heartbeat_notices), notices)
        totals.enter(ledger)
        if stop.is_requested:
            # The plan would have to be listed again, and the time of grace is short.
            totals.num_shards_left = len(plan.work) - ledger.num_sealed
            break
        if failure is not None:
            on_warning(f"this wave ended early, it is taken up again from what is committed: {failure.reason}")
        # Shards that cannot be read are given up after some waves, so they do not keep the run from its end.
        is_idle = not (ledger.made_progress or ledger.unread_shards or (failure and failure.may_be_others))
        num_idle_waves = num_idle_waves + 1 if is_idle else 0
        if num_idle_waves == MAX_IDLE_WAVES:
            names = ", ".join(item.shard.name for item in work[:5])
            why = f": {failure.reason}" if failure else ""
            raise WaveError(
                f"no progress on {len(work)} shards ({names}) in {MAX_IDLE_WAVES} waves{why}; what is committed stays, "
                "run the same command again"
            )
    try:
        heartbeat.end()
    except OSError as error:
        on_warning(f"the heartbeat cannot be removed, the next driver may warn of this one: {error}")
    return totals.summarise(was_stopped=stop.is_requested)


def _describe_driver() -> Driver:
    return Driver(host=socket.gethostname(), pid=os.getpid(), started_s=time.time())


def _plan(assignment: Assignment) -> Plan:
    plan = assignment.make_plan()
    delete(plan.leftover_parts)
    return plan


def _beat(heartbeat: Heartbeat, notices: WaitNotices) -> None:
    """Write the heartbeat; warn if another driver is active. A store that fails for a moment does not end a run."""
    if not heartbeat.is_due:
        return
    try:
        warning = heartbeat.beat()
    except OSError as error:
        notices.note(f"the heartbeat cannot be written, other drivers will not see this one: {error}")
        return
    notices.note(None)
    if warning:
        notices.on_warning(warning)


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
