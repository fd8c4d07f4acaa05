"""Order of an epoch, its even division among workers and steps, and the rest of it.

The order of an epoch is a function of (rng_seed, epoch, shards). Shards are permuted and joined into groups; within a
group, samples are drawn from a window. This module computes positions in that order, as plain numbers. A checkpoint
stores the positions that are done, so each sample is seen once per epoch, even if the number of workers changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.run.records import InputShard
from pipeline.training.seeds import make_generator

VALIDATION = -1
"""Number that stands for the epoch of validation images."""


@dataclass(frozen=True, kw_only=True)
class ShardGroup:
    """Shards whose samples are shuffled together; one task reads them."""

    number: int
    """Position of the group in the epoch."""
    shards: tuple[InputShard, ...]
    first: int
    """Position of its first sample in the epoch's order."""
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A range of positions `[start, stop)` within the order of a group; one task reads it."""

    epoch: int
    """From 0; VALIDATION for images that are neither shuffled nor augmented."""
    group: ShardGroup
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The shares of the workers in an epoch, or in the rest of one, and the number of steps."""

    epoch: int
    """From 0."""
    shares: tuple[tuple[tuple[int, int], ...], ...]
    """Of each worker: ranges `[start, stop)` in the epoch's order. The sizes of the shares differ by at most 1."""
    num_steps: int
    num_seen: int = 0
    """Samples of this epoch that earlier plans have covered."""

    @property
    def num_samples(self) -> int:
        """Samples in all shares."""
        return sum(count_places(share) for share in self.shares)

    def count_before(self, rank: int, step: int) -> int:
        """Count the samples of a worker in the steps before `step`; the sizes of steps differ by at most 1."""
        if self.num_steps == 0:
            return 0
        return count_places(self.shares[rank]) * step // self.num_steps

    def count_seen(self, step: int) -> int:
        """Count the samples of this epoch that all workers have seen before `step`, those of earlier plans included."""
        return self.num_seen + sum(self.count_before(rank, step) for rank in range(len(self.shares)))

    def list_batch_sizes(self, rank: int, first_step: int = 0) -> list[int]:
        """List the number of samples of a worker in each step from `first_step` on."""
        bounds = [self.count_before(rank, step) for step in range(first_step, self.num_steps + 1)]
        return [after - before for before, after in pairwise(bounds)]

    def list_left(self, step: int) -> list[tuple[int, int]]:
        """List the ranges that no worker has seen before `step`, in order."""
        left = [
            run
            for rank, share in enumerate(self.shares)
            for run in _cut_ranges(share, self.count_before(rank, step), count_places(share))
        ]
        return sorted(left)

    def describe(self) -> dict[str, Any]:
        """Convert to plain values."""
        return {
            "epoch": self.epoch,
            "shares": [[list(run) for run in share] for share in self.shares],
            "num_steps": self.num_steps,
            "num_seen": self.num_seen,
        }

    @classmethod
    def restore(cls, fields: Mapping[str, Any]) -> "EpochPlan":
        """Convert from the plain values of `describe`."""
        shares = tuple(tuple((start, stop) for start, stop in share) for share in fields["shares"])
        return cls(epoch=fields["epoch"], shares=shares, num_steps=fields["num_steps"], num_seen=fields["num_seen"])


def plan_epoch(
    epoch: int,
    left: Sequence[tuple[int, int]],
    *,
    num_workers: int,
    batch_size: int,
    num_seen: int = 0,
) -> EpochPlan:
    """Divide positions evenly among workers, in contiguous shares, and into as few steps as the batch size allows.

    Args:
        epoch: From 0.
        left: Ranges of positions `[start, stop)` to be seen.
        num_workers: Current number of workers.
        batch_size: Largest number of samples of a step, over all workers.
        num_seen: Samples of this epoch that were seen before.
    """
    total = count_places(left)
    bounds = [total * rank // num_workers for rank in range(num_workers + 1)]
    shares = tuple(_cut_ranges(left, start, stop) for start, stop in pairwise(bounds))
    per_worker = max(1, batch_size // num_workers)
    largest = max(count_places(share) for share in shares)
    return EpochPlan(epoch=epoch, shares=shares, num_steps=-(-largest // per_worker), num_seen=num_seen)


def group_shards(
    shards: Sequence[InputShard],
    num_usable: Mapping[str, int],
    *,
    window: int,
    rng_seed: int,
    epoch: int,
) -> list[ShardGroup]:
    """Permute the shards of an epoch, and join them until a group fills the window in which it is shuffled.

    Args:
        shards: In the run's order.
        num_usable: Usable samples by the shard's name.
        window: Size of the shuffle window, in samples.
        rng_seed: Of the run.
        epoch: From 0; VALIDATION keeps the shards' order.
    """
    order = list(shards)
    if epoch != VALIDATION:
        order = [shards[place] for place in make_generator(rng_seed, epoch, "shards").permutation(len(shards))]
    groups: list[ShardGroup] = []
    members: list[InputShard] = []
    first = num_samples = 0
    for shard in order:
        members.append(shard)
        num_samples += num_usable[shard.name]
        if num_samples >= window:
            groups.append(ShardGroup(number=len(groups), shards=tuple(members), first=first, num_samples=num_samples))
            first, num_samples, members = first + num_samples, 0, []
    if num_samples:
        groups.append(ShardGroup(number=len(groups), shards=tuple(members), first=first, num_samples=num_samples))
    return groups


def list_pieces(
    groups: Sequence[ShardGroup], share: Sequence[tuple[int, int]], epoch: int, num_skipped: int = 0
) -> Iterator[Piece]:
    """List the pieces of a worker's share, without its first `num_skipped` samples, in order."""
    for start, stop in _cut_ranges(share, num_skipped, count_places(share)):
        for group in groups:
            low, high = max(start, group.first), min(stop, group.first + group.num_samples)
            if low < high:
                yield Piece(epoch=epoch, group=group, start=low - group.first, stop=high - group.first)


def count_places(runs: Sequence[tuple[int, int]]) -> int:
    """Count the positions of ranges `[start, stop)`."""
    return sum(stop - start for start, stop in runs)


def _cut_ranges(runs: Sequence[tuple[int, int]], first: int, last: int) -> tuple[tuple[int, int], ...]:
    """Return the ranges of the samples `[first, last)`, counted over all runs."""
    kept = []
    before = 0
    for start, stop in runs:
        low, high = max(start, start + first - before), min(stop, start + last - before)
        if low < high:
            kept.append((low, high))
        before += stop - start
    return tuple(kept)
