"""Rows of a published run with kept maps, chunk by chunk.

manifest -> row groups, which are the chunks -> rows without their masks, and their images where masks need them
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

import pyarrow as pa

from pipeline.commit.manifests import Manifest, read_members, stream_manifest
from pipeline.commit.names import PartName
from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import HEAD, ChunkId, ShardEndReport, ShardFailure, make_row
from pipeline.errors import LabellingError, ManifestError, describe_exception, is_store_failure
from pipeline.inputs.chunks import require_unchanged
from pipeline.kept_maps.images import read_images
from pipeline.kept_maps.kept_run import choose_inputs, pair_with_manifests, require_source
from pipeline.run.config import InputConfig
from pipeline.run.records import PART_SCHEMA, InputShard, ShardEnd
from pipeline.run.run_file import Run, describe_shard
from pipeline.workers.attempts import AttemptCounter, Attempts
from pipeline.workers.guarded_reads import read_guarded
from pipeline.workers.pulse import Pulse, Reporting
from pipeline.workers.read_part import ReadPart

KEPT_SCHEMA = pa.schema([*HEAD, ("rows", pa.large_binary()), ("images", pa.list_(pa.large_binary()))])
"""Rows from reader to worker: the rows of a chunk as an Arrow stream, and their images where pixels refine maps; or the
end of a shard."""

KEPT_COLUMNS = tuple(name for name in PART_SCHEMA.names if name != "mask")


def plan_kept_read(run: Run, work: Sequence[ShardWork], reporting: Reporting, attempts: Attempts) -> ReadPart:
    """Plan the read of the missing chunks of some manifests.

    Raises:
        ValueError: The run makes its masks from images.
    """
    source, inputs = require_source(run), choose_inputs(run.config)
    pairs = pair_with_manifests(source, work)
    num_bytes = sum(manifest.size_bytes + (item.shard.size_bytes if inputs else 0) for item, manifest in pairs)
    return ReadPart(partial(read_kept_rows, pairs, source.fingerprint, inputs, reporting, attempts), num_bytes)


def read_kept_rows(
    work: Sequence[tuple[ShardWork, InputShard]],
    fingerprint: str,
    inputs: InputConfig | None,
    reporting: Reporting,
    attempts: Attempts | None = None,
) -> Iterator[pa.Table]:
    """Read the chunks of manifests whose masks are not committed, as tables of one row; then the end of each shard.

    A manifest that changed since it was listed ends with a row that holds the error, and the other shards continue. So
    does a shard that changed and whose images are needed. Waits out store outages.

    Args:
        work: What remains of each shard, and its manifest.
        fingerprint: Of the run that made the manifests.
        inputs: Reader settings for images; None: images are not needed, and no shard is read.
        reporting: Where this process reports that it is busy.
        attempts: Counter of process deaths per shard; None: there are no other processes.
    """
    attempts = attempts or AttemptCounter()
    with closing(reporting.open()) as pulse:
        for item, manifest in work:
            read = partial(_read_shard, item, manifest, fingerprint, inputs)
            try:
                yield from _read_patiently(read, item.shard.uri, attempts, pulse)
            except Exception as error:  # noqa: BLE001 (of any type: one shard must not end the stream of all others)
                yield make_row(_describe_failure(item.shard, manifest, error), KEPT_SCHEMA)


def _read_patiently(
    read: Callable[[int], Iterator[pa.Table]], uri: str, attempts: Attempts, pulse: Pulse
) -> Iterator[pa.Table]:
    """Read the rows of a shard; after an outage, resume after the last row."""

    def start(last: pa.Table | None) -> Iterator[pa.Table]:
        first_chunk = 0 if last is None else last["chunk_index"][0].as_py() + 1
        return read_guarded(uri, partial(read, first_chunk), attempts)

    return pulse.read(f"reading the manifest of '{uri}'", start)


def _describe_failure(shard: InputShard, manifest: InputShard, error: Exception) -> ShardFailure:
    if isinstance(error, LabellingError | FileNotFoundError):
        reason = " ".join(str(error).split())
    else:
        said = describe_exception(error)
        reason = f"manifest '{manifest.uri}' cannot be read: {said}; label its shard again if it is damaged"
    # A missing manifest stays missing. A failed store may work again in the next wave.
    is_store_error = is_store_failure(error) and not isinstance(error, FileNotFoundError)
    return ShardFailure(shard_name=shard.name, error=reason, is_store_error=is_store_error)


def _read_shard(
    work: ShardWork,
    listed: InputShard,
    fingerprint: str,
    inputs: InputConfig | None,
    first_chunk: int,
) -> Iterator[pa.Table]:
    """Read the missing chunks of a manifest, starting at `first_chunk`, then its end."""
    require_unchanged(listed)
    committed = {part.chunk_index for part in work.committed}
    name = work.shard.name
    with stream_manifest(listed.uri) as manifest:
        _require_chunks(manifest, work.shard, fingerprint)
        chunks = manifest.footer["chunks"]
        missing = [index for index in range(first_chunk, len(chunks)) if index not in committed]
        images = None if inputs is None else read_images(work.shard, inputs, manifest, missing)
        for index in missing:
            of_chunk = None if images is None else next(images)[1]
            rows = manifest.file.read_row_group(index, columns=list(KEPT_COLUMNS))
            chunk = ChunkId(shard_name=name, part=PartName(chunk_index=index, end_offset=chunks[index][1]))
            yield make_row(chunk, KEPT_SCHEMA, rows=encode_rows(rows), images=of_chunk)
        truncated_at = manifest.footer["truncated_at"]
        members = read_members(manifest)
    # Parts of new masks have no counts: those of the whole shard are known.
    end = ShardEnd(num_chunks=len(chunks), truncated_at=truncated_at, members=members)
    yield make_row(ShardEndReport(shard_name=name, end=end), KEPT_SCHEMA)


def _require_chunks(manifest: Manifest, shard: InputShard, fingerprint: str) -> None:
    """Check that a manifest belongs to its run and shard, and that its row groups are the chunks of its footer."""
    num_rows = [manifest.file.metadata.row_group(index).num_rows for index in range(manifest.file.num_row_groups)]
    stated = [num for num, _ in manifest.footer.get("chunks", [])]
    footer = manifest.footer
    is_ours = footer.get("fingerprint") == fingerprint and footer.get("shard") == describe_shard(shard)
    if not is_ours or num_rows != stated:
        raise ManifestError(
            f"'{manifest.uri}' is of another run or of an older version; label shard '{shard.name}' under a new --out"
        )


def encode_rows(rows: pa.Table) -> bytes:
    """Rows as bytes, so that a chunk is one value that Ray does not split."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


def decode_rows(payload: bytes) -> pa.Table:
    """Decode the rows of `encode_rows`."""
    with pa.ipc.open_stream(payload) as reader:
        return reader.read_all()
