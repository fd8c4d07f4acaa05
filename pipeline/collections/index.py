"""Index shards of a collection below an output folder: `index-*.parquet`, then `index.json`, which names them.

Where a run grows, a further record `index-<number>-<hash>.json` names the added ones. It counts if the run has all of
them: the extension beside `run.json` commits them, so leftovers of an interrupted or a slower driver never count.
"""

import hashlib
import io
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.documents import DocumentError, parse_json
from pipeline.collections.growth import KnownRows
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
NUM_THREADS = 16

_GROWTH_NAME = re.compile(r"/index-\d{5,}-[0-9a-f]{12}\.json$")


def write_shards(rows: Iterator[IndexRow], folder_uri: str, findings: Findings, first_number: int = 0) -> list[str]:
    """Write rows as index shards; return their file names.

    A name contains a hash of the content, so that a file never changes: of two drivers that list the same collection
    both use the same files. Once a path has been refused, rows are only counted.
    """
    names: list[str] = []
    while batch := list(islice(rows, ROWS_PER_SHARD)):
        if findings.refused:
            continue
        payload = _encode(batch)
        name = f"index-{first_number + len(names):05d}-{hashlib.sha256(payload).hexdigest()[:12]}.parquet"
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
    record = _make_record(source, names, findings)
    put_atomic(join_uri(folder_uri, INDEX_FILE), to_canonical_json(record).encode(errors="replace"))


def write_growth(
    folder_uri: str, source: dict[str, Any], names: list[str], findings: Findings, known: KnownRows, num_before: int
) -> None:
    """Write the record of added index shards, unless it exists.

    Args:
        folder_uri: Folder of the index.
        source: What was listed.
        names: File names of the added index shards.
        findings: Of the new rows.
        known: The other rows of the listing.
        num_before: Number of index shards that the run had.
    """
    identity = hashlib.sha256(to_canonical_json({"source": source, "shards": names}).encode(errors="replace"))
    record = _make_record(source, names, findings) | {
        "num_shards_before": num_before,
        "num_rows_before": known.num_rows,
        "rows_before_that_differ": _describe(known.differences.list_kinds()),
    }
    name = f"index-{num_before:05d}-{identity.hexdigest()[:12]}.json"
    create_if_absent(join_uri(folder_uri, name), to_canonical_json(record).encode(errors="replace"))


def _make_record(source: dict[str, Any], names: list[str], findings: Findings) -> dict[str, Any]:
    return {
        "format": INDEX_FORMAT,
        "library_version": get_library_version(),
        "source": source,
        "listed_at": findings.listed_at,
        "tables": {uri: {"size_bytes": size, "etag": etag} for uri, (size, etag) in findings.tables.items()},
        "num_rows": findings.num_rows,
        "num_rows_with_tags": findings.num_with_tags,
        "rows_per_shard": ROWS_PER_SHARD,
        "shards": names,
        "passed_over": _describe(findings.passed_over.list_kinds()),
        "rows_without_image": _describe(findings.missing.list_kinds()),
        "notes": findings.notes,
    }


def _describe(kinds: dict[str, tuple[int, str]]) -> dict[str, dict[str, Any]]:
    return {kind: {"count": number, "example": example} for kind, (number, example) in sorted(kinds.items())}


def read_records(folder_uri: str, recorded: Collection[str]) -> list[dict[str, Any]]:
    """Read the records of an index: `index.json`, and those of the growth of its run, in order.

    Args:
        folder_uri: Folder of the index.
        recorded: File names of the index shards that the run has; empty if it cannot grow.

    Returns:
        Records; none if the run is one of shards.

    Raises:
        ManifestError: One cannot be read, or the first one is missing.
    """
    first = _read_record(join_uri(folder_uri, INDEX_FILE))
    if first is None:
        if recorded:
            raise ManifestError(f"'{join_uri(folder_uri, INDEX_FILE)}' is missing; put it back, or use a new --out")
        return []
    if not recorded or set(recorded) <= set(first["shards"]):
        return [first]
    uris = [item.uri for item in list_folder(folder_uri) if _GROWTH_NAME.search(item.uri)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        others = [record for record in pool.map(_read_record, uris) if record is not None]
    return [first, *(record for record in others if set(record["shards"]) <= set(recorded))]


def count_rows_of(records: list[dict[str, Any]]) -> int:
    """Count the rows of the index shards of records; two drivers of one run may both have recorded the same shard."""
    by_shard: dict[str, int] = {}
    for record in records:
        *full, last = record["shards"]
        by_shard |= dict.fromkeys(full, record["rows_per_shard"])
        by_shard[last] = record["num_rows"] - len(full) * record["rows_per_shard"]
    return sum(by_shard.values())


def _read_record(uri: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = parse_json(read_bytes(uri), max_bytes=MAX_INDEX_BYTES)
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise ManifestError(f"'{uri}' is not the record of an index: {error}; was it edited?") from error
    if not isinstance(record, dict) or record.get("format") != INDEX_FORMAT:
        raise ManifestError(f"'{uri}' cannot be understood; use the version of tagmask that wrote it")
    return record


def list_index_shards(folder_uri: str, names: Sequence[str], first_number: int = 0) -> tuple[InputShard, ...]:
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
        for number, name in enumerate(names, first_number)
    )
