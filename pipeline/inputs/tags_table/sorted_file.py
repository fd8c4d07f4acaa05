"""The rows of a tags table sorted by key, as one local file that all processes of a machine map into memory.

Each machine makes the file once from the table. A look-up is a binary search that touches a few pages, so ten million
rows cost a worker far less memory than a dictionary, and nothing per worker.
"""

import hashlib
import json
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from pipeline.errors import ShardError
from pipeline.inputs.tags_table.sources import OPTION, Form, load_pairs, look_up_table
from pipeline.run.config import InputConfig

FILE_FORMAT = "2"
"""Changes with the layout of sorted files: machines may hold those of earlier versions."""
FORM, LABELS = b"form", b"labels"
"""Keys of the metadata of a sorted file."""
GROUP_ROWS = 65_536
"""Rows of a record batch: the first key of each is kept in memory."""


class TagsTable:
    """A sorted table, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Open the file of `sort_table`."""
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [self._file.get_batch(number) for number in range(self._file.num_record_batches)]
        self._first_keys = [batch.column(0)[0].as_py() for batch in self._batches]
        self.num_rows = sum(batch.num_rows for batch in self._batches)
        """Number of rows; each has another key."""
        self.first_key: str = self._first_keys[0]
        """The first key in order."""
        metadata = self._file.schema.metadata
        self.form = Form(metadata[FORM].decode())
        """How tags are kept."""
        labels = json.loads(metadata[LABELS])
        self.labels: tuple[str, ...] | None = None if labels is None else tuple(labels)
        """Names of class numbers by the metadata of the table."""

    def find(self, key: str) -> pa.Scalar | None:
        """The tags of a key as written; None if the table has no row of this key."""
        place = bisect_right(self._first_keys, key) - 1
        if place < 0:
            return None
        batch = self._batches[place]
        keys = batch.column(0)
        row = bisect_right(range(batch.num_rows), key, key=lambda index: keys[index].as_py()) - 1
        return batch.column(1)[row] if row >= 0 and keys[row].as_py() == key else None

    def count_matches(self, keys: pa.ChunkedArray) -> tuple[int, int]:
        """Count the rows that have one of some keys, and those of the keys that have a row.

        Args:
            keys: Large text; a key may come several times.
        """
        rows = pa.chunked_array([batch.column(0) for batch in self._batches])
        matched = rows.filter(pc.is_in(rows, value_set=keys.unique()))
        return len(matched), pc.sum(pc.is_in(keys, value_set=matched.combine_chunks())).as_py() or 0


def open_tags_table(config: InputConfig) -> TagsTable:
    """Open the tags table of a run; sort it first, if no process of this machine has done so.

    Raises:
        ShardError: The table is missing, damaged, changed since the run was started, or has a key twice.
        StorageError: The store failed.
        ValueError: The configuration names no table.
    """
    if config.tags_table is None or config.tags_table_etag is None:
        raise ValueError("need a configuration with a tags table and its etag")
    return _open(config.tags_table, config.tags_table_etag, config.tags_table_key, config.tags_field)


def describe_table_version(uri: str) -> str:
    """Size and etag of a table; they belong to the identity of a run.

    Raises:
        ShardError: It does not exist, or its name has no known suffix.
    """
    found = look_up_table(uri)
    return f"{found.size_bytes}-{found.etag}"


@lru_cache(maxsize=2)
def _open(uri: str, version: str, key_column: str | None, tags_column: str) -> TagsTable:
    name = hashlib.sha256("\0".join((FILE_FORMAT, uri, version, key_column or "", tags_column)).encode()).hexdigest()[
        :32
    ]
    folder = Path(tempfile.gettempdir(), f"tagmask-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ShardError(f"folder '{folder}' belongs to another user; set TMPDIR to a folder of your own")
    path = folder / f"tags-{name}.arrow"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            if (found := describe_table_version(uri)) != version:
                raise ShardError(
                    f"tags table '{uri}' changed since the run was started (was {version}, is {found}); put the old "
                    "one back, or give a new --out"
                )
            _write_atomically(path, sort_table(uri, key_column, tags_column))
    return TagsTable(path)


def _write_atomically(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        first = next(batches)
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        unfinished.replace(path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def sort_table(uri: str, key_column: str | None, tags_column: str) -> Iterator[pa.RecordBatch]:
    """Read a table and sort it by key; one batch at least.

    The columns `key` and `tags` are in memory once, plus one batch.

    Raises:
        ShardError: It is empty, damaged, or has a key twice.
        StorageError: The store failed.
    """
    batches, form, labels = load_pairs(uri, key_column, tags_column)
    if not any(batch.num_rows for batch in batches):
        raise ShardError(f"tags table '{uri}' has no rows; check the file of {OPTION}")
    rows = pa.Table.from_batches(batches).combine_chunks()
    del batches
    rows = rows.replace_schema_metadata({FORM: form, LABELS: json.dumps(labels)})
    order = pc.sort_indices(rows["key"])
    last: str | None = None
    for start in range(0, rows.num_rows, GROUP_ROWS):
        (batch,) = rows.take(order[start : start + GROUP_ROWS]).combine_chunks().to_batches()
        last = _require_unique(uri, batch.column(0), last)
        yield batch


def _require_unique(uri: str, keys: pa.Array, last: str | None) -> str:
    """Check that no two neighbours of sorted keys are equal; return the last key."""
    first = keys[0].as_py()
    is_twice = pc.equal(keys[1:], keys[:-1])
    row = pc.index(is_twice, True).as_py()
    if first == last or row >= 0:
        twice = first if first == last else keys[row].as_py()
        raise ShardError(f"tags table '{uri}' has the key '{twice}' twice; keep one of its rows")
    return str(keys[-1].as_py())
