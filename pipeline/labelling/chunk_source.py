"""The missing chunks of a plan as a Ray Dataset: one row a chunk, and one more at the end of each shard.

Ray Data merges and splits blocks between stages but never splits a row, so what must stay together is
one row. A shard that cannot be read gives an end row with the error: the other shards go on. If it is the store that
failed, the row says so, and the shard is read again in the next wave.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.commit.parts import PartName
from pipeline.commit.plan import ShardWork
from pipeline.errors import LabellingError, describe_exception, is_store_failure
from pipeline.inputs.shards import read_chunks, require_unchanged
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard, Sample, ShardEnd
from pipeline.workers.attempts import AttemptCounter, Attempts
from pipeline.workers.guarded_reads import read_guarded
from pipeline.workers.pulse import Pulse, Reporting

SAMPLE = pa.struct(
    [
        ("key", pa.string()),
        ("image", pa.large_binary()),
        ("image_name", pa.string()),
        ("image_bytes", pa.int64()),
        ("image_error", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("class_numbers", pa.list_(pa.int64())),
        ("tags_error", pa.string()),
        ("download_error", pa.string()),
    ]
)

CHUNK_SCHEMA = pa.schema(
    [
        ("shard_name", pa.string()),
        ("chunk_index", pa.int64()),
        ("end_offset", pa.int64()),
        ("samples", pa.list_(SAMPLE)),
        ("is_end", pa.bool_()),
        ("num_chunks", pa.int64()),
        ("num_ignored_members", pa.int64()),
        ("truncated_at", pa.int64()),
        ("error", pa.string()),
        ("is_store_error", pa.bool_()),
    ]
)


class ChunkSource(Datasource):
    """Reads what remains of some shards. The plan is frozen into the read tasks."""

    def __init__(
        self,
        work: Sequence[ShardWork],
        config: InputConfig,
        shards_per_task: int,
        attempts: Attempts,
        reporting: Reporting,
    ) -> None:
        """Read `work`, `shards_per_task` shards a task, and report to the driver."""
        super().__init__()
        self._reporting = reporting
        self._batches = [work[start : start + shards_per_task] for start in range(0, len(work), shards_per_task)]
        self._config = config
        self._attempts = attempts

    def get_name(self) -> str:
        """Name the source in Ray's progress and metrics."""
        return "Shards"

    def estimate_inmemory_data_size(self) -> int | None:
        """Say how much there is to read, in bytes."""
        return sum(item.shard.size_bytes for batch in self._batches for item in batch)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Give one task per group of shards, whatever parallelism Ray wishes for."""
        return [
            ReadTask(
                partial(read_rows, tuple(batch), self._config, self._reporting, self._attempts),
                BlockMetadata(
                    num_rows=None,
                    size_bytes=sum(item.shard.size_bytes for item in batch),
                    input_files=None,
                    exec_stats=None,
                ),
                schema=CHUNK_SCHEMA,
                per_task_row_limit=per_task_row_limit,
            )
            for batch in self._batches
        ]


def read_rows(
    work: Sequence[ShardWork], config: InputConfig, reporting: Reporting, attempts: Attempts | None = None
) -> Iterator[pa.Table]:
    """Read the missing chunks of shards as tables of one row. An outage of their store is waited for.

    Args:
        work: What remains of each shard.
        config: How they are read.
        reporting: To whom it is told what is read.
        attempts: Counts the processes that died with a shard; None: there are no other processes.
    """
    attempts = attempts or AttemptCounter()
    with closing(reporting.open()) as pulse:
        for item in work:
            try:
                yield from _read_shard(item, config, attempts, pulse)
            except Exception as error:  # noqa: BLE001 (of whatever type: one shard must not end the stream of all others)
                yield _to_table(describe_failure(item.shard, error))


def _read_shard(work: ShardWork, config: InputConfig, attempts: Attempts, pulse: Pulse) -> Iterator[pa.Table]:
    def start(last: pa.Table | None) -> Iterator[pa.Table]:
        after = None if last is None else PartName(**last.select(["chunk_index", "end_offset"]).to_pylist()[0])
        return read_guarded(work.shard.uri, partial(_read_pieces, work, config, after), attempts)

    return pulse.read(f"reading '{work.shard.uri}'", start)


def _read_pieces(work: ShardWork, config: InputConfig, after: PartName | None) -> Iterator[pa.Table]:
    require_unchanged(work.shard)
    for piece in read_missing_chunks(work, config, after):
        if isinstance(piece, Chunk) and work.wanted is not None:
            piece = replace(piece, samples=tuple(piece.samples[n] for n in work.wanted[piece.index]))
        yield to_row(work.shard.name, piece)


def describe_failure(shard: InputShard, error: Exception) -> dict[str, object]:
    """Make the fields of the row that ends a shard that cannot be read.

    Of a store that failed (access denied, archived, away) it says so: the shard is tried again in the next wave.
    """
    if isinstance(error, LabellingError) and not is_store_failure(error):
        message = str(error)
    else:
        said = str(error) if isinstance(error, OSError) else describe_exception(error)
        message = f"shard '{shard.uri}' cannot be read: {said}"
    # The name of a file may hold bytes that are no UTF-8, which Arrow cannot hold.
    message = message.encode("utf-8", "backslashreplace").decode()
    return {
        "shard_name": shard.name,
        "is_end": True,
        "error": message,
        "is_store_error": True if is_store_failure(error) else None,
    }


def read_missing_chunks(
    work: ShardWork, config: InputConfig, after: PartName | None = None
) -> Iterator[Chunk | ShardEnd]:
    """Read the chunks of a shard that are not committed, then its end. What is committed is not read.

    Args:
        work: What remains of the shard.
        config: How it is read.
        after: Go on behind this chunk; None: from the first that is missing.
    """
    end_offsets = {part.chunk_index: part.end_offset for part in work.committed}
    index, offset = (0, 0) if after is None else (after.chunk_index + 1, after.end_offset)
    while True:
        while index in end_offsets:
            offset = end_offsets[index]
            index += 1
        for piece in read_chunks(work.shard, config, start_offset=offset, first_chunk=index):
            yield piece
            if isinstance(piece, ShardEnd):
                return
            index, offset = piece.index + 1, piece.end_offset
            if index in end_offsets:
                break


def to_row(shard_name: str, piece: Chunk | ShardEnd) -> pa.Table:
    """Turn a chunk, or the end of a shard, into a table of one row."""
    if isinstance(piece, ShardEnd):
        return _to_table({"shard_name": shard_name, "is_end": True, **asdict(piece)})
    samples = [{name: getattr(sample, name) for name in SAMPLE.names} for sample in piece.samples]
    return _to_table(
        {
            "shard_name": shard_name,
            "chunk_index": piece.index,
            "end_offset": piece.end_offset,
            "samples": samples,
            "is_end": False,
        }
    )


def to_samples(row: pa.Table) -> tuple[Sample, ...]:
    """Take the samples out of the row of a chunk."""
    return tuple(
        Sample(
            key=fields["key"],
            image=fields["image"],
            image_name=fields["image_name"],
            image_bytes=fields["image_bytes"],
            image_error=fields["image_error"],
            tags=tuple(fields["tags"]),
            class_numbers=tuple(fields["class_numbers"]),
            tags_error=fields["tags_error"],
            download_error=fields["download_error"],
        )
        for fields in row["samples"][0].as_py()
    )


def _to_table(fields: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist([fields], schema=CHUNK_SCHEMA)
