"""The published masks of a run as a data set."""

import heapq
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast, get_args

import numpy as np
import torch
import torch.distributed
from jaxtyping import UInt8
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.errors import ManifestError
from pipeline.library.mask_shard import MaskShard
from pipeline.library.overlays import draw_overlay
from pipeline.library.row_choice import list_names
from pipeline.library.samples import DEFAULT_COLUMNS, MaskSample, SampleReader, Transform
from pipeline.library.shares import Process, UnevenRanks, cut_share, find_share, order_blocks
from pipeline.published.corrected_rows import CorrectedRows
from pipeline.published.filters import RowFilter
from pipeline.published.images import ImageReader
from pipeline.published.overrides import Overrides, read_overrides
from pipeline.published.rows import MaskRow
from pipeline.published.run import PublishedRun, open_published
from pipeline.run.records import InputShard

NUM_COUNTING_THREADS = 16
"""Manifests whose footers are read at a time."""


class MaskDataset(IterableDataset[Any]):
    """The kept rows of a run: a PyTorch iterable data set of `MaskSample`, and more.

    The ranks of a `torch.distributed` group and the workers of a `DataLoader` divide the rows among themselves. It can
    be pickled and used in forked processes. What was published when it was opened is what it has: open a run that still
    goes on once, or with the same `shard_names` in all ranks.
    """

    def __init__(
        self,
        run_uri: str | os.PathLike[str],
        row_filter: RowFilter,
        *,
        columns: str | Sequence[str] | None = None,
        shard_names: str | Sequence[str] | None = None,
        upright: bool = True,
        transform: Transform | None = None,
        shuffle: bool = False,
        rng_seed: int = 0,
        uneven_ranks: str = "repeat",
        overrides: bool = True,
    ) -> None:
        """Open a run; no row is read yet.

        Args:
            run_uri: Output folder of the run.
            row_filter: Rows that are kept.
            columns: Columns of rows; None: all but the class maps.
            shard_names: Some of the published shards; None: all.
            upright: Whether images and masks are turned by the EXIF orientation, as viewers and training tools do.
            transform: Applied to each sample, in the process that reads it; picklable for spawned workers.
            shuffle: Whether each epoch has another order; see `set_epoch`.
            rng_seed: Decides the orders.
            uneven_ranks: If the ranks of a distributed group cannot have the same number of rows: `repeat` a few rows,
                or `drop` them, so that all have; or `exact`, each row once, and ranks differ by one row.
            overrides: Whether corrected masks, those that are there now, take the place of the masks of the run.

        Raises:
            ManifestError: The folder holds no run, nothing is published, it has no such shard, or corrected masks are
                damaged.
            VocabularyError: The run lacks a class of the filter.
            ValueError: There is no such column or setting.
        """
        if uneven_ranks not in get_args(UnevenRanks):
            raise ValueError(f"need uneven_ranks repeat, drop or exact, got {uneven_ranks!r}")
        if rng_seed < 0:
            raise ValueError(f"need rng_seed >= 0, got {rng_seed}")
        run = open_published(os.fspath(run_uri))
        row_filter.settle(run)
        self.shards: tuple[InputShard, ...] = (
            run.shards if shard_names is None else tuple(map(run.get_shard, dict.fromkeys(list_names(shard_names))))
        )
        self._reader = SampleReader(
            rows=CorrectedRows(run, read_overrides(run.uri) if overrides else Overrides()),
            row_filter=row_filter,
            columns=DEFAULT_COLUMNS if columns is None else list_names(columns),
            upright=upright,
            transform=transform,
        )
        self._shuffle = shuffle
        self._rng_seed = rng_seed
        self.uneven_ranks = cast(UnevenRanks, uneven_ranks)
        # Workers that live for several epochs read the epoch of their parent.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._counts: list[list[int]] | None = None
        self._parent = Process()

    @property
    def run(self) -> PublishedRun:
        """The run: its record, configuration and vocabulary."""
        return self._reader.run

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each mask value; the first is the background."""
        return self.run.class_names

    @property
    def palette(self) -> UInt8[np.ndarray, "256 3"]:
        """RGB of each mask value."""
        return self.run.palette

    @property
    def shard_names(self) -> tuple[str, ...]:
        """Names of its shards, in the order of the run."""
        return tuple(shard.name for shard in self.shards)

    @property
    def num_rows(self) -> int:
        """Number of kept rows, of all ranks."""
        return sum(map(sum, self._count()))

    def __len__(self) -> int:
        """Number of rows of this rank. The footers of all manifests are read once, and the columns of the filter."""
        ranks = self._find_process()._replace(worker=0, num_workers=1)
        return len(find_share(self.num_rows, ranks, self.uneven_ranks))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the samples of this process, or over what the transform makes of them.

        Raises:
            ValueError: The filter keeps rejected rows, which have no mask.
            ShardError: A shard or an image is gone or changed.
            ManifestError: A manifest or a mask is damaged.
        """
        self._reader.require_masks()
        rng_seed = (self._rng_seed, int(self._epoch)) if self._shuffle else None
        blocks = order_blocks(self._count(), None if rng_seed is None else np.random.default_rng(rng_seed))
        share = find_share(self.num_rows, self._find_process(), self.uneven_ranks)
        images: ImageReader | None = None
        shard: InputShard | None = None
        for block, places in cut_share(blocks, share, rng_seed):
            if images is None or self.shards[block.shard] is not shard:
                shard = self.shards[block.shard]
                images = ImageReader(self.run, shard)
            rows = self._reader.read_rows(shard, block.groups, block.num_rows)
            yield from self._reader.read_samples(shard, [rows[place] for place in places], images)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration, if rows are shuffled: the same in all ranks.

        Raises:
            ValueError: It is negative.
        """
        if epoch < 0:
            raise ValueError(f"need epoch >= 0, got {epoch}")
        self._epoch.fill_(epoch)

    def rows(self, columns: str | Sequence[str] | None = None) -> Iterator[MaskRow]:
        """Iterate over all kept rows in order, without their images; rejected ones too, if the filter keeps them.

        Args:
            columns: To read; None: those of the data set.

        Raises:
            ManifestError: A manifest is damaged.
        """
        for shard in self.shards:
            yield from self._reader.iterate_rows(shard, self._choose_columns(columns))

    def shard(self, name: str) -> MaskShard:
        """The kept rows of a shard as a map-style data set.

        Raises:
            ManifestError: There is no such shard.
            ValueError: The filter keeps rejected rows, which have no mask.
        """
        self._reader.require_masks()
        if name not in self.shard_names:
            raise ManifestError(
                f"'{self.run.uri}' has no shard '{name}' here; it has {', '.join(self.shard_names[:5])}"
            )
        place = self.shard_names.index(name)
        shard = self.shards[place]
        counts = self._reader.count(shard) if self._counts is None else self._counts[place]
        return MaskShard(self._reader, shard, counts)

    def worst(self, num: int) -> list[MaskSample]:
        """The samples of the lowest quality, lowest first, without the transform.

        Raises:
            ValueError: The filter keeps rejected rows, which have no mask.
            ShardError: A shard or an image is gone or changed.
            ManifestError: A manifest or a mask is damaged.
        """
        self._reader.require_masks()
        # Each shard below needs its counts.
        self._count()
        found = heapq.nsmallest(num, self._iterate_qualities())
        samples: list[MaskSample] = []
        for _, shard, place in found:
            one = self.shard(self.shard_names[shard])
            row = one.read_row(place)
            payload = ImageReader(self.run, self.shards[shard]).read(row)
            mask = row.upright_mask() if self._reader.upright else row.mask()
            samples.append(MaskSample(self._reader.decode(row, payload), mask, row))
        return samples

    def read_image(self, row: MaskRow) -> Image.Image:
        """Read the image of a row, which may be a rejected one.

        Raises:
            ShardError: The sample has no image, or it is gone, changed or damaged.
            ValueError: The row lacks a column of `IMAGE_COLUMNS`.
        """
        return self._reader.decode(row, ImageReader(self.run, self.run.get_shard(row.shard_name)).read(row))

    def draw(self, sample: MaskSample) -> Image.Image:
        """Picture of a sample: the photo, and the mask over it in the colours of the run."""
        return draw_overlay(sample.image, sample.mask, self.palette)

    def __repr__(self) -> str:
        """URI, shards and classes."""
        return f"<MaskDataset '{self.run.uri}': {len(self.shards)} shards, {len(self.class_names) - 1} classes>"

    def __getstate__(self) -> dict[str, Any]:
        """With the rank of this process, which spawned workers cannot ask for."""
        return self.__dict__ | {"_parent": self._find_process()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share the epoch with the workers of this process."""
        self.__dict__.update(state)
        self._epoch.share_memory_()

    def _choose_columns(self, columns: str | Sequence[str] | None) -> tuple[str, ...]:
        return self._reader.columns if columns is None else list_names(columns)

    def _iterate_qualities(self) -> Iterator[tuple[float, int, int]]:
        """Quality, place of the shard, and place among its kept rows."""
        for number, shard in enumerate(self.shards):
            for place, row in enumerate(self._reader.iterate_rows(shard, ("quality",))):
                yield (0.0 if row.quality is None else row.quality), number, place

    def _count(self) -> list[list[int]]:
        if self._counts is None:
            with ThreadPoolExecutor(NUM_COUNTING_THREADS) as threads:
                self._counts = list(threads.map(self._reader.count, self.shards))
        return self._counts

    def _find_process(self) -> Process:
        worker = get_worker_info()
        process = Process()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            process = Process(torch.distributed.get_rank(), torch.distributed.get_world_size())
        elif worker is not None:
            process = self._parent
        return process if worker is None else process._replace(worker=worker.id, num_workers=worker.num_workers)
