"""One shard of published masks as a data set with random access."""

import operator
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, SupportsIndex

from torch.utils.data import Dataset

from pipeline.library.samples import SampleReader
from pipeline.published.images import ImageReader
from pipeline.published.rows import MaskRow
from pipeline.run.records import InputShard

KEPT_GROUPS = 4
"""Row groups in memory, with their masks, without their images."""


class MaskShard(Dataset[Any]):
    """The kept rows of a shard: a PyTorch map-style data set.

    An access reads the row group of the row, unless it is one of the last few, and the image by its range. It can be
    pickled and used in forked processes.
    """

    def __init__(self, reader: SampleReader, shard: InputShard, counts: list[int]) -> None:
        """Read nothing yet.

        Args:
            reader: Of samples.
            shard: Of its run.
            counts: Kept rows of each row group.
        """
        self._reader = reader
        self._shard = shard
        self._counts = counts
        self._starts = list(accumulate(counts, initial=0))
        self._drop()

    @property
    def name(self) -> str:
        """Name of the shard."""
        return self._shard.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each mask value; the first is the background."""
        return self._reader.run.class_names

    def __len__(self) -> int:
        """Number of kept rows."""
        return self._starts[-1]

    def __getitem__(self, place: SupportsIndex) -> Any:
        """Read a sample, or what the transform makes of it.

        Args:
            place: Of a kept row, from 0; from the end if it is negative.

        Raises:
            IndexError: There is no such row.
            TypeError: It is no whole number.
            ShardError: The shard or the image is gone or changed.
            ManifestError: The manifest or the mask is damaged.
        """
        row = self.read_row(place)
        return self._reader.make_sample(row, self._images.read(row))

    def __iter__(self) -> Iterator[Any]:
        """Iterate over all samples in order, faster than one by one.

        Raises:
            ShardError: The shard or an image is gone or changed.
            ManifestError: The manifest or a mask is damaged.
        """
        for group, num_rows in enumerate(self._counts):
            if num_rows:
                rows = self._reader.read_rows(self._shard, [group], num_rows)
                yield from self._reader.read_samples(self._shard, rows, self._images)

    def read_row(self, place: SupportsIndex) -> MaskRow:
        """Read a row, without its image.

        Raises:
            IndexError: There is no such row.
            TypeError: It is no whole number.
            ManifestError: The manifest is damaged.
        """
        index = operator.index(place)
        if not -len(self) <= index < len(self):
            raise IndexError(f"shard '{self.name}' has {len(self)} kept rows, row {index} was asked for")
        index %= len(self)
        group = bisect_right(self._starts, index) - 1
        if group not in self._rows:
            self._rows[group] = self._reader.read_rows(self._shard, [group], self._counts[group])
            while len(self._rows) > KEPT_GROUPS:
                self._rows.popitem(last=False)
        self._rows.move_to_end(group)
        return self._rows[group][index - self._starts[group]]

    def __repr__(self) -> str:
        """Name and number of rows."""
        return f"<MaskShard '{self.name}': {len(self)} rows>"

    def __getstate__(self) -> dict[str, Any]:
        """Without what is in memory."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_rows", "_images")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with nothing in memory."""
        self.__dict__.update(state)
        self._drop()

    def _drop(self) -> None:
        self._rows: OrderedDict[int, list[MaskRow]] = OrderedDict()
        self._images = ImageReader(self._reader.run, self._shard)
