"""One shard of a published run, written in one task: its files, then its records, the counts last."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.commit.names import PartName
from pipeline.commit.outcome import Outcome
from pipeline.commit.plan import ShardWork
from pipeline.commit.seal import CompleteShard
from pipeline.commit.worker_reports import (
    HEAD,
    REPORT_SCHEMA,
    ChunkId,
    ChunkReport,
    ShardEndReport,
    ShardFailure,
    make_row,
    read_head,
)
from pipeline.errors import LabellingError, ShardError, describe_exception, is_store_failure
from pipeline.export.job.identity import Export
from pipeline.export.job.records import (
    COMMIT,
    ENTRIES,
    FILES,
    RECORDS_FOLDER,
    ShardCounts,
    ShardItem,
    read_counts,
)
from pipeline.export.job.shard_samples import iterate_samples
from pipeline.export.store_files import StoreFiles
from pipeline.run.counts import LabelCounts
from pipeline.run.records import InputShard, ShardEnd
from pipeline.workers.attempts import MAX_DEATHS, AttemptCounter, Attempts
from pipeline.workers.pulse import Reporting
from pipeline.workers.read_part import ReadPart

ITEM_SCHEMA = pa.schema([*HEAD, ("item", pa.string())])
"""Rows from reader to worker: a shard as JSON; or the end of it."""
SHARD_TIMEOUT_S = 12 * 3600.0
"""Seconds to export a shard, without waits for the store, after which the process is ended."""


def plan_shards(
    items: Mapping[str, ShardItem], work: Sequence[ShardWork], reporting: Reporting, attempts: Attempts
) -> ReadPart:
    """Plan one row for each shard; the worker reads its manifest and images itself."""
    chosen = [items[one.shard.name] for one in work]
    return ReadPart(partial(read_items, chosen), sum(item.shard.size_bytes for item in chosen))


def read_items(items: Sequence[ShardItem]) -> Iterator[pa.Table]:
    """Yield a row for each shard, which is its only chunk, and one for its end."""
    for item in items:
        name = item.shard.name
        chunk = ChunkId(shard_name=name, part=_name_part(item.shard))
        yield make_row(chunk, ITEM_SCHEMA, item=json.dumps(asdict(item)))
        yield make_row(ShardEndReport(shard_name=name, end=ShardEnd(num_chunks=1)), ITEM_SCHEMA)


def _name_part(shard: InputShard) -> PartName:
    return PartName(chunk_index=0, end_offset=shard.size_bytes)


def export_row(row: pa.Table, export: Export, reporting: Reporting, attempts: Attempts | None = None) -> pa.Table:
    """Export one shard; the end of a shard passes through.

    An error of a shard fails it, and no other. So does a shard whose processes die.

    Args:
        row: One row of `ITEM_SCHEMA`, or none.
        export: The export, without its lists of shards.
        reporting: Where this process reports that it is busy.
        attempts: Counter of process deaths per shard; None: there are no other processes.

    Returns:
        A row of `worker_reports.REPORT_SCHEMA`, or none.
    """
    chunk = read_head(row)
    if not isinstance(chunk, ChunkId):
        return REPORT_SCHEMA.empty_table() if chunk is None else make_row(chunk)
    item = _parse_item(row["item"][0].as_py())
    attempts = attempts or AttemptCounter()
    name = chunk.shard_name
    with closing(reporting.open()) as pulse, pulse.busy(f"exporting '{name}'", SHARD_TIMEOUT_S) as patience:
        try:
            if (num_deaths := attempts.begin(str(chunk))) >= MAX_DEATHS:
                raise ShardError(f"{num_deaths} processes died with it; look at their logs")
            counts = patience.call(lambda: write_shard(export, item))
        except Exception as error:  # noqa: BLE001 (of any type: it concerns this shard alone)
            said = str(error) if isinstance(error, LabellingError) else describe_exception(error)
            failure = ShardFailure(
                shard_name=name, error=f"shard '{name}': {said}", is_store_error=is_store_failure(error)
            )
            return make_row(failure)
    attempts.finish(str(chunk))
    return make_row(ChunkReport(chunk=chunk, counts=to_label_counts(counts)))


def _parse_item(text: str) -> ShardItem:
    fields: dict[str, Any] = json.loads(text)
    return ShardItem(**fields | {"shard": InputShard(**fields["shard"])})


def write_shard(export: Export, item: ShardItem) -> ShardCounts:
    """Write the files of a shard, then its records. A second call writes the same bytes.

    Raises:
        ManifestError: The manifest is damaged, or a mask does not fit its image.
        ShardError: An image is gone or changed.
        StorageError: A store failed.
    """
    counts = ShardCounts()
    records, start = StoreFiles(export.out_uri), f"{RECORDS_FOLDER}/{item.stem}"
    samples = iterate_samples(export, item, counts)
    # The paths are not kept: a shard may have millions.
    with records.open(start + FILES) as listed:
        files = StoreFiles(export.out_uri, lambda path: listed.write(f"{path}\n".encode()))
        with records.open(start + ENTRIES) as file:
            for entry in export.format.write_shard(item.place, samples, files, export.context):
                file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
    records.put(start + COMMIT, json.dumps(counts.describe(), separators=(",", ":")).encode())
    return counts


def to_label_counts(counts: ShardCounts) -> LabelCounts:
    """Counts as the driver adds them up: exported rows as labelled ones, others by their filter."""
    return LabelCounts(
        num_read=counts.num_read,
        num_labelled=counts.num_exported,
        num_rejected=counts.left_out.total(),
        rejected_by_reason=dict(counts.left_out),
    )


def publish_export(complete: CompleteShard, *, out_uri: str, items: Mapping[str, ShardItem]) -> Outcome:
    """Read what became of an exported shard; its worker committed it.

    Raises:
        ManifestError: Its record is damaged.
    """
    return Outcome(counts=to_label_counts(read_counts(out_uri, items[complete.shard.name])))
