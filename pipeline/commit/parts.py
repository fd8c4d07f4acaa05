"""Parts: the committed rows of a chunk, one atomic put each.

The name of a part is a function of the chunk; its bytes are a function of the chunk and the run. Repeated work (a
retry, a replay, a second driver) writes the same bytes under the same name.

Neither this module nor its imports need PyTorch, so tasks that seal start fast.
"""

import io
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit.encoding import encode_parquet, parse_footer
from pipeline.commit.names import PARTS_FOLDER, PartName, locate_part
from pipeline.commit.worker_reports import ChunkId, ChunkReport
from pipeline.errors import ManifestError
from pipeline.run.counts import LabelCounts
from pipeline.run.records import PART_SCHEMA, MemberCounts, Status
from pipeline.run.run_file import Run
from pipeline.storage.reading import read_bytes
from pipeline.storage.writing import put_atomic


def encode_part(
    rows: pa.Table, fingerprint: str, shard_name: str, chunk_index: int, members: MemberCounts | None = None
) -> bytes:
    """Encode the rows of a chunk, and the counts of its members, as the bytes of its part."""
    footer = {"fingerprint": fingerprint, "shard": shard_name, "chunk": chunk_index, "num_rows": rows.num_rows}
    counted = {} if members is None else {"members": members.describe()}
    return encode_parquet([rows], PART_SCHEMA, footer | counted)


def commit_part(out_uri: str, shard_name: str, part: PartName, payload: bytes, folder: str = PARTS_FOLDER) -> None:
    """Publish a part in one atomic put. Publishing it again changes nothing."""
    put_atomic(locate_part(out_uri, shard_name, part, folder), payload)


def commit_chunk(rows: pa.Table, chunk: ChunkId, run: Run) -> ChunkReport:
    """Commit the rows of a chunk as its part; the driver receives only their counts.

    A worker commits before it takes the next chunk. Rows that wait for another step would be lost with their worker,
    and their number would be unbounded.

    Args:
        rows: With the schema `PART_SCHEMA`.
        chunk: Chunk of the rows.
        run: Run of the chunk.
    """
    payload = encode_part(rows, run.fingerprint, chunk.shard_name, chunk.part.chunk_index, chunk.members)
    commit_part(run.out_uri, chunk.shard_name, chunk.part, payload, run.parts_folder)
    return ChunkReport(chunk=chunk, counts=count_rows([rows]))


def read_footer(payload: bytes, uri: str) -> dict[str, Any]:
    """The footer of a part or manifest, from the bytes of its file.

    Raises:
        ManifestError: It is not a Parquet file of this project.
    """
    try:
        return parse_footer(pq.ParquetFile(io.BytesIO(payload)))
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        # pyarrow also raises OSError for a damaged file.
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


class PartContent(NamedTuple):
    """Content of a part."""

    rows: pa.Table
    members: MemberCounts | None
    """Members of the archive in the span of its chunk; None if they were not counted."""


def read_part(
    out_uri: str, fingerprint: str, shard_name: str, part: PartName, folder: str = PARTS_FOLDER
) -> PartContent:
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
    members = _parse_members(footer, uri)
    wanted = {
        "fingerprint": fingerprint,
        "shard": shard_name,
        "chunk": part.chunk_index,
        "num_rows": table.num_rows,
    } | ({} if members is None else {"members": members.describe()})
    if footer != wanted:
        raise ManifestError(f"'{uri}' has the footer {footer}, expected {wanted}; delete it and run again")
    return PartContent(table, members)


def _parse_members(footer: Mapping[str, Any], uri: str) -> MemberCounts | None:
    try:
        return MemberCounts.parse(footer["members"]) if "members" in footer else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"'{uri}' holds no counts of members: {error!r}; delete it and run again") from error
