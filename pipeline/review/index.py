"""The small columns of all rows in memory, read shard by shard while the page is in use.

Some 60 bytes a row beside its key. Masks, maps and images stay where they are.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int8, Int32, Int64, Shaped, UInt8

from pipeline.errors import LabellingError, ManifestError
from pipeline.published.rows import open_rows
from pipeline.published.run import PublishedRun
from pipeline.run.records import Reason, Status

STATUSES = tuple(Status)
REASONS = tuple(Reason)
ID_COLUMNS = ("class_ids", "suggested_class_ids", "doubtful_class_ids")
COLUMNS = ("status", "reason", "error", "quality", "width", "height", "exif_orientation", *ID_COLUMNS)
NUM_THREADS = 4
"""Shards that are read at the same time; more slow down the requests of the page."""
NO_REASON = -1


class ClassIds(NamedTuple):
    """Lists of class ids, flat: one entry an id, in the order of the rows."""

    rows: Int32[np.ndarray, " ids"]
    """Number of the row of each id."""
    ids: UInt8[np.ndarray, " ids"]

    def find_rows(self, num_rows: int, class_id: int | None = None) -> Bool[np.ndarray, " rows"]:
        """True for the rows with a class; None: with any."""
        found = np.zeros(num_rows, bool)
        found[self.rows if class_id is None else self.rows[self.ids == class_id]] = True
        return found

    def get(self, row: int) -> list[int]:
        """The ids of a row."""
        start, stop = np.searchsorted(self.rows, (row, row + 1))
        return [int(one) for one in self.ids[start:stop]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowTable:
    """The rows of the shards that are read so far, in the order of the run."""

    starts: Int64[np.ndarray, " shards"]
    """Number of the first row of each shard, and at the end the number of rows."""
    keys: pa.ChunkedArray
    errors: pa.ChunkedArray
    status: Int8[np.ndarray, " rows"]
    """Place in `STATUSES`."""
    reason: Int8[np.ndarray, " rows"]
    """Place in `REASONS`, or `NO_REASON`."""
    quality: Float32[np.ndarray, " rows"]
    """NaN for a rejected row."""
    width: Int32[np.ndarray, " rows"]
    """Of the stored pixels; 0 if unknown."""
    height: Int32[np.ndarray, " rows"]
    orientation: Int8[np.ndarray, " rows"]
    class_ids: ClassIds
    suggested: ClassIds
    doubtful: ClassIds

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.status)

    @property
    def num_shards(self) -> int:
        """Number of shards that are read."""
        return len(self.starts) - 1

    def locate(self, row: int) -> tuple[int, int]:
        """Shard of a row, as its number in the run, and the row's index in it."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return shard, row - int(self.starts[shard])

    def find_number(self, shard: int, index: int) -> int | None:
        """Number of a row; None if its shard is not read yet or has no such row."""
        if not 0 <= shard < self.num_shards:
            return None
        row = int(self.starts[shard]) + index
        return row if index >= 0 and row < self.starts[shard + 1] else None


class RowIndex:
    """Reads the small columns of a run in the background."""

    def __init__(self, run: PublishedRun) -> None:
        """Read nothing yet."""
        self.run = run
        self.failures: list[str] = []
        """Shards that could not be read, in words."""
        self._tables = [replace(_convert(_empty()), starts=np.zeros(1, np.int64))]
        self._lock = threading.Lock()
        self._is_stopped = False

    def read_all(self) -> None:
        """Read all shards, in their order; those that cannot be read are named in `failures` and have no rows.

        Several are read at once, and few wait for one before them.
        """
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            for start in range(0, len(self.run.shards), 4 * NUM_THREADS):
                numbers = range(start, min(start + 4 * NUM_THREADS, len(self.run.shards)))
                for table in threads.map(self._read_shard, numbers):
                    if self._is_stopped:
                        return
                    with self._lock:
                        self._tables.append(table)

    def stop(self) -> None:
        """Let `read_all` end early."""
        self._is_stopped = True

    def get_table(self) -> RowTable:
        """The rows that are read so far; the same object until there are more."""
        with self._lock:
            if len(self._tables) > 1:
                self._tables = [_join(self._tables)]
            return self._tables[0]

    def _read_shard(self, number: int) -> RowTable:
        if self._is_stopped:
            return _convert(_empty())
        try:
            with open_rows(self.run, self.run.manifest_uris[number]) as manifest:
                columns = [name for name in COLUMNS if name in manifest.columns]
                groups = [manifest.read_table(group, None, columns) for group in range(manifest.num_row_groups)]
                table = pa.concat_tables(groups).replace_schema_metadata() if groups else _empty()
            return _convert(_require_places(table, self.run.manifest_uris[number]))
        except (LabellingError, OSError) as error:
            # The other shards can be reviewed; the page shows what is said here.
            self.failures.append(str(error))
            return _convert(_empty())


def _empty() -> pa.Table:
    ids = pa.array([], pa.list_(pa.int64()))
    texts = {name: pa.array([], pa.string()) for name in ("key", "status", "reason", "error")}
    numbers = {name: pa.array([], pa.int32()) for name in ("index", "width", "height", "exif_orientation")}
    return pa.table(texts | numbers | {"quality": pa.array([], pa.float32())} | dict.fromkeys(ID_COLUMNS, ids))


def _require_places(table: pa.Table, uri: str) -> pa.Table:
    """Check that the rows stand in the order of their shard, as ids of rows suppose."""
    if not np.array_equal(table["index"].to_numpy(), np.arange(table.num_rows)):
        raise ManifestError(f"the rows of '{uri}' are not in the order of their shard; label its shard again")
    return table


def _convert(table: pa.Table) -> RowTable:
    """Convert the columns of one shard."""
    table = table.combine_chunks()
    return RowTable(
        starts=np.array([0, table.num_rows], np.int64),
        keys=table["key"],
        errors=table["error"],
        status=_find_places(table["status"], STATUSES),
        reason=_find_places(table["reason"], REASONS),
        quality=_fill(table["quality"], np.nan).astype(np.float32),
        width=_fill(table["width"], 0).astype(np.int32),
        height=_fill(table["height"], 0).astype(np.int32),
        orientation=_fill(table["exif_orientation"], 1).astype(np.int8),
        class_ids=_flatten(table["class_ids"]),
        suggested=_flatten(table["suggested_class_ids"]),
        doubtful=_flatten(table["doubtful_class_ids"]),
    )


def _fill(column: pa.ChunkedArray, value: int | float) -> Shaped[np.ndarray, " rows"]:
    filled: np.ndarray = pc.fill_null(column, value).to_numpy()
    return filled


def _find_places(column: pa.ChunkedArray, known: Sequence[str]) -> Int8[np.ndarray, " rows"]:
    places = pc.fill_null(pc.index_in(column, pa.array([str(one) for one in known])), NO_REASON)
    return np.asarray(places.to_numpy(), np.int8)


def _flatten(column: pa.ChunkedArray) -> ClassIds:
    lists = column.combine_chunks()
    ids = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    return ClassIds(pc.list_parent_indices(lists).to_numpy().astype(np.int32), ids.astype(np.uint8))


def _join(tables: Sequence[RowTable]) -> RowTable:
    """Join the rows of tables."""
    offsets = np.cumsum([0, *(table.num_rows for table in tables)])
    starts = [table.starts[:-1] + offset for table, offset in zip(tables, offsets, strict=False)]

    def join(name: str) -> Shaped[np.ndarray, " rows"]:
        return np.concatenate([getattr(table, name) for table in tables])

    def join_ids(name: str) -> ClassIds:
        lists: list[ClassIds] = [getattr(table, name) for table in tables]
        rows = [one.rows + np.int32(offset) for one, offset in zip(lists, offsets, strict=False)]
        return ClassIds(np.concatenate(rows), np.concatenate([one.ids for one in lists]))

    def join_texts(name: str) -> pa.ChunkedArray:
        return pa.chunked_array([chunk for table in tables for chunk in getattr(table, name).chunks], pa.string())

    return RowTable(
        starts=np.concatenate([*starts, offsets[-1:]]),
        keys=join_texts("keys"),
        errors=join_texts("errors"),
        status=join("status"),
        reason=join("reason"),
        quality=join("quality"),
        width=join("width"),
        height=join("height"),
        orientation=join("orientation"),
        class_ids=join_ids("class_ids"),
        suggested=join_ids("suggested"),
        doubtful=join_ids("doubtful"),
    )
