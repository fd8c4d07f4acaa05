"""Totals over the waves of an invocation, and the limits at which the driver gives up."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.commit.outcome import Outcome
from pipeline.commit.plan import Plan, ShardWork
from pipeline.driver.ledger import Ledger
from pipeline.driver.silence import WaveEnd
from pipeline.errors import WaveError
from pipeline.run.counts import LabelCounts

MAX_READS = 3
"""Maximum number of waves that try a shard whose store fails."""
MAX_IDLE_WAVES = 3
"""Consecutive waves without progress after which the run fails."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Summary of an invocation."""

    counts: LabelCounts
    num_chunks: int
    num_sealed: int
    failed_shards: dict[str, str]
    """Error of each shard that is not published."""
    truncated_shards: dict[str, str]
    """For each truncated shard: where it ends, and how much of it was not read."""
    was_stopped: bool
    num_shards_left: int
    elapsed_s: float
    outcome: Outcome = field(default_factory=Outcome)
    """What became of the shards that this invocation published."""


@dataclass(kw_only=True)
class Totals:
    """Sums over waves."""

    started_s: float
    counts: LabelCounts = field(default_factory=LabelCounts)
    num_chunks: int = 0
    num_sealed: int = 0
    num_shards_left: int = 0
    failed_shards: dict[str, str] = field(default_factory=dict)
    truncated_shards: dict[str, str] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)
    _num_reads: Counter[str] = field(default_factory=Counter)
    """Waves in which the store of a shard failed."""
    _num_idle_waves: int = 0

    def choose_work(self, plan: Plan) -> list[ShardWork]:
        """The work of a plan that did not fail before."""
        self.num_shards_left = len(plan.work)
        return [item for item in plan.work if item.shard.name not in self.failed_shards]

    def enter(self, ledger: Ledger) -> None:
        """Add a wave. A shard whose store failed in `MAX_READS` waves is given up, so it does not block the run."""
        self.counts = ledger.counts
        self.num_chunks += ledger.num_chunks
        self.num_sealed += ledger.num_sealed
        self.outcome = self.outcome.merge(ledger.outcome)
        self.num_shards_left -= ledger.num_sealed
        self.failed_shards |= ledger.failed_shards
        self.truncated_shards |= ledger.truncated_shards
        self._num_reads.update(ledger.unread_shards.keys())
        for name, error in ledger.unread_shards.items():
            if self._num_reads[name] >= MAX_READS:
                self.failed_shards[name] = f"{error} (tried {MAX_READS} times)"

    def require_progress(self, ledger: Ledger, work: Sequence[ShardWork], failure: WaveEnd | None) -> None:
        """Check the number of consecutive waves without progress.

        Args:
            ledger: Of the wave that ended.
            work: Remaining work before the wave.
            failure: Why the wave ended early; None: it did not.

        Raises:
            WaveError: It reached `MAX_IDLE_WAVES`.
        """
        is_idle = not (ledger.made_progress or ledger.unread_shards or (failure and failure.may_be_others))
        self._num_idle_waves = self._num_idle_waves + 1 if is_idle else 0
        if self._num_idle_waves < MAX_IDLE_WAVES:
            return
        names = ", ".join(item.shard.name for item in work[:5])
        why = f": {failure.reason}" if failure else ""
        raise WaveError(
            f"no progress on {len(work)} shards ({names}) in {MAX_IDLE_WAVES} waves{why}; what is committed stays, "
            "run the same command again"
        )

    def summarise(self, was_stopped: bool) -> RunSummary:
        """The summary of the invocation."""
        return RunSummary(
            counts=self.counts,
            num_chunks=self.num_chunks,
            num_sealed=self.num_sealed,
            failed_shards=self.failed_shards,
            truncated_shards=self.truncated_shards,
            was_stopped=was_stopped and self.num_shards_left > 0,
            num_shards_left=self.num_shards_left,
            elapsed_s=time.monotonic() - self.started_s,
            outcome=self.outcome,
        )
