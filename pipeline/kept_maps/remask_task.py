"""New masks and statistics from the kept maps of a chunk."""

import math
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import UInt8
from numpy import ndarray

from pipeline.commit.parts import commit_chunk
from pipeline.commit.worker_reports import REPORT_SCHEMA, ChunkId, ShardFailure, make_row, read_head
from pipeline.errors import LabellingError, ShardError, describe_exception, is_store_failure
from pipeline.images.drawing.columns import make_mask_columns
from pipeline.images.masks import build_palette
from pipeline.kept_maps.chunk_rows import decode_rows
from pipeline.kept_maps.kept_run import require_source
from pipeline.kept_maps.row_maps import make_row_maps
from pipeline.run.config import LabelConfig
from pipeline.run.records import PART_SCHEMA, PLACE_COLUMNS, Reason, Status
from pipeline.run.run_file import Run
from pipeline.workers.attempts import MAX_DEATHS, AttemptCounter, Attempts
from pipeline.workers.pulse import Reporting

REMASK_TIMEOUT_S = 1800.0
"""Seconds to make the masks of a chunk, without waits for the store, after which the process is ended."""


def remask_row(row: pa.Table, run: Run, reporting: Reporting, attempts: Attempts | None = None) -> pa.Table:
    """Make and commit the masks of one chunk; the end of a shard passes through.

    Unusable maps or images fail their shard, and no other. So does a chunk whose processes die.

    Args:
        row: One row of `source.KEPT_SCHEMA`, or none.
        run: Run of the new masks. Its list of shards is not used.
        reporting: Where this process reports that it is busy.
        attempts: Counter of process deaths per chunk; None: there are no other processes.

    Returns:
        A row of `worker_reports.REPORT_SCHEMA`, or none.
    """
    # Ray distributes the cores over tasks, so each task uses one thread.
    torch.set_num_threads(1)
    chunk = read_head(row)
    if not isinstance(chunk, ChunkId):
        return REPORT_SCHEMA.empty_table() if chunk is None else make_row(chunk)
    attempts = attempts or AttemptCounter()
    with closing(reporting.open()) as pulse, pulse.busy(f"making masks of {chunk}", REMASK_TIMEOUT_S) as patience:
        try:
            if (num_deaths := attempts.begin(str(chunk))) >= MAX_DEATHS:
                raise ShardError(f"{num_deaths} processes died with chunk {chunk.part.chunk_index}; look at their logs")
            rows = remask_rows(decode_rows(row["rows"][0].as_py()), row["images"][0].as_py(), run)
        except Exception as error:  # of any type: it concerns the shard of the chunk alone
            if not isinstance(error, LabellingError) and is_store_failure(error):
                raise
            said = str(error) if isinstance(error, LabellingError) else describe_exception(error)
            return make_row(ShardFailure(shard_name=chunk.shard_name, error=f"shard '{chunk.shard_name}': {said}"))
        report = patience.call(lambda: commit_chunk(rows, chunk, run))
    attempts.finish(str(chunk))
    return make_row(report)


def remask_rows(rows: pa.Table, images: Sequence[bytes | None] | None, run: Run) -> pa.Table:
    """Make new masks and statistics for the rows of a chunk.

    Args:
        rows: As they were published, without masks.
        images: Encoded image of each row; None if the run needs none.
        run: Run of the new masks.

    Raises:
        ManifestError: A labelled row has no maps, or not those of its classes.
        ShardError: An image is not that of its row.
    """
    palette = build_palette(run.vocabulary.colours, run.vocabulary.classes)
    patch_size = require_source(run).patch_size
    listed = rows.to_pylist()
    made = [
        _remask(row, image, run.config, patch_size, palette) if row["status"] == Status.LABELLED else row
        for row, image in zip(listed, images or [None] * len(listed), strict=True)
    ]
    return pa.Table.from_pylist(made, schema=PART_SCHEMA)


def _is_finite(row: dict[str, Any]) -> bool:
    """Whether the model outputs of a row are finite. Older versions published rows where they are not."""
    figures = [one[name] for one in row["classes"] or () for name in ("presence", "raw_peak")]
    scales = (row["class_maps"] or {}).get("scales") or ()
    return all(math.isfinite(value) for value in (*figures, *scales) if value is not None)


def _reject_non_finite(row: dict[str, Any]) -> dict[str, Any]:
    """A rejected row in place of a labelled one, with the columns that do not depend on the model."""
    kept = ("key", "width", "height", "exif_orientation", "image_sha256", "tags_unknown", "class_ids", *PLACE_COLUMNS)
    error = "the kept class maps of this image are not finite; label it again with a model whose weights are"
    rejected = {"status": str(Status.REJECTED), "reason": str(Reason.NOT_FINITE), "error": error}
    # Without suggested classes: a rejected row has only the classes of its tags.
    tagged = [number for number in row["class_ids"] if number not in (row["suggested_class_ids"] or ())]
    return {name: row.get(name) for name in kept} | {"class_ids": tagged} | rejected


def _remask(
    row: dict[str, Any],
    image: bytes | None,
    settings: LabelConfig,
    patch_size: int | None,
    palette: UInt8[ndarray, "256 3"],
) -> dict[str, Any]:
    if not _is_finite(row):
        return _reject_non_finite(row)
    maps = make_row_maps(row, image, settings, patch_size)
    return row | make_mask_columns(row, maps, row["classes"], settings.maps, palette)
