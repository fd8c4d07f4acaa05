"""Index shards of a collection below an output folder: `index-*.parquet`, then `index.json`, which names them."""

import hashlib
import io
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.documents import DocumentError, parse_json
from pipeline.collections.rows import Findings, IndexRow
from pipeline.errors import ManifestError, ShardError
from pipeline.inputs.path_reader import INDEX_SCHEMA
from pipeline.run.fingerprint import get_library_version, to_canonical_json
from pipeline.run.records import INDEX_PREFIX, InputShard
from pipeline.storage.listing import list_folder
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import create_if_absent, put_atomic

INDEX_FILE = "index.json"
INDEX_FORMAT = 1
ROWS_PER_SHARD = 4096
MAX_INDEX_BYTES = 2**28


def write_shards(rows: Iterator[IndexRow], folder_uri: str, findings: Findings) -> list[str]:
    """Write rows as index shards; return their file names.

    A name contains a hash of the content, so that a file never changes: of two drivers that list the same collection
    both use the same files. Once a path has been refused, rows are only counted.
    """
    names: list[str] = []
    while batch := list(islice(rows, ROWS_PER_SHARD)):
        if findings.refused:
            continue
        payload = _encode(batch)
        name = f"index-{len(names):05d}-{hashlib.sha256(payload).hexdigest()[:12]}.parquet"
        create_if_absent(join_uri(folder_uri, name), payload)
        names.append(name)
    return names


def _encode(rows: list[IndexRow]) -> bytes:
    columns = [pa.array(column, type) for column, type in zip(zip(*rows, strict=True), INDEX_SCHEMA.types, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=INDEX_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def write_record(folder_uri: str, source: dict[str, Any], names: list[str], findings: Findings) -> None:
    """Write `index.json`, which makes the index shards count."""
    record = {
        "format": INDEX_FORMAT,
        "library_version": get_library_version(),
        "source": source,
        "num_rows": findings.num_rows,
        "num_rows_with_tags": findings.num_with_tags,
        "rows_per_shard": ROWS_PER_SHARD,
        "shards": names,
        "passed_over": _describe(findings.passed_over.list_kinds()),
        "rows_without_image": _describe(findings.missing.list_kinds()),
        "notes": findings.notes,
    }
    put_atomic(join_uri(folder_uri, INDEX_FILE), to_canonical_json(record).encode(errors="replace"))


def _describe(kinds: dict[str, tuple[int, str]]) -> dict[str, dict[str, Any]]:
    return {kind: {"count": number, "example": example} for kind, (number, example) in sorted(kinds.items())}


def read_record(folder_uri: str) -> dict[str, Any] | None:
    """Read `index.json`; None if there is none.

    Raises:
        ManifestError: It cannot be read.
    """
    uri = join_uri(folder_uri, INDEX_FILE)
    try:
        record: dict[str, Any] = parse_json(read_bytes(uri), max_bytes=MAX_INDEX_BYTES)
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise ManifestError(f"'{uri}' is not the record of an index: {error}; was it edited?") from error
    if not isinstance(record, dict) or record.get("format") != INDEX_FORMAT:
        raise ManifestError(f"'{uri}' cannot be understood; use the version of tagmask that wrote it")
    return record


def list_index_shards(folder_uri: str, names: list[str]) -> tuple[InputShard, ...]:
    """List index shards in the order of their record.

    Raises:
        ShardError: One is missing.
    """
    found = {item.uri.rpartition("/")[2]: item for item in list_folder(folder_uri)}
    if missing := [name for name in names if name not in found]:
        raise ShardError(f"index '{join_uri(folder_uri, missing[0])}' does not exist; put it back, or use a new --out")
    return tuple(
        InputShard(
            uri=found[name].uri,
            name=f"{INDEX_PREFIX}{number:05d}",
            size_bytes=found[name].size_bytes,
            etag=found[name].etag,
        )
        for number, name in enumerate(names)
    )
