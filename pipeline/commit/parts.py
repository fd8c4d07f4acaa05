"""How work becomes durable: part files, one atomic put a chunk; manifests, one atomic put a shard.

Every name is a function of the chunk, every byte a function of the chunk and the run. So whatever is
repeated (a retry, a replay, a second driver) writes the same bytes under the same name, and what is
there is known from one listing. The manifest is the commit of a shard: there is no marker beside it.

This module and what it imports do without PyTorch: tasks that seal start in a fraction of the time.
"""

import hashlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.documents import parse_json, show_value
from pipeline.errors import ManifestError
from pipeline.run.counts import LabelCounts
from pipeline.run.identity import Run
from pipeline.run.records import MANIFEST_SCHEMA, PART_SCHEMA, Status
from pipeline.storage.storage import join_uri, list_objects, put_atomic, read_bytes

FOOTER_KEY = b"tagmask"
PARTS_FOLDER = "parts"
DIGEST_ROWS = 64
"""Rows that are plain Python values at a time while their digest is computed."""
_PART_NAME = re.compile(r"(\d+)-(\d+)\.parquet")


COMMITTED_SCHEMA = pa.schema(
    [
        ("shard_name", pa.string()),
        ("chunk_index", pa.int64()),
        ("end_offset", pa.int64()),
        ("is_end", pa.bool_()),
        ("num_chunks", pa.int64()),
        ("num_ignored_members", pa.int64()),
        ("truncated_at", pa.int64()),
        ("error", pa.string()),
        ("is_store_error", pa.bool_()),
        ("num_labelled", pa.int64()),
        ("rejected", pa.map_(pa.string(), pa.int64())),
    ]
)
"""What a driver hears of a chunk that is committed, or of the end of a shard."""


@dataclass(frozen=True, kw_only=True, order=True)
class PartName:
    """What the name of a part says: which chunk, and where the next one starts."""

    chunk_index: int
    end_offset: int

    def __str__(self) -> str:
        return f"{self.chunk_index:06d}-{self.end_offset:014d}.parquet"


def parse_part_name(file_name: str) -> PartName:
    """Read the name of a part file.

    >>> parse_part_name(str(PartName(chunk_index=3, end_offset=1024)))
    PartName(chunk_index=3, end_offset=1024)

    Raises:
        ManifestError: It is not the name of a part.
    """
    match = _PART_NAME.fullmatch(file_name)
    if not match:
        raise ManifestError(f"'{file_name}' is not the name of a part; remove it if it is not yours to keep")
    return PartName(chunk_index=int(match[1]), end_offset=int(match[2]))


def locate_part(out_uri: str, shard_name: str, part: PartName, folder: str = PARTS_FOLDER) -> str:
    """Return the URI of a part."""
    return join_uri(out_uri, folder, shard_name, str(part))


def locate_manifest(out_uri: str, shard_name: str) -> str:
    """Return the URI of a shard's manifest."""
    return join_uri(out_uri, "labels", f"{shard_name}.parquet")


def encode_part(rows: pa.Table, fingerprint: str, shard_name: str, chunk_index: int) -> bytes:
    """Encode the rows of a chunk as the bytes of its part."""
    footer = {"fingerprint": fingerprint, "shard": shard_name, "chunk": chunk_index, "num_rows": rows.num_rows}
    return _encode_parquet([rows], PART_SCHEMA, footer)


def commit_part(out_uri: str, shard_name: str, part: PartName, payload: bytes, folder: str = PARTS_FOLDER) -> None:
    """Publish a part in one atomic put. Publishing it again changes nothing."""
    put_atomic(locate_part(out_uri, shard_name, part, folder), payload)


def describe_row(fields: dict[str, Any], counts: LabelCounts | None = None) -> pa.Table:
    """Make the row that goes to the driver: of a committed chunk with its counts, of a shard's end without.

    Args:
        fields: Columns of `COMMITTED_SCHEMA` that are known, among others; none: there is no row.
        counts: Of the rows of a chunk.
    """
    if not fields:
        return COMMITTED_SCHEMA.empty_table()
    counted = (
        {"num_labelled": counts.num_labelled, "rejected": list(counts.rejected_by_reason.items())} if counts else {}
    )
    return pa.Table.from_pylist([fields | counted], schema=COMMITTED_SCHEMA)


def commit_chunk(rows: pa.Table, fields: dict[str, Any], run: Run) -> pa.Table:
    """Publish the rows of a chunk as its part, and keep only their counts.

    Whoever made the rows calls this before it takes up anything else: rows that waited for another step would be
    made again if something died, and how many wait is not ours to bound.

    Args:
        rows: With the schema `PART_SCHEMA`.
        fields: What is known of the chunk: columns of `COMMITTED_SCHEMA`.
        run: Whose part it is.

    Returns:
        The row of `COMMITTED_SCHEMA` that goes to the driver.
    """
    part = PartName(chunk_index=fields["chunk_index"], end_offset=fields["end_offset"])
    payload = encode_part(rows, run.fingerprint, fields["shard_name"], fields["chunk_index"])
    commit_part(run.out_uri, fields["shard_name"], part, payload, run.parts_folder)
    return describe_row(fields, count_rows([rows]))


def publish_manifest(out_uri: str, shard_name: str, tables: Sequence[pa.Table], footer: dict[str, Any]) -> None:
    """Publish a manifest in one atomic put, in place of the one that may be there.

    Args:
        out_uri: Output folder of the run.
        shard_name: Name of the shard.
        tables: One a chunk, with the schema `MANIFEST_SCHEMA`; each becomes a row group.
        footer: What the manifest says of itself; the digest of its rows is added.
    """
    footer = footer | {"rows_sha256": compute_rows_digest(tables)}
    put_atomic(locate_manifest(out_uri, shard_name), _encode_parquet(tables, MANIFEST_SCHEMA, footer))


def compute_rows_digest(tables: Iterable[pa.Table]) -> str:
    """Compute the digest of a manifest's rows: sha256 over one line of JSON a row, as 64 hex digits.

    Columns stand in their order in the schema, bytes as hex digits, and numbers as Python writes them. It does not
    depend on how Parquet stores the rows.
    """
    digest = hashlib.sha256()
    for table in tables:
        for batch in table.select(MANIFEST_SCHEMA.names).to_batches(max_chunksize=DIGEST_ROWS):
            for row in batch.to_pylist():
                digest.update(json.dumps(row, default=bytes.hex).encode() + b"\n")
    return digest.hexdigest()


def list_part_names(out_uri: str, folder: str = PARTS_FOLDER) -> dict[str, list[PartName]]:
    """List the parts of all shards, by the shard's name.

    Raises:
        ManifestError: There is a file that is no part.
    """
    parts: dict[str, list[PartName]] = defaultdict(list)
    for item in list_objects(join_uri(out_uri, folder)):
        shard_name, file_name = item.uri.rsplit("/", 2)[-2:]
        parts[shard_name].append(parse_part_name(file_name))
    return parts


def read_footer(payload: bytes, uri: str) -> dict[str, Any]:
    """Read what a part or manifest says of itself.

    Raises:
        ManifestError: It is no Parquet file of ours.
    """
    try:
        metadata = pq.ParquetFile(io.BytesIO(payload)).schema_arrow.metadata or {}
        footer = parse_json(metadata[FOOTER_KEY])
        if not isinstance(footer, dict):
            raise ValueError(f"its footer is {show_value(footer)}")
        return footer
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        # pyarrow tells a damaged file as an OSError, too.
        raise ManifestError(
            f"'{uri}' is not a readable file of this project: {error}; delete it and run again"
        ) from error


def count_rows(tables: Iterable[pa.Table], num_bytes: int = 0) -> LabelCounts:
    """Count the rows of part or manifest tables by status and reason."""
    num_labelled = 0
    rejected: dict[str, int] = {}
    num_read = 0
    for table in tables:
        num_read += table.num_rows
        for status, reason in zip(table["status"].to_pylist(), table["reason"].to_pylist(), strict=True):
            if status == Status.LABELLED:
                num_labelled += 1
            else:
                rejected[reason] = rejected.get(reason, 0) + 1
    return LabelCounts(
        num_read=num_read,
        num_labelled=num_labelled,
        num_rejected=sum(rejected.values()),
        rejected_by_reason=rejected,
        num_bytes=num_bytes,
    )


def _encode_parquet(tables: Sequence[pa.Table], schema: pa.Schema, footer: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    text = json.dumps(footer, sort_keys=True)
    # Masks are compressed already, and dictionaries of unique values only cost: plain zstd for the rest.
    # Row groups are the chunks: what is labelled again is found and replaced chunk by chunk.
    with pq.ParquetWriter(
        sink,
        schema.with_metadata({FOOTER_KEY: text}),
        compression="zstd",
        use_dictionary=["status", "reason"],
        write_page_checksum=True,
    ) as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata({FOOTER_KEY: text}), row_group_size=max(table.num_rows, 1))
    return sink.getvalue()


def read_part(out_uri: str, fingerprint: str, shard_name: str, part: PartName, folder: str = PARTS_FOLDER) -> pa.Table:
    """Read one part.

    Raises:
        FileNotFoundError: It is gone.
        ManifestError: It is damaged, or not of this shard and run.
    """
    uri = locate_part(out_uri, shard_name, part, folder)
    payload = read_bytes(uri)
    footer = read_footer(payload, uri)
    try:
        table = pq.read_table(io.BytesIO(payload), schema=PART_SCHEMA, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(f"part '{uri}' is damaged: {reason}; delete it and run again") from error
    wanted = {
        "fingerprint": fingerprint,
        "shard": shard_name,
        "chunk": part.chunk_index,
        "num_rows": table.num_rows,
    }
    if footer != wanted:
        raise ManifestError(f"'{uri}' says {footer}, expected {wanted}; delete it and run again")
    return table
