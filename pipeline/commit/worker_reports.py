"""Reports of workers to the driver: a committed chunk, the end of a shard, or a failed shard.

A report is a table of one row. Rows of readers start with the same columns, followed by their payload, so the end of a
shard passes through the workers unchanged.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.commit.names import PartName
from pipeline.run.counts import LabelCounts
from pipeline.run.records import MemberCounts, ShardEnd

HEAD = (
    ("shard_name", pa.string()),
    ("chunk_index", pa.int64()),
    ("end_offset", pa.int64()),
    ("is_end", pa.bool_()),
    ("num_chunks", pa.int64()),
    ("truncated_at", pa.int64()),
    ("members", pa.string()),
    ("error", pa.string()),
    ("is_store_error", pa.bool_()),
)
"""First columns of every row between reader, worker and driver."""

REPORT_SCHEMA = pa.schema([*HEAD, ("num_labelled", pa.int64()), ("rejected", pa.map_(pa.string(), pa.int64()))])


@dataclass(frozen=True, kw_only=True)
class ChunkId:
    """A chunk of a run, and the name of its part."""

    shard_name: str
    part: PartName
    members: MemberCounts | None = None
    """Members of the archive in the span of the chunk; None if they are not counted."""

    def __str__(self) -> str:
        return f"{self.shard_name}/{self.part.chunk_index:06d}"


@dataclass(frozen=True, kw_only=True)
class ChunkReport:
    """A committed chunk."""

    chunk: ChunkId
    counts: LabelCounts


@dataclass(frozen=True, kw_only=True)
class ShardEndReport:
    """A shard that was read to its end. Its chunks may still be in progress."""

    shard_name: str
    end: ShardEnd


@dataclass(frozen=True, kw_only=True)
class ShardFailure:
    """A shard that cannot be published."""

    shard_name: str
    error: str
    is_store_error: bool = False
    """Whether a store failed, so that the next wave may succeed."""


Report = ChunkReport | ShardEndReport | ShardFailure


def make_row(head: ChunkId | Report, schema: pa.Schema = REPORT_SCHEMA, **payload: Any) -> pa.Table:
    """A table of one row.

    Args:
        head: Content of the columns `HEAD`, and the counts of a `ChunkReport`.
        schema: Starts with `HEAD`.
        payload: Values of the other columns.
    """
    return pa.Table.from_pylist([_to_fields(head) | payload], schema=schema)


def _to_fields(head: ChunkId | Report) -> dict[str, Any]:
    match head:
        case ChunkId():
            members = _encode_members(head.members)
            return {"shard_name": head.shard_name, **asdict(head.part), "is_end": False, "members": members}
        case ChunkReport():
            rejected = list(head.counts.rejected_by_reason.items())
            return _to_fields(head.chunk) | {"num_labelled": head.counts.num_labelled, "rejected": rejected}
        case ShardEndReport():
            end = head.end
            fields = {"num_chunks": end.num_chunks, "truncated_at": end.truncated_at}
            return fields | {
                "shard_name": head.shard_name,
                "is_end": True,
                "members": _encode_members(end.members),
            }
        case ShardFailure():
            # A file name may contain bytes that are not UTF-8; an Arrow string cannot.
            error = head.error.encode("utf-8", "backslashreplace").decode()
            is_store_error = head.is_store_error
            return {"shard_name": head.shard_name, "is_end": True, "error": error, "is_store_error": is_store_error}


def _encode_members(members: MemberCounts | None) -> str | None:
    return None if members is None else json.dumps(members.describe())


def read_head(row: pa.Table) -> ChunkId | ShardEndReport | ShardFailure | None:
    """The chunk, end or failure in a row of a reader; None for a table without rows.

    Args:
        row: At most one row. Its schema starts with `HEAD`.
    """
    if not row.num_rows:
        return None
    (fields,) = row.select([name for name, _ in HEAD]).to_pylist()
    name = fields["shard_name"]
    if fields["error"]:
        return ShardFailure(shard_name=name, error=fields["error"], is_store_error=bool(fields["is_store_error"]))
    members = MemberCounts.parse(json.loads(fields["members"])) if fields["members"] else None
    if fields["is_end"]:
        end = ShardEnd(num_chunks=fields["num_chunks"], truncated_at=fields["truncated_at"], members=members)
        return ShardEndReport(shard_name=name, end=end)
    part = PartName(chunk_index=fields["chunk_index"], end_offset=fields["end_offset"])
    return ChunkId(shard_name=name, part=part, members=members)


def read_report(row: pa.Table) -> Report | None:
    """The report in a row of a worker; None for a table without rows.

    Args:
        row: At most one row of `REPORT_SCHEMA`.
    """
    head = read_head(row)
    if not isinstance(head, ChunkId):
        return head
    (fields,) = row.select(["num_labelled", "rejected"]).to_pylist()
    rejected = dict(fields["rejected"])
    counts = LabelCounts(
        num_read=fields["num_labelled"] + sum(rejected.values()),
        num_labelled=fields["num_labelled"],
        num_rejected=sum(rejected.values()),
        rejected_by_reason=rejected,
    )
    return ChunkReport(chunk=head, counts=counts)
