"""Rows of a run in full, read when they are looked at: a row group at a time, the last ones kept."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ManifestError
from pipeline.published.images import ImageReader
from pipeline.published.rows import MaskRow, open_rows
from pipeline.published.run import PublishedRun

FIGURES = (
    *("status", "reason", "error", "width", "height", "exif_orientation", "image_sha256", "tags_unknown", "class_ids"),
    *("quality", "ignore_fraction", "background_fraction", "margin_mean", "entropy_mean", "suggested_class_ids"),
    *("doubtful_class_ids", "classes", "shard", "image_offset", "image_bytes", "image_uri"),
)
"""Every column but the large ones."""
MASK, CLASS_MAPS = ("mask",), ("class_maps",)
MAX_CACHED_BYTES = 32 * 2**20
"""Of row groups, beside which there is always the last one."""
MAX_READERS = 16


class RunRows:
    """Reads rows and images of one run, in any number of threads."""

    def __init__(self, run: PublishedRun) -> None:
        """Read nothing yet."""
        self.run = run
        self.numbers = {shard.name: number for number, shard in enumerate(run.shards)}
        """Number of each shard in the run."""
        self._groups: OrderedDict[tuple[int, int, Sequence[str]], pa.Table] = OrderedDict()
        self._starts: dict[int, list[int]] = {}
        self._readers: OrderedDict[int, tuple[threading.Lock, ImageReader]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, shard: int, index: int, *column_groups: Sequence[str]) -> MaskRow:
        """Read some columns of a row.

        Args:
            shard: Number of the shard in the run.
            index: Of the row in its shard.
            column_groups: Of `FIGURES`, `MASK` and `CLASS_MAPS`.

        Raises:
            KeyError: The shard has no such row.
            ManifestError: The manifest is gone, damaged or of another run.
            StorageError: The store failed.
        """
        values: dict[str, Any] = {}
        for columns in column_groups:
            table, start = self._read_group(shard, index, columns)
            values |= dict.fromkeys(columns) | table.slice(index - start, 1).to_pylist()[0]
        if values["index"] != index:
            raise ManifestError(f"rows of '{self.run.manifest_uris[shard]}' are not in the order of their shard")
        return MaskRow(values, self.run.shards[shard].name, self.run.class_names)

    def read_image(self, shard: int, row: MaskRow) -> bytes:
        """Read the encoded image of a row with the columns `FIGURES`.

        Raises:
            ShardError: The sample has no image; or the shard or the image is gone or changed.
            StorageError: The store failed.
        """
        known = self.run.shards[shard]
        if known.is_index or row.get("image_offset") is not None:
            # Read alone: readers of several requests do not wait for each other.
            return ImageReader(self.run, known).read(row)
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = threading.Lock(), ImageReader(self.run, known)
            self._readers.move_to_end(shard)
            lock, reader = self._readers[shard]
            while len(self._readers) > MAX_READERS:
                self._readers.popitem(last=False)
        with lock:
            return reader.read(row)

    def _read_group(self, shard: int, index: int, columns: Sequence[str]) -> tuple[pa.Table, int]:
        """The row group of a row, and the index of its first row."""
        with self._lock:
            starts = self._starts.get(shard)
            if starts is not None:
                group = _find_group(starts, index)
                if (table := self._groups.get((shard, group, columns))) is not None:
                    self._groups.move_to_end((shard, group, columns))
                    return table, starts[group]
        with open_rows(self.run, self.run.manifest_uris[shard]) as manifest:
            sizes = [manifest.count(group) for group in range(manifest.num_row_groups)]
            starts = [int(one) for one in np.cumsum([0, *sizes])]
            group = _find_group(starts, index)
            table = manifest.read_table(group, None, columns).replace_schema_metadata()
        with self._lock:
            self._starts[shard] = starts
            self._groups[shard, group, columns] = table
            num_bytes = sum(one.nbytes for one in self._groups.values())
            while num_bytes > MAX_CACHED_BYTES and len(self._groups) > 1:
                num_bytes -= self._groups.popitem(last=False)[1].nbytes
        return table, starts[group]


def _find_group(starts: Sequence[int], index: int) -> int:
    if not 0 <= index < starts[-1]:
        raise KeyError(f"no row {index} among {starts[-1]}")
    return int(np.searchsorted(starts, index, side="right")) - 1
