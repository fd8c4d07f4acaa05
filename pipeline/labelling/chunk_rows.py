"""The missing chunks of shards as rows: one row per chunk, and one at the end of each shard.

Ray Data merges and splits blocks between stages but never splits a row, so what must stay together is
one row. A shard that cannot be read ends with a row that holds the error, and the other shards continue. If its store
failed, the shard is read again in the next wave.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import pyarrow as pa

from pipeline.commit.names import PartName
from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import HEAD, ChunkId, ShardEndReport, ShardFailure, make_row, read_head
from pipeline.errors import LabellingError, describe_exception, is_store_failure
from pipeline.inputs.chunks import read_missing_chunks, require_unchanged
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard, Sample, ShardEnd, TagEdit
from pipeline.workers.attempts import AttemptCounter, Attempts
from pipeline.workers.guarded_reads import read_guarded
from pipeline.workers.pulse import Pulse, Reporting

# The fields of `Sample` except `is_continuation`: labelling does not need it, and sealing finds repeated keys.
SAMPLE = pa.struct(
    [
        ("key", pa.string()),
        ("image", pa.large_binary()),
        ("image_name", pa.string()),
        ("image_bytes", pa.int64()),
        ("image_offset", pa.int64()),
        ("image_uri", pa.string()),
        ("image_error", pa.string()),
        ("image_reason", pa.string()),
        ("no_image_error", pa.string()),
        ("no_tags_error", pa.string()),
        ("dotted_name_error", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("class_numbers", pa.list_(pa.int64())),
        ("removed_class_ids", pa.list_(pa.int64())),
        ("added_class_ids", pa.list_(pa.int64())),
        ("tags_error", pa.string()),
        ("has_tags_row", pa.bool_()),
        ("download_error", pa.string()),
    ]
)

TUPLES = ("tags", "class_numbers", "removed_class_ids", "added_class_ids")
"""Fields of `Sample` that Arrow gives back as lists."""

CHUNK_SCHEMA = pa.schema([*HEAD, ("samples", pa.list_(SAMPLE))])


def read_rows(
    work: Sequence[ShardWork], config: InputConfig, reporting: Reporting, attempts: Attempts | None = None
) -> Iterator[pa.Table]:
    """Read the missing chunks of some shards as tables of one row. Waits out store outages.

    Args:
        work: What remains of each shard.
        config: How they are read.
        reporting: Where this process reports that it is busy.
        attempts: Counter of process deaths per shard; None: there are no other processes.
    """
    attempts = attempts or AttemptCounter()
    with closing(reporting.open()) as pulse:
        for item in work:
            try:
                yield from _read_shard(item, config, attempts, pulse)
            except Exception as error:  # noqa: BLE001 (of any type: one shard must not end the stream of all others)
                yield make_row(describe_failure(item.shard, error), CHUNK_SCHEMA)


def _read_shard(work: ShardWork, config: InputConfig, attempts: Attempts, pulse: Pulse) -> Iterator[pa.Table]:
    def start(last: pa.Table | None) -> Iterator[pa.Table]:
        chunk = None if last is None else read_head(last)
        after = chunk.part if isinstance(chunk, ChunkId) else None
        return read_guarded(work.shard.uri, partial(_read_pieces, work, config, after), attempts)

    return pulse.read(f"reading '{work.shard.uri}'", start)


def _read_pieces(work: ShardWork, config: InputConfig, after: PartName | None) -> Iterator[pa.Table]:
    require_unchanged(work.shard)
    first, start = (0, 0) if after is None else (after.chunk_index + 1, after.end_offset)
    for piece in read_missing_chunks(work.shard, config, work.end_offsets, first_chunk=first, start_offset=start):
        if isinstance(piece, Chunk) and work.wanted is not None:
            wanted = work.wanted[piece.index]
            samples = (_correct(piece.samples[n], work.edits.get((piece.index, n))) for n in wanted)
            piece = replace(piece, samples=tuple(samples))
        yield to_row(work.shard.name, piece)


def _correct(sample: Sample, edit: TagEdit | None) -> Sample:
    if edit is None:
        return sample
    removed, added = edit.describe()
    return replace(sample, removed_class_ids=tuple(removed), added_class_ids=tuple(added))


def describe_failure(shard: InputShard, error: Exception) -> ShardFailure:
    """The failure of a shard that cannot be read.

    If its store failed (access denied, archived, unavailable), the shard is tried again in the next wave.
    """
    if isinstance(error, LabellingError) and not is_store_failure(error):
        message = str(error)
    else:
        said = str(error) if isinstance(error, OSError) else describe_exception(error)
        message = f"shard '{shard.uri}' cannot be read: {said}"
    return ShardFailure(shard_name=shard.name, error=message, is_store_error=is_store_failure(error))


def to_row(shard_name: str, piece: Chunk | ShardEnd) -> pa.Table:
    """Turn a chunk, or the end of a shard, into a table of one row."""
    if isinstance(piece, ShardEnd):
        return make_row(ShardEndReport(shard_name=shard_name, end=piece), CHUNK_SCHEMA)
    part = PartName(chunk_index=piece.index, end_offset=piece.end_offset)
    chunk = ChunkId(shard_name=shard_name, part=part, members=piece.members)
    samples = [{name: getattr(sample, name) for name in SAMPLE.names} for sample in piece.samples]
    return make_row(chunk, CHUNK_SCHEMA, samples=samples)


def to_samples(row: pa.Table) -> tuple[Sample, ...]:
    """Extract the samples from the row of a chunk."""
    return tuple(
        Sample(**fields | {name: tuple(fields[name]) for name in TUPLES}) for fields in row["samples"][0].as_py()
    )
