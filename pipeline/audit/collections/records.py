"""What a run recorded of a collection: its index shards, and the state of the source when it was listed."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline.run.records import InputShard
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri

INDEX_FILE = "index.json"
COLUMNS = ("key", "path", "uri", "size_bytes", "tags", "problem")


class TableState(NamedTuple):
    """Size and etag of a table."""

    size_bytes: int
    etag: str


class IndexRow(NamedTuple):
    """Row of an index shard."""

    key: str
    path: str | None
    uri: str | None
    size_bytes: int | None
    tags: str | None
    """As JSON."""
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """Content of one index.json, and the shards of the run that lie beside it."""

    uri: str
    index_uris: tuple[str, ...]
    """Index shards of the run, in its order."""
    shard_names: tuple[str, ...]
    """File names of the index shards, by index.json."""
    source: Mapping[str, Any]
    """Patterns and options by which the collection was listed."""
    num_rows: int
    num_rows_with_tags: int
    passed_over: Mapping[str, int]
    """Files that are in no row, by kind."""
    without_image: Mapping[str, int]
    """Rows without an image, by kind."""
    listed_s: float | None
    """Unix time before the first file was listed; None: not recorded."""
    tables: Mapping[str, TableState]
    """State of each table before it was read, by URI."""


def read_index_records(shards: Sequence[InputShard]) -> Iterator[IndexRecord]:
    """Read the index.json beside the index shards of a run, in the order of the run.

    Raises:
        ValueError: One is missing or cannot be understood.
        OSError: The store failed.
    """
    by_folder: dict[str, list[str]] = {}
    for shard in shards:
        if shard.is_index:
            by_folder.setdefault(shard.uri.rpartition("/")[0], []).append(shard.uri)
    for folder_uri, uris in by_folder.items():
        uri = join_uri(folder_uri, INDEX_FILE)
        try:
            yield _parse(uri, uris, json.loads(read_bytes(uri)))
        except FileNotFoundError as error:
            raise ValueError(f"'{uri}' is missing") from error
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"'{uri}' cannot be understood: {error!r}") from error


def read_index_rows(index_uri: str) -> list[IndexRow]:
    """Read all rows of an index shard.

    Raises:
        OSError: The store failed. For a damaged file Arrow raises its own exceptions.
    """
    table = pq.read_table(io.BytesIO(read_bytes(index_uri)), columns=list(COLUMNS), use_threads=False)
    return [IndexRow(*cells) for cells in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)]


def _parse(uri: str, index_uris: Sequence[str], fields: Mapping[str, Any]) -> IndexRecord:
    listed_at = fields.get("listed_at")
    return IndexRecord(
        uri=uri,
        index_uris=tuple(index_uris),
        shard_names=tuple(str(name) for name in fields["shards"]),
        source={**fields["source"], "patterns": [str(pattern) for pattern in fields["source"]["patterns"]]},
        num_rows=int(fields["num_rows"]),
        num_rows_with_tags=int(fields["num_rows_with_tags"]),
        passed_over={str(kind): int(entry["count"]) for kind, entry in fields["passed_over"].items()},
        without_image={str(kind): int(entry["count"]) for kind, entry in fields["rows_without_image"].items()},
        listed_s=datetime.fromisoformat(listed_at).timestamp() if listed_at else None,
        tables={
            str(table): TableState(int(state["size_bytes"]), str(state["etag"]))
            for table, state in fields.get("tables", {}).items()
        },
    )
