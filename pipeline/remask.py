"""New masks of kept maps: other thresholds, other scales, without model, images or GPU.

rows of a manifest -> class maps at image size -> mask, statistics -> part, committed by the task that made it

What the thresholds decide is made anew; what only the model can say (presence, raw_peak, view_agreement,
head_agreement, suggested_class_ids) and rejected rows stay as they were.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import UInt8
from numpy import ndarray

from pipeline.commit import commit_chunk, describe_row
from pipeline.config import MapConfig
from pipeline.decode import place_on_stored_pixels
from pipeline.errors import LabellingError, ManifestError
from pipeline.kept_maps import KeptRun, decode_rows
from pipeline.masks import build_palette, decode_class_maps, encode_mask
from pipeline.pixel_maps import draw_mask, enlarge_maps, enlarge_mask, take_class_scales
from pipeline.records import PART_SCHEMA, Status
from pipeline.run import Run, open_run
from pipeline.stats import compute_mask_stats, join_mask_stats


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
    """
    if out_uri.rstrip("/") == kept.source.labels_uri.rstrip("/"):
        raise ValueError(f"need another --out than --labels, got '{out_uri}' for both")
    return open_run(
        out_uri=out_uri,
        model_uri=kept.model_uri,
        model_digest=kept.model_digest,
        vocabulary=kept.vocabulary,
        config=replace(kept.config, maps=maps),
        shards=kept.shards,
        source=kept.source,
        writes=writes,
    )


def remask_row(row: pa.Table, run: Run) -> pa.Table:
    """Make and commit the masks of one chunk; the end of a shard passes through.

    Maps that cannot be read fail their shard, and no other.

    Args:
        row: One row of `kept_maps.KEPT_SCHEMA`, or none.
        run: What is made; its list of shards is not looked at.

    Returns:
        A row of `commit.COMMITTED_SCHEMA`, or none.
    """
    # The cores are shared among tasks by Ray, not by threads within one.
    torch.set_num_threads(1)
    fields: dict[str, Any] = row.drop_columns(["rows"]).to_pylist()[0] if row.num_rows else {}
    if fields and not fields["is_end"]:
        try:
            rows = remask_rows(decode_rows(row["rows"][0].as_py()), run)
        except LabellingError as error:
            fields |= {"is_end": True, "error": f"shard '{fields['shard_name']}': {error}"}
        else:
            return commit_chunk(rows, fields, out_uri=run.out_uri, fingerprint=run.fingerprint, folder=run.parts_folder)
    return describe_row(fields)


def remask_rows(rows: pa.Table, run: Run) -> pa.Table:
    """Make new masks and statistics for the rows of a chunk.

    Raises:
        ManifestError: A labelled row has no maps, or not those of its classes.
    """
    palette = build_palette(run.vocabulary.colours, run.vocabulary.classes)
    made = [
        _remask(row, run.config.maps, palette) if row["status"] == Status.LABELLED else row for row in rows.to_pylist()
    ]
    return pa.Table.from_pylist(made, schema=PART_SCHEMA)


def _remask(row: dict[str, Any], config: MapConfig, palette: UInt8[ndarray, "256 3"]) -> dict[str, Any]:
    require_row_maps(row)
    upright_size = measure_upright(row)
    # A copy, for tensors must not be read-only.
    grid = torch.from_numpy(decode_class_maps(row["class_maps"]).copy())[None]
    class_ids = row["class_ids"]
    pixel_maps = enlarge_maps([grid], upright_size, take_class_scales(config.class_scales, class_ids))
    thresholds = (config.background_threshold, config.foreground_threshold)
    has_background = config.has_background
    presence = torch.tensor([one["presence"] for one in row["classes"]])
    pixel_maps, mask, doubtful = draw_mask(pixel_maps, class_ids, presence, config)
    stats = compute_mask_stats(pixel_maps, mask, class_ids, *thresholds, has_background=has_background)
    stored = place_on_stored_pixels(enlarge_mask(mask, upright_size), row["exif_orientation"])
    return row | {
        "mask": {"bytes": encode_mask(stored, palette), "path": f"{row['key']}.png"},
        **join_mask_stats(row["classes"], stats, doubtful),
    }


def measure_upright(row: Mapping[str, Any]) -> tuple[int, int]:
    """Give height and width of a row's image once it is turned upright."""
    return (row["width"], row["height"]) if row["exif_orientation"] >= 5 else (row["height"], row["width"])


def require_row_maps(row: Mapping[str, Any]) -> None:
    """Check that a labelled row holds the maps of its classes.

    Raises:
        ManifestError: It does not.
    """
    maps = row["class_maps"]
    if maps is None or len(maps["scales"]) != len(row["class_ids"]):
        held = "no class maps" if maps is None else f"{len(maps['scales'])} class maps"
        raise ManifestError(
            f"row '{row['key']}' has {held} for {len(row['class_ids'])} classes; label its shard again with "
            "--maps.keep-maps"
        )
