"""Bookkeeping of a wave: which chunks are committed, which shards are complete."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

from pipeline.commit.names import PartName
from pipeline.commit.outcome import Outcome
from pipeline.commit.plan import Plan, ShardWork
from pipeline.commit.seal import CompleteShard, Publish, Refusal, publish_shard
from pipeline.commit.worker_reports import ChunkReport, Report, ShardEndReport, ShardFailure
from pipeline.errors import WaveError
from pipeline.run.counts import LabelCounts
from pipeline.run.records import InputShard, ShardEnd

logger = logging.getLogger(__name__)

MAX_SEALS_IN_FLIGHT = 64
"""Maximum number of shards sealed at the same time."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a run."""

    num_shards: int
    num_sealed: int
    num_bytes: int
    num_bytes_done: int
    counts: LabelCounts
    """Of this invocation."""
    elapsed_s: float
    """Seconds since the driver started."""
    num_failed: int = 0
    """Shards that this invocation gave up."""


@dataclass(kw_only=True)
class Ledger:
    """The shards of a wave. Seals those that are complete."""

    plan: Plan
    wave: Sequence[ShardWork]
    started_s: float
    counts: LabelCounts
    submit: Callable[..., Future[Any]]
    """Calls a function with `reporting` as an additional argument; the future fails with a `WaveError` if its process
    is lost."""
    publish: Publish
    num_failed_before: int = 0
    """Shards that earlier waves of this invocation gave up."""
    num_chunks: int = 0
    num_sealed: int = 0
    failed_shards: dict[str, str] = field(default_factory=dict)
    """Error of each shard that cannot be published."""
    unread_shards: dict[str, str] = field(default_factory=dict)
    """Error of each shard whose store failed; the next wave may succeed."""
    truncated_shards: dict[str, str] = field(default_factory=dict)
    """For each truncated shard: where it ends, and how much of it was not read."""
    outcome: Outcome = field(default_factory=Outcome)
    """What became of the shards that are published."""
    _parts: dict[str, set[PartName]] = field(default_factory=dict)
    _ends: dict[str, ShardEnd] = field(default_factory=dict)
    _shards: dict[str, InputShard] = field(default_factory=dict)
    _offsets: dict[str, int] = field(default_factory=dict)
    _seals: dict[Future[Outcome | Refusal], str] = field(default_factory=dict)
    _complete: deque[CompleteShard] = field(default_factory=deque)
    """Shards that wait to be sealed."""
    _num_bytes_done: int = 0
    """A running sum: a wave has thousands of shards, and every chunk reads it."""

    def __post_init__(self) -> None:
        self._num_bytes_done = self.plan.num_bytes_done
        for work in self.wave:
            self._parts[work.shard.name] = set(work.committed)
            self._shards[work.shard.name] = work.shard
            self._offsets[work.shard.name] = work.num_bytes_done

    @property
    def has_seals(self) -> bool:
        """Whether shards are being sealed."""
        return bool(self._seals or self._complete)

    @property
    def made_progress(self) -> bool:
        """Whether any chunk was committed, or any shard sealed or failed."""
        return bool(self.num_chunks or self.num_sealed or self.failed_shards)

    def enter(self, report: Report) -> None:
        """Record a report; seal the shard if it is now complete."""
        name = report.chunk.shard_name if isinstance(report, ChunkReport) else report.shard_name
        if name not in self._parts:
            # A retried read task repeats its rows.
            return
        match report:
            case ShardFailure():
                self._enter_failure(name, report.error, report.is_store_error)
                return
            case ShardEndReport():
                self._ends[name] = report.end
            case ChunkReport():
                self._enter_chunk(name, report)
        self._seal_if_complete(name)

    def _enter_failure(self, name: str, error: str, is_store_error: bool) -> None:
        errors = self.unread_shards if is_store_error else self.failed_shards
        errors[name] = error

    def _enter_chunk(self, name: str, report: ChunkReport) -> None:
        part = report.chunk.part
        if part in self._parts[name]:
            return
        self._parts[name].add(part)
        if not self._shards[name].is_parquet:
            self._advance(name, part.end_offset)
        self.num_chunks += 1
        self.counts = self.counts.merge(report.counts)

    def _advance(self, name: str, offset: int) -> None:
        """Record the byte up to which a shard is done. Chunks arrive in any order."""
        if offset > self._offsets[name]:
            self._num_bytes_done += offset - self._offsets[name]
            self._offsets[name] = offset

    def _seal_if_complete(self, name: str) -> None:
        end = self._ends.get(name)
        if end is None or len(self._parts[name]) < end.num_chunks:
            return
        del self._ends[name]
        parts = tuple(sorted(self._parts.pop(name)))
        shard = self._shards[name]
        if end.truncated_at is not None:
            self.truncated_shards[name] = _describe_truncation(shard, parts, end.truncated_at)
        self._complete.append(
            CompleteShard(shard=shard, parts=parts, truncated_at=end.truncated_at, members_after=end.members)
        )
        self._submit_seals()

    def _submit_seals(self) -> None:
        while self._complete and len(self._seals) < MAX_SEALS_IN_FLIGHT:
            complete = self._complete.popleft()
            seal = self.submit(publish_shard, publish=self.publish, complete=complete)
            self._seals[seal] = complete.shard.name

    def collect_seals(self, timeout_s: float) -> int:
        """Record the seals that end within the timeout; return their number."""
        if not self._seals:
            return 0
        ended = wait(self._seals, timeout=timeout_s, return_when=FIRST_COMPLETED).done
        for seal in ended:
            name = self._seals.pop(seal)
            try:
                sealed = seal.result()
            except WaveError as failure:
                # The parts remain: the next wave finds the shard unsealed and seals it.
                logger.warning("sealing shard '%s' failed, it is tried again: %s", name, failure)
                continue
            if isinstance(sealed, Refusal):
                self._enter_failure(name, sealed.error, sealed.is_store_error)
            else:
                self.num_sealed += 1
                self.outcome = self.outcome.merge(sealed)
                self._advance(name, self._shards[name].size_bytes)
        self._submit_seals()
        return len(ended)

    def abandon_seals(self) -> list[str]:
        """Stop waiting for seals; return the names of their shards. The next wave seals them again."""
        names = [*self._seals.values(), *(complete.shard.name for complete in self._complete)]
        self._seals.clear()
        self._complete.clear()
        return names

    def show(self) -> Progress:
        """Progress of the run."""
        return Progress(
            num_shards=self.plan.num_shards,
            num_sealed=self.plan.num_sealed + self.num_sealed,
            num_bytes=self.plan.num_bytes,
            num_bytes_done=self._num_bytes_done,
            counts=self.counts,
            elapsed_s=time.monotonic() - self.started_s,
            num_failed=self.num_failed_before + len(self.failed_shards),
        )


def _describe_truncation(shard: InputShard, parts: Sequence[PartName], truncated_at: int) -> str:
    num_bytes_read = parts[-1].end_offset if parts else 0
    # Some stores do not report a size.
    where, rest = f"byte {truncated_at}", "what is behind it is not"
    if shard.size_bytes:
        where = f"{where} of {shard.size_bytes}"
        rest = f"the {shard.size_bytes - num_bytes_read} bytes behind it are not"
    return (
        f"shard '{shard.uri}' is truncated at {where}: the samples before it are labelled, {rest}; "
        "copy it again and give it a new --out"
    )
