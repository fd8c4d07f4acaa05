"""A published run as the source of new masks: what it is, and its rows chunk by chunk.

manifest -> row groups, which are the chunks -> rows without their masks, and their images where masks need them

This module and what it imports do without PyTorch: tasks that read start in a fraction of the time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.commit.manifests import Manifest, stream_manifest
from pipeline.commit.parts import locate_manifest
from pipeline.commit.plan import ShardWork
from pipeline.errors import LabellingError, ManifestError, describe_exception, is_store_failure
from pipeline.inputs.shards import require_unchanged
from pipeline.kept_maps.images import read_images
from pipeline.run.config import InputConfig, LabelConfig, PixelRefinement
from pipeline.run.identity import MapSource, Run, describe_shard, read_config, read_run
from pipeline.run.records import PART_SCHEMA, RUN_FILE, InputShard
from pipeline.run.vocabulary import Vocabulary, parse_vocabulary
from pipeline.storage.storage import join_uri, list_folder
from pipeline.workers.attempts import AttemptCounter, Attempts
from pipeline.workers.guarded_reads import read_guarded
from pipeline.workers.pulse import Pulse, Reporting

KEPT_SCHEMA = pa.schema(
    [
        ("shard_name", pa.string()),
        ("chunk_index", pa.int64()),
        ("end_offset", pa.int64()),
        ("rows", pa.large_binary()),
        ("images", pa.list_(pa.large_binary())),
        ("is_end", pa.bool_()),
        ("num_chunks", pa.int64()),
        ("truncated_at", pa.int64()),
        ("error", pa.string()),
        ("is_store_error", pa.bool_()),
    ]
)
"""What goes from reading to drawing: the rows of a chunk as an Arrow stream, and their images where pixels refine maps;
or the end of a shard."""

KEPT_COLUMNS = tuple(name for name in PART_SCHEMA.names if name != "mask")


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """A published run whose kept maps give masks."""

    model_uri: str
    model_digest: str
    vocabulary: Vocabulary
    config: LabelConfig
    """Its thresholds are those of its masks."""
    shards: tuple[InputShard, ...]
    """The inputs that are published."""
    num_unpublished: int
    source: MapSource


def open_kept_run(labels_uri: str) -> KeptRun:
    """Look at what a labelling run has published.

    Raises:
        ManifestError: There is no such run, nothing of it is published, or masks cannot be made of its maps.
    """
    record = read_run(labels_uri)
    require_maps(labels_uri, record)
    config = read_config(labels_uri, record)
    try:
        shards = [
            InputShard(uri=uri, name=name, size_bytes=size, etag=etag) for uri, name, size, etag in record["inputs"]
        ]
        model_uri, model_digest = record["model_uri"], record["model_digest"]
    except (KeyError, TypeError, ValueError) as error:
        uri = join_uri(labels_uri, RUN_FILE)
        raise ManifestError(
            f"'{uri}' cannot be understood: {error}; use the version of tagmask that wrote it"
        ) from error
    listed = {item.uri: item for item in list_folder(join_uri(labels_uri, "labels"))}
    published = [shard for shard in shards if locate_manifest(labels_uri, shard.name) in listed]
    if not published:
        raise ManifestError(f"'{labels_uri}' has published no shard yet (labels/*.parquet); finish labelling first")
    found = {shard.name: listed[locate_manifest(labels_uri, shard.name)] for shard in published}
    return KeptRun(
        model_uri=model_uri,
        model_digest=model_digest,
        vocabulary=parse_vocabulary(record["vocabulary"]),
        config=config,
        shards=tuple(published),
        num_unpublished=len(shards) - len(published),
        source=MapSource(
            labels_uri=labels_uri,
            fingerprint=record["fingerprint"],
            manifests=tuple(
                InputShard(uri=item.uri, name=name, size_bytes=item.size_bytes, etag=item.etag)
                for name, item in found.items()
            ),
        ),
    )


def require_maps(labels_uri: str, record: Mapping[str, Any]) -> None:
    """Check that masks can be made of what a run kept.

    Raises:
        ManifestError: They cannot.
    """
    if not record.get("config", {}).get("maps", {}).get("keep_maps"):
        raise ManifestError(
            f"'{labels_uri}' was labelled without keeping its maps; label with --maps.keep-maps, then its thresholds "
            "can be changed without a model"
        )


class KeptMapSource(Datasource):
    """Reads what remains of some published shards. The plan is frozen into the read tasks."""

    def __init__(
        self, run: Run, work: Sequence[ShardWork], shards_per_task: int, attempts: Attempts, reporting: Reporting
    ) -> None:
        """Read `work`, `shards_per_task` shards a task, and report to the driver."""
        super().__init__()
        self._reporting = reporting
        source = require_source(run)
        pairs = pair_with_manifests(source, work)
        self._fingerprint = source.fingerprint
        self._inputs = choose_inputs(run.config)
        self._attempts = attempts
        self._batches = [pairs[start : start + shards_per_task] for start in range(0, len(pairs), shards_per_task)]

    def get_name(self) -> str:
        """Name the source in Ray's progress and metrics."""
        return "KeptMaps"

    def estimate_inmemory_data_size(self) -> int | None:
        """Say how much there is to read, in bytes."""
        return sum(map(self._count_bytes, self._batches))

    def _count_bytes(self, batch: Sequence[tuple[ShardWork, InputShard]]) -> int:
        """Count what a task reads: manifests, and the shards if images are needed."""
        return sum(manifest.size_bytes + (item.shard.size_bytes if self._inputs else 0) for item, manifest in batch)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Give one task per group of shards, whatever parallelism Ray wishes for."""
        return [
            ReadTask(
                partial(read_kept_rows, batch, self._fingerprint, self._inputs, self._reporting, self._attempts),
                BlockMetadata(
                    num_rows=None,
                    size_bytes=self._count_bytes(batch),
                    input_files=None,
                    exec_stats=None,
                ),
                schema=KEPT_SCHEMA,
                per_task_row_limit=per_task_row_limit,
            )
            for batch in self._batches
        ]


def require_source(run: Run) -> MapSource:
    """Give the source of a run's maps.

    Raises:
        ValueError: The run makes its masks from images.
    """
    if run.source is None:
        raise ValueError(f"run '{run.out_uri}' makes its masks from images and not from kept maps")
    return run.source


def choose_inputs(config: LabelConfig) -> InputConfig | None:
    """Say how the images are read that masks of kept maps need; None if they need none."""
    return None if config.maps.pixel_refinement == PixelRefinement.NONE else config.inputs


def pair_with_manifests(source: MapSource, work: Sequence[ShardWork]) -> list[tuple[ShardWork, InputShard]]:
    """Give for what remains of each shard the manifest that holds its maps."""
    manifests = {manifest.name: manifest for manifest in source.manifests}
    return [(item, manifests[item.shard.name]) for item in work]


def read_kept_rows(
    work: Sequence[tuple[ShardWork, InputShard]],
    fingerprint: str,
    inputs: InputConfig | None,
    reporting: Reporting,
    attempts: Attempts | None = None,
) -> Iterator[pa.Table]:
    """Read the chunks of manifests whose masks are not committed, as tables of one row; then the end of each shard.

    A manifest that is not what it was when it was listed gives an end row with the error: the other shards go on. So
    does a shard whose images are needed and are not what they were. An outage of their store is waited for.

    Args:
        work: What remains of each shard, and its manifest.
        fingerprint: Of the run that made the manifests.
        inputs: How images are read from the shards; None: they are not needed, and no shard is read.
        reporting: To whom it is told what is read.
        attempts: Counts the processes that died with a shard; None: there are no other processes.
    """
    attempts = attempts or AttemptCounter()
    with closing(reporting.open()) as pulse:
        for item, manifest in work:
            read = partial(_read_shard, item, manifest, fingerprint, inputs)
            try:
                yield from _read_patiently(read, item.shard.uri, attempts, pulse)
            except Exception as error:  # noqa: BLE001 (of whatever type: one shard must not end the stream of all others)
                yield _to_table(_describe_failure(item.shard, manifest, error))


def _read_patiently(
    read: Callable[[int], Iterator[pa.Table]], uri: str, attempts: Attempts, pulse: Pulse
) -> Iterator[pa.Table]:
    """Read the rows of a shard; go on behind the last one after an outage."""

    def start(last: pa.Table | None) -> Iterator[pa.Table]:
        first_chunk = 0 if last is None else last["chunk_index"][0].as_py() + 1
        return read_guarded(uri, partial(read, first_chunk), attempts)

    return pulse.read(f"reading the manifest of '{uri}'", start)


def _describe_failure(shard: InputShard, manifest: InputShard, error: Exception) -> dict[str, object]:
    if isinstance(error, LabellingError | FileNotFoundError):
        reason = " ".join(str(error).split())
    else:
        said = describe_exception(error)
        reason = f"manifest '{manifest.uri}' cannot be read: {said}; label its shard again if it is damaged"
    # A manifest that is gone stays so; a store that failed may give it in the next wave.
    is_store_error = is_store_failure(error) and not isinstance(error, FileNotFoundError)
    reason = reason.encode("utf-8", "backslashreplace").decode()
    return {"shard_name": shard.name, "is_end": True, "error": reason, "is_store_error": is_store_error}


def _read_shard(
    work: ShardWork,
    listed: InputShard,
    fingerprint: str,
    inputs: InputConfig | None,
    first_chunk: int,
) -> Iterator[pa.Table]:
    """Read the missing chunks of a manifest from a chunk on, then its end."""
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
            yield _to_table(
                {
                    "shard_name": name,
                    "chunk_index": index,
                    "end_offset": chunks[index][1],
                    "rows": encode_rows(rows),
                    "images": of_chunk,
                    "is_end": False,
                }
            )
        truncated_at = manifest.footer["truncated_at"]
    yield _to_table({"shard_name": name, "is_end": True, "num_chunks": len(chunks), "truncated_at": truncated_at})


def _require_chunks(manifest: Manifest, shard: InputShard, fingerprint: str) -> None:
    """Check that a manifest is of its run and shard, and that its row groups are the chunks of which it speaks."""
    num_rows = [manifest.file.metadata.row_group(index).num_rows for index in range(manifest.file.num_row_groups)]
    said = [num for num, _ in manifest.footer.get("chunks", [])]
    footer = manifest.footer
    is_ours = footer.get("fingerprint") == fingerprint and footer.get("shard") == describe_shard(shard)
    if not is_ours or num_rows != said:
        raise ManifestError(
            f"'{manifest.uri}' is of another run or of an older version; label shard '{shard.name}' under a new --out"
        )


def encode_rows(rows: pa.Table) -> bytes:
    """Turn rows into bytes, so that a chunk is one value that nothing splits."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


def decode_rows(payload: bytes) -> pa.Table:
    """Read the rows that `encode_rows` wrote."""
    with pa.ipc.open_stream(payload) as reader:
        return reader.read_all()


def _to_table(fields: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist([fields], schema=KEPT_SCHEMA)
