"""What a run recorded of a collection: its index shards, and the state of the source when it was listed.

A run has one record, and a further one for each extension that added rows.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline.run.records import InputShard
from pipeline.storage.listing import list_folder
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri

INDEX_FILE = "index.json"
GROWTH_NAME = re.compile(r"index-\d{5,}-[0-9a-f]{12}\.json")
MOVED = ("another path or key", "listed once more under the same key and path")
COLUMNS = ("key", "path", "uri", "size_bytes", "tags", "problem")


class TableState(NamedTuple):
    """Size and etag of a table."""

    size_bytes: int
    etag: str


class IndexRow(NamedTuple):
    """Row of an index shard."""

    record: "IndexRecord"
    """Of the listing that found it."""
    key: str
    path: str | None
    uri: str | None
    size_bytes: int | None
    tags: str | None
    """As JSON."""
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """Content of one index.json, or of the record of an extension."""

    uri: str
    shard_names: tuple[str, ...]
    """File names of its index shards."""
    num_shards_before: int
    """Index shards that the run had already."""
    source: Mapping[str, Any]
    """Patterns and options by which the collection was listed."""
    num_rows: int
    num_rows_with_tags: int
    passed_over: Mapping[str, int]
    """Files that are in no row, by kind."""
    num_without_image: int
    listed_s: float | None
    """Unix time before the first file was listed; None: not recorded."""
    tables: Mapping[str, TableState]
    """State of each table before it was read, by URI."""
    num_moved: int
    """Rows of the source that are no new rows of the index, as it has them under another path or key, or once more."""


@dataclass(frozen=True, kw_only=True)
class RecordedShards:
    """Index shards of one record that the run has."""

    record: IndexRecord
    uris: tuple[str, ...]
    """In the order of the run."""
    is_whole: bool
    """False if other records name some of its shards, too, as two drivers extended the run at once."""


@dataclass(frozen=True, kw_only=True)
class RecordedIndex:
    """Index of one collection."""

    listings: tuple[RecordedShards, ...]
    """In the order of the listings."""
    unnamed: tuple[str, ...]
    """Index shards of the run that no record names."""

    @property
    def last(self) -> IndexRecord:
        """Record of the last listing."""
        return self.listings[-1].record


def read_indexes(shards: Sequence[InputShard]) -> Iterator[RecordedIndex]:
    """Read the records beside the index shards of a run.

    Raises:
        ValueError: One is missing or cannot be understood.
        OSError: The store failed.
    """
    by_folder: dict[str, list[str]] = {}
    for shard in shards:
        if shard.is_index:
            by_folder.setdefault(shard.uri.rpartition("/")[0], []).append(shard.uri)
    for folder_uri, uris in by_folder.items():
        yield _read_index(folder_uri, {uri.rpartition("/")[2]: uri for uri in uris})


def _read_index(folder_uri: str, uris: Mapping[str, str]) -> RecordedIndex:
    """Read the records of one folder. One of an extension counts if the run has all its shards."""
    first = _read_record(join_uri(folder_uri, INDEX_FILE))
    names = [item.uri for item in list_folder(folder_uri) if GROWTH_NAME.fullmatch(item.uri.rpartition("/")[2])]
    others = [record for record in map(_read_record, names) if uris.keys() >= set(record.shard_names)]
    # Of two drivers that extend a run at once, one may name the shards of the other.
    others.sort(key=lambda record: (record.num_shards_before, -len(record.shard_names)))
    listings: list[RecordedShards] = []
    left = dict(uris)
    for record in [first, *others]:
        found = tuple(uri for name in record.shard_names if (uri := left.pop(name, None)) is not None)
        if found or record is first:
            is_whole = len(found) == len(record.shard_names) or record is first
            listings.append(RecordedShards(record=record, uris=found, is_whole=is_whole))
    return RecordedIndex(listings=tuple(listings), unnamed=tuple(left.values()))


def _read_record(uri: str) -> IndexRecord:
    try:
        return _parse(uri, json.loads(read_bytes(uri)))
    except FileNotFoundError as error:
        raise ValueError(f"'{uri}' is missing") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"'{uri}' cannot be understood: {error!r}") from error


def read_index_rows(index_uri: str, record: IndexRecord) -> list[IndexRow]:
    """Read all rows of an index shard of a record.

    Raises:
        OSError: The store failed. For a damaged file Arrow raises its own exceptions.
    """
    table = pq.read_table(io.BytesIO(read_bytes(index_uri)), columns=list(COLUMNS), use_threads=False)
    return [IndexRow(record, *cells) for cells in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)]


def _parse(uri: str, fields: Mapping[str, Any]) -> IndexRecord:
    listed_at = fields.get("listed_at")
    return IndexRecord(
        uri=uri,
        shard_names=tuple(str(name) for name in fields["shards"]),
        num_shards_before=int(fields.get("num_shards_before", 0)),
        source={**fields["source"], "patterns": [str(pattern) for pattern in fields["source"]["patterns"]]},
        num_rows=int(fields["num_rows"]),
        num_rows_with_tags=int(fields["num_rows_with_tags"]),
        passed_over={str(kind): int(entry["count"]) for kind, entry in fields["passed_over"].items()},
        num_without_image=sum(int(entry["count"]) for entry in fields["rows_without_image"].values()),
        listed_s=datetime.fromisoformat(listed_at).timestamp() if listed_at else None,
        tables={
            str(table): TableState(int(state["size_bytes"]), str(state["etag"]))
            for table, state in fields.get("tables", {}).items()
        },
        num_moved=sum(
            int(entry["count"]) for kind, entry in fields.get("rows_before_that_differ", {}).items() if kind in MOVED
        ),
    )
