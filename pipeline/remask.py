"""New masks of kept maps: other thresholds, other scales, without GPU; without images, unless pixels refine the maps.

rows of a manifest (and their images) -> class maps at image size -> mask, statistics -> part, committed by the task
that made it

What the thresholds decide is made anew; what only the model can say (presence, raw_peak, view_agreement,
head_agreement, suggested_class_ids) and rejected rows stay as they were.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import UInt8
from numpy import ndarray

from pipeline.commit.parts import commit_chunk, describe_row
from pipeline.errors import BundleError, LabellingError, ShardError, describe_exception, is_store_failure
from pipeline.images.masks import build_palette, encode_mask, name_mask_file
from pipeline.images.orientation import place_on_stored_pixels
from pipeline.images.pixel_maps import draw_mask, enlarge_mask, take_class_scales
from pipeline.images.stats import compute_mask_stats, join_mask_stats
from pipeline.kept_maps.row_maps import make_row_maps, measure_upright
from pipeline.kept_maps.source import KeptRun, decode_rows, require_source
from pipeline.run.bundles import load_bundle
from pipeline.run.config import LabelConfig, MapConfig, PixelRefinement
from pipeline.run.identity import Run, open_run
from pipeline.run.records import PART_SCHEMA, Reason, Status
from pipeline.workers.attempts import MAX_DEATHS, AttemptCounter, Attempts
from pipeline.workers.pulse import Reporting

REMASK_TIMEOUT_S = 1800.0
"""A process that needs so long for the masks of one chunk, beside all waits for the store, is ended."""


def open_remask(out_uri: str, kept: KeptRun, maps: MapConfig, *, writes: bool = True) -> Run:
    """Start a run that makes new masks of the kept maps of another, or take it up again.

    Its shards are those whose manifests were there when it was started. What it publishes names the images as its
    inputs, as the first run does, so that everything that reads a labelling run reads it.

    Args:
        out_uri: Output folder.
        kept: Where the maps are.
        maps: How masks are made of them; what made the maps is as in `kept`.
        writes: False to look only.

    Raises:
        ValueError: The output is the source, or there are scales for another number of classes.
        RunConflictError: The folder belongs to another run; the message names what differs.
        BundleError: Pixels refine the maps, and the model that made them is not there.
    """
    if out_uri.rstrip("/") == kept.source.labels_uri.rstrip("/"):
        raise ValueError(f"need another --out than --labels, got '{out_uri}' for both")
    config = replace(kept.config, maps=maps)
    return open_run(
        out_uri=out_uri,
        model_uri=kept.model_uri,
        model_digest=kept.model_digest,
        vocabulary=kept.vocabulary,
        config=config,
        shards=kept.shards,
        source=replace(kept.source, patch_size=find_patch_size(kept, config)),
        writes=writes,
    )


def find_patch_size(kept: KeptRun, config: LabelConfig) -> int | None:
    """Look up in the model how large its patches are, in pixels: the size at which pixels refine maps follows from it.

    None if they do not, and no model is looked at.

    Raises:
        BundleError: The model is gone, or another one.
    """
    if config.maps.pixel_refinement == PixelRefinement.NONE:
        return None
    try:
        model, _, digest = load_bundle(kept.model_uri)
        if digest != kept.model_digest:
            raise BundleError(f"bundle '{kept.model_uri}' is not the model that made the kept maps")
    except BundleError as error:
        raise BundleError(
            f"{error}; refining kept maps by pixels needs to know its patches, so put it back, or make masks without "
            "(jobs.remask with --maps.pixel-refinement none)"
        ) from error
    return model.config.patch_size


def remask_row(row: pa.Table, run: Run, reporting: Reporting, attempts: Attempts | None = None) -> pa.Table:
    """Make and commit the masks of one chunk; the end of a shard passes through.

    Maps or images that cannot be used fail their shard, and no other. So does a chunk with which processes die.

    Args:
        row: One row of `kept_maps.KEPT_SCHEMA`, or none.
        run: What is made; its list of shards is not looked at.
        reporting: To whom it is told what is done.
        attempts: Counts the processes that died with a chunk; None: there are no other processes.

    Returns:
        A row of `commit.COMMITTED_SCHEMA`, or none.
    """
    # The cores are shared among tasks by Ray, not by threads within one.
    torch.set_num_threads(1)
    fields: dict[str, Any] = row.drop_columns(["rows", "images"]).to_pylist()[0] if row.num_rows else {}
    if not fields or fields["is_end"]:
        return describe_row(fields)
    attempts = attempts or AttemptCounter()
    chunk = f"{fields['shard_name']}/{fields['chunk_index']:06d}"
    with closing(reporting.open()) as pulse, pulse.busy(f"making masks of {chunk}", REMASK_TIMEOUT_S) as patience:
        try:
            if (num_deaths := attempts.begin(chunk)) >= MAX_DEATHS:
                raise ShardError(f"{num_deaths} processes died with chunk {fields['chunk_index']}; look at their logs")
            rows = remask_rows(decode_rows(row["rows"][0].as_py()), row["images"][0].as_py(), run)
        except Exception as error:  # whatever the maps or images of a chunk provoke is their shard's alone
            if not isinstance(error, LabellingError) and is_store_failure(error):
                raise
            said = str(error) if isinstance(error, LabellingError) else describe_exception(error)
            return describe_row(fields | {"is_end": True, "error": f"shard '{fields['shard_name']}': {said}"})
        committed = patience.call(lambda: commit_chunk(rows, fields, run))
    attempts.finish(chunk)
    return committed


def remask_rows(rows: pa.Table, images: Sequence[bytes | None] | None, run: Run) -> pa.Table:
    """Make new masks and statistics for the rows of a chunk.

    Args:
        rows: As they were published, without masks.
        images: Of each row, encoded; None if the run does without.
        run: What is made.

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
    """Tell whether what the model said of a row is finite; versions that did not look published other rows, too."""
    figures = [one[name] for one in row["classes"] or () for name in ("presence", "raw_peak")]
    scales = (row["class_maps"] or {}).get("scales") or ()
    return all(math.isfinite(value) for value in (*figures, *scales) if value is not None)


def _reject_non_finite(row: dict[str, Any]) -> dict[str, Any]:
    """Make a rejected row of one that has no mask, with what does not depend on the model."""
    kept = ("key", "width", "height", "exif_orientation", "image_sha256", "tags_unknown", "class_ids")
    error = "the kept class maps of this image are not finite; label it again with a model whose weights are"
    rejected = {"status": str(Status.REJECTED), "reason": str(Reason.NOT_FINITE), "error": error}
    # Without the suggested ones, which a mask would have shown: a rejected row has the classes of its tags.
    tagged = [number for number in row["class_ids"] if number not in (row["suggested_class_ids"] or ())]
    return {name: row[name] for name in kept} | {"class_ids": tagged} | rejected


def _remask(
    row: dict[str, Any],
    image: bytes | None,
    settings: LabelConfig,
    patch_size: int | None,
    palette: UInt8[ndarray, "256 3"],
) -> dict[str, Any]:
    if not _is_finite(row):
        return _reject_non_finite(row)
    config, class_ids = settings.maps, row["class_ids"]
    pixel_maps = make_row_maps(row, image, settings, patch_size, take_class_scales(config.class_scales, class_ids))
    thresholds = (config.background_threshold, config.foreground_threshold)
    has_background = config.has_background
    presence = torch.tensor([one["presence"] for one in row["classes"]])
    pixel_maps, mask, doubtful = draw_mask(pixel_maps, class_ids, presence, config)
    stats = compute_mask_stats(pixel_maps, mask, class_ids, *thresholds, has_background=has_background)
    stored = place_on_stored_pixels(enlarge_mask(mask, measure_upright(row)), row["exif_orientation"])
    return row | {
        "mask": {"bytes": encode_mask(stored, palette), "path": name_mask_file(row["key"])},
        **join_mask_stats(row["classes"], stats, doubtful),
    }
