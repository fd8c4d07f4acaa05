"""Corrected masks of a run, as an import of masks writes them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np

from pipeline.images.masks import encode_mask
from pipeline.published.decisions import RowId, compute_mask_digest
from pipeline.published.overrides import OVERRIDES_FOLDER, Override, encode_overrides
from pipeline.published.rows import iterate_rows
from pipeline.published.run import open_published
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic

FIRST_TIME = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def correct(
    run_uri: str,
    masks: Mapping[tuple[str, int], np.ndarray],
    *,
    number: int = 0,
    is_of_another_image: bool = False,
    orientations: Mapping[tuple[str, int], int] | None = None,
) -> None:
    """Write corrected masks of rows, by shard and index.

    Args:
        run_uri: The run.
        masks: On the stored pixels of the images.
        number: Of the import; later ones have higher numbers.
        is_of_another_image: Whether they were drawn on images that the rows no longer have.
        orientations: Of images whose rows do not tell it.
    """
    run, known = open_published(run_uri), orientations or {}
    rows = {RowId(row.shard_name, row.index): row for uri in run.manifest_uris for row in iterate_rows(run, uri)}
    overrides, payloads = [], []
    for row_id, mask in masks.items():
        row = rows[RowId(*row_id)]
        overrides.append(
            Override(
                shard=row.shard_name,
                index=row.index,
                key=row.key,
                class_ids=tuple(int(one) for one in np.unique(mask) if one not in (0, 255)),
                tool="cvat",
                source=f"task {number}.zip",
                annotator="ada",
                time=FIRST_TIME + timedelta(hours=number),
                fingerprint=str(run.record["fingerprint"]),
                image_sha256="0" * 64 if is_of_another_image else row.get("image_sha256"),
                mask_sha256=compute_mask_digest(row.get("mask")),
            )
        )
        payloads.append(encode_mask(mask.astype(np.uint8), run.palette, known.get(row_id, row.orientation)))
    put_atomic(
        join_uri(run_uri, OVERRIDES_FOLDER, f"{number}.parquet"),
        encode_overrides(zip(overrides, payloads, strict=True)),
    )
