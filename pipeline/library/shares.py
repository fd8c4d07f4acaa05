"""Which rows each process reads, and in which order: a function of the counts of rows, the seed and the epoch.

All processes agree on one order of all rows. Each takes a slice of it: the ranks of a distributed group first, then the
workers of a loader.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

SHUFFLED_GROUPS = 4
"""Row groups whose rows are shuffled together: they are in memory, with their masks, without their images."""

UnevenRanks = Literal["repeat", "drop", "exact"]
"""What happens if rows cannot be divided evenly among ranks: some are read twice, some by none, or ranks differ."""


class Block(NamedTuple):
    """Row groups of one shard that are read together."""

    shard: int
    """Place of the shard in the run."""
    groups: tuple[int, ...]
    num_rows: int
    """Kept rows."""


class Piece(NamedTuple):
    """Rows of a block."""

    block: Block
    places: tuple[int, ...]
    """Places among the kept rows of the block, in the order in which they are read."""


class Process(NamedTuple):
    """A process among those that read together."""

    rank: int = 0
    num_ranks: int = 1
    worker: int = 0
    num_workers: int = 1


def order_blocks(counts: Sequence[Sequence[int]], rng: np.random.Generator | None) -> list[Block]:
    """Put the row groups of a run into the order of an epoch.

    Args:
        counts: Kept rows of each row group of each shard.
        rng: Decides the order; None: that of the run.
    """
    most = 1 if rng is None else SHUFFLED_GROUPS
    blocks = []
    for shard, nums in enumerate(counts):
        groups = [group for group, num_rows in enumerate(nums) if num_rows]
        for start in range(0, len(groups), most):
            some = tuple(groups[start : start + most])
            blocks.append(Block(shard, some, sum(nums[group] for group in some)))
    return blocks if rng is None else [blocks[place] for place in rng.permutation(len(blocks))]


def find_share(num_rows: int, process: Process, uneven: UnevenRanks) -> range:
    """Find the places of a process in the order of all rows; those from `num_rows` on begin again at 0.

    >>> [list(find_share(3, Process(rank, 2), "repeat")) for rank in (0, 1)]
    [[0, 1], [2, 3]]
    """
    rank, num_ranks, worker, num_workers = process
    if uneven == "exact":
        start, stop = rank * num_rows // num_ranks, (rank + 1) * num_rows // num_ranks
    else:
        size = num_rows // num_ranks if uneven == "drop" else -(-num_rows // num_ranks)
        start, stop = rank * size, (rank + 1) * size
    size = stop - start
    # The same cut in all ranks: their workers make equally many batches.
    return range(start + worker * size // num_workers, start + (worker + 1) * size // num_workers)


def cut_share(blocks: Sequence[Block], share: range, rng_seed: tuple[int, ...] | None) -> Iterator[Piece]:
    """Cut the blocks of an epoch to the rows of a share.

    Args:
        blocks: In the order of the epoch.
        share: Places in the order of all rows.
        rng_seed: Decides the order within each block; None: that of the shard.
    """
    num_rows = sum(block.num_rows for block in blocks)
    start = share.start
    while start < share.stop:
        first = start % num_rows
        stop = min(share.stop, start - first + num_rows)
        yield from _cut(blocks, range(first, first + stop - start), rng_seed)
        start = stop


def _cut(blocks: Sequence[Block], share: range, rng_seed: tuple[int, ...] | None) -> Iterator[Piece]:
    before = 0
    for number, block in enumerate(blocks):
        first, last = max(share.start - before, 0), min(share.stop - before, block.num_rows)
        before += block.num_rows
        if first >= last:
            continue
        order = np.arange(block.num_rows)
        if rng_seed is not None:
            order = np.random.default_rng((*rng_seed, number)).permutation(block.num_rows)
        yield Piece(block, tuple(order[first:last].tolist()))
