"""What the driver keeps while a wave runs: which chunks are committed, which shards are complete."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

import ray

from pipeline.commit.parts import PartName
from pipeline.commit.plan import Plan, ShardWork
from pipeline.commit.seal import Refusal, seal_shard, tell_refusal
from pipeline.driver.ray_failures import describe_failure
from pipeline.labelling.label_actor import LabelOptions
from pipeline.run.counts import LabelCounts
from pipeline.run.identity import Run
from pipeline.run.records import InputShard

logger = logging.getLogger(__name__)

MAX_SEALS_IN_FLIGHT = 64
"""Shards that are sealed at the same time."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, for whoever shows it."""

    num_shards: int
    num_sealed: int
    num_bytes: int
    num_bytes_done: int
    counts: LabelCounts
    """Of this invocation."""
    elapsed_s: float
    """Since the first chunk was asked for."""


@dataclass(kw_only=True)
class Ledger:
    """What the driver knows of the shards of a wave; seals those that are complete."""

    run: Run
    options: LabelOptions
    plan: Plan
    wave: Sequence[ShardWork]
    started_s: float
    counts: LabelCounts
    submit: Callable[..., Future[Any]]
    """Calls a function somewhere else, with `reporting` as its further argument."""
    publish: Callable[..., object] = seal_shard
    """Publishes a shard that is complete."""
    publish_arguments: Mapping[str, Any] = field(default_factory=dict)
    """What `publish` wants besides what every shard has."""
    num_chunks: int = 0
    num_sealed: int = 0
    failed_shards: dict[str, str] = field(default_factory=dict)
    """Error of each shard that cannot be published."""
    unread_shards: dict[str, str] = field(default_factory=dict)
    """Error of each shard that its store did not give or take; it may in the next wave."""
    cut_shards: dict[str, str] = field(default_factory=dict)
    """Of each shard that breaks off, where, and how much of it was not read."""
    _parts: dict[str, set[PartName]] = field(default_factory=dict)
    _ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    _shards: dict[str, Any] = field(default_factory=dict)
    _offsets: dict[str, int] = field(default_factory=dict)
    _seals: dict[Future[Refusal | None], str] = field(default_factory=dict)
    _complete: deque[tuple[str, tuple[PartName, ...], int | None]] = field(default_factory=deque)
    """Shards that wait to be sealed, with their parts and where they are truncated."""
    _num_bytes_done: int = 0
    """Kept up to date and not summed up: a wave has thousands of shards, and every chunk asks."""

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
        """Whether anything was committed, sealed, or found impossible."""
        return bool(self.num_chunks or self.num_sealed or self.failed_shards)

    def take(self, fields: dict[str, Any]) -> None:
        """Enter what became of a chunk, or how a shard ended: a row of `commit.COMMITTED_SCHEMA`."""
        name = fields["shard_name"]
        if name not in self._parts:
            # A read task that died was run again, and gives what it gave before.
            return
        if fields["error"]:
            errors = self.unread_shards if fields["is_store_error"] else self.failed_shards
            errors[name] = fields["error"]
            return
        if fields["is_end"]:
            self._ends[name] = fields
        else:
            self._enter_chunk(name, fields)
        self._seal_if_complete(name)

    def _enter_chunk(self, name: str, fields: dict[str, Any]) -> None:
        part = PartName(chunk_index=fields["chunk_index"], end_offset=fields["end_offset"])
        if part in self._parts[name]:
            return
        self._parts[name].add(part)
        if not self._shards[name].is_parquet:
            self._advance(name, fields["end_offset"])
        rejected = dict(fields["rejected"])
        num_rejected = sum(rejected.values())
        self.num_chunks += 1
        self.counts = self.counts.merge(
            LabelCounts(
                num_read=fields["num_labelled"] + num_rejected,
                num_labelled=fields["num_labelled"],
                num_rejected=num_rejected,
                rejected_by_reason=rejected,
                num_bytes=0,
            )
        )

    def _advance(self, name: str, offset: int) -> None:
        """Note up to where a shard is done; chunks may come in any order."""
        if offset > self._offsets[name]:
            self._num_bytes_done += offset - self._offsets[name]
            self._offsets[name] = offset

    def _seal_if_complete(self, name: str) -> None:
        end = self._ends.get(name)
        if end is None or len(self._parts[name]) < end["num_chunks"]:
            return
        del self._ends[name]
        parts = tuple(sorted(self._parts.pop(name)))
        if end["truncated_at"] is not None:
            self.cut_shards[name] = _describe_cut(self._shards[name], parts, end["truncated_at"])
        self._complete.append((name, parts, end["truncated_at"]))
        self._submit_seals()

    def _submit_seals(self) -> None:
        while self._complete and len(self._seals) < MAX_SEALS_IN_FLIGHT:
            name, parts, truncated_at = self._complete.popleft()
            seal = self.submit(
                tell_refusal,
                publish=self.publish,
                out_uri=self.run.out_uri,
                fingerprint=self.run.fingerprint,
                shard=self._shards[name],
                parts=parts,
                truncated_at=truncated_at,
                max_rejected_fraction=self.options.max_rejected_fraction,
                **self.publish_arguments,
            )
            self._seals[seal] = name

    def collect_seals(self, timeout_s: float) -> int:
        """Enter the shards that are sealed by now, or soon; give how many came to an end."""
        if not self._seals:
            return 0
        ended = wait(self._seals, timeout=timeout_s, return_when=FIRST_COMPLETED).done
        for seal in ended:
            name = self._seals.pop(seal)
            try:
                refusal = seal.result()
            except ray.exceptions.RayError as failure:
                # The parts are there: the next wave finds the shard unsealed and seals it.
                logger.warning("sealing shard '%s' failed, it is tried again: %s", name, describe_failure(failure))
                continue
            if refusal is None:
                self.num_sealed += 1
                self._advance(name, self._shards[name].size_bytes)
                continue
            errors = self.unread_shards if refusal.is_store_error else self.failed_shards
            errors[name] = refusal.error
        self._submit_seals()
        return len(ended)

    def abandon_seals(self) -> list[str]:
        """Wait no longer for the shards that are being sealed; give their names. The next wave seals them again."""
        names = [*self._seals.values(), *(name for name, _, _ in self._complete)]
        self._seals.clear()
        self._complete.clear()
        return names

    def show(self) -> Progress:
        """Say where the wave stands."""
        return Progress(
            num_shards=self.plan.num_shards,
            num_sealed=self.plan.num_sealed + self.num_sealed,
            num_bytes=self.plan.num_bytes,
            num_bytes_done=self._num_bytes_done,
            counts=self.counts,
            elapsed_s=time.monotonic() - self.started_s,
        )


def _describe_cut(shard: InputShard, parts: Sequence[PartName], truncated_at: int) -> str:
    num_bytes_read = parts[-1].end_offset if parts else 0
    # Not every store tells a size.
    where, rest = f"byte {truncated_at}", "what is behind it is not"
    if shard.size_bytes:
        where = f"{where} of {shard.size_bytes}"
        rest = f"the {shard.size_bytes - num_bytes_read} bytes behind it are not"
    return (
        f"shard '{shard.uri}' breaks off at {where}: what is whole is labelled, {rest}; copy it again and give it a "
        "new --out"
    )
