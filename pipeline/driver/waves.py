"""The driver loop: wave after wave, each planned from storage, until nothing remains."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from pipeline.commit.plan import Plan
from pipeline.driver.cluster import POLL_PERIOD_S, Cluster
from pipeline.driver.heartbeat import Heartbeat
from pipeline.driver.ledger import Ledger, Progress
from pipeline.driver.silence import SilenceError, SilenceWatch, WaitNotices, WaveEnd
from pipeline.driver.steps import Steps
from pipeline.driver.stop import Stop
from pipeline.driver.totals import RunSummary, Totals
from pipeline.errors import WaveError
from pipeline.run.options import DriverOptions
from pipeline.storage.outage import Patience
from pipeline.storage.writing import delete

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """How a caller watches a run and stops it."""

    on_progress: Callable[[Progress], None] = lambda progress: None
    """Called often with the progress of the run."""
    on_warning: Callable[[str], None] = logger.warning
    """Called with what an operator should know and the driver cannot fix."""
    stop: Stop = field(default_factory=Stop)
    """Ends the run between two chunks."""


def drive_run(
    steps: Steps,
    options: DriverOptions,
    out_uri: str,
    hooks: Hooks | None = None,
    cluster: Cluster | None = None,
) -> RunSummary:
    """Complete a run.

    Each wave is planned from storage alone, so a driver resumes without state of its own. A failed shard is reported
    and left out of the later waves of this invocation.

    Args:
        steps: Steps of the run.
        options: Timeouts of the driver.
        out_uri: Output folder of the run.
        hooks: How the caller watches and stops the run; None: no hooks.
        cluster: Where the steps run; None: the Ray cluster that this process is connected to.

    Raises:
        WaveError: `totals.MAX_IDLE_WAVES` waves ended without progress, or the rest of a wave cannot be ended.
        StorageError: The output cannot be listed, even after a wait of `options.store_outage_s`.
    """
    hooks, cluster = hooks or Hooks(), cluster or _use_ray()
    stop, on_warning = hooks.stop, hooks.on_warning
    totals = Totals(started_s=time.monotonic())
    # Separate notices: progress of a wave does not imply that the heartbeat can be written.
    notices, heartbeat = WaitNotices(on_warning), Heartbeat(out_uri, WaitNotices(on_warning))
    patience = Patience(limit_s=options.store_outage_s, on_wait=WaitNotices(on_warning).note, stop=stop.event)
    while (plan := _make_plan(steps, patience, stop)) is not None:
        work = totals.choose_work(plan)
        if not work or stop.is_requested:
            break
        ledger = Ledger(
            plan=plan,
            wave=work[: cluster.max_wave_shards],
            started_s=totals.started_s,
            counts=totals.counts,
            submit=cluster.submit,
            publish=steps.publish,
            num_failed_before=len(totals.failed_shards),
        )
        wave = Wave(steps=steps, options=options, ledger=ledger, cluster=cluster, stop=stop, notices=notices)
        failure = wave.run(hooks.on_progress, heartbeat.beat)
        totals.enter(ledger)
        if stop.is_requested:
            # Another plan would cost a listing, and the grace period is short.
            break
        if failure is not None:
            on_warning(f"this wave ended early, the next one resumes from what is committed: {failure.reason}")
        totals.require_progress(ledger, work, failure)
    heartbeat.end()
    return totals.summarise(was_stopped=stop.is_requested)


def _use_ray() -> Cluster:
    # A run without Ray does not wait a second for its import.
    from pipeline.driver.ray_cluster import RayCluster

    return RayCluster()


def _make_plan(steps: Steps, patience: Patience, stop: Stop) -> Plan | None:
    """Remaining work; None if the store fails after a stop is requested."""

    def make_plan() -> Plan:
        plan = steps.make_plan()
        delete(plan.leftover_parts)
        return plan

    try:
        return patience.call(make_plan)
    except OSError:
        if stop.is_requested:
            return None
        raise


@dataclass(kw_only=True)
class Wave:
    """The shards of one Ray Data dataset."""

    steps: Steps
    options: DriverOptions
    ledger: Ledger
    cluster: Cluster
    stop: Stop
    notices: WaitNotices

    def run(self, on_progress: Callable[[Progress], None], beat: Callable[[], None]) -> WaveEnd | None:
        """Commit the chunks and seal the complete shards. No actor of the wave lives on, unless a stop was requested.

        Args:
            on_progress: Called between two reports with the progress of the run.
            beat: Writes the heartbeat; called between two reports.

        Returns:
            Why the wave ended early; None if it did not. Text and not the exception, whose traceback keeps frames and
            their objects alive.

        Raises:
            WaveError: The rest of the wave cannot be ended.
        """
        watch = SilenceWatch(cluster=self.cluster, limit_s=self.options.no_progress_timeout_s, notices=self.notices)

        def pause() -> None:
            on_progress(self.ledger.show())
            beat()
            if not self.stop.is_requested:
                watch.look()

        beat()
        failure = self._enter_reports(watch, pause)
        if not self.stop.is_requested:
            self.cluster.end_wave()
            watch.hear()
        failure_of_seals = self._finish_seals(watch, pause)
        self.ledger.collect_seals(timeout_s=0.0)
        on_progress(self.ledger.show())
        return failure or failure_of_seals

    @property
    def _is_over(self) -> bool:
        return self.stop.is_requested and self.stop.remaining_s == 0

    def _enter_reports(self, watch: SilenceWatch, pause: Callable[[], None]) -> WaveEnd | None:
        try:
            with closing(self.cluster.run_chunks(self.steps, self.ledger.wave, self.options.store_outage_s)) as reports:
                for report in reports:
                    if report is not None:
                        self.ledger.enter(report)
                    if self.ledger.collect_seals(timeout_s=0.0) or report is not None:
                        watch.hear()
                    pause()
                    if self._is_over:
                        break
        except WaveError as error:
            return WaveEnd(str(error), isinstance(error, SilenceError) and error.may_be_others)
        return None

    def _finish_seals(self, watch: SilenceWatch, pause: Callable[[], None]) -> WaveEnd | None:
        """Wait for the seals. An abandoned seal is no loss: the parts stay, and the next driver seals the shard."""
        try:
            while self.ledger.has_seals and not self._is_over:
                if self.ledger.collect_seals(timeout_s=POLL_PERIOD_S):
                    watch.hear()
                pause()
        except WaveError as error:
            names = self.ledger.abandon_seals()
            return WaveEnd(f"{len(names)} shards such as '{names[0]}' were being sealed: {error}", False)
        return None
