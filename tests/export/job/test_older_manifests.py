"""Exports of runs that older versions labelled."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import tagmask
from pipeline.images.masks import decode_mask, encode_mask, voc_palette
from pipeline.published.run import open_published
from tests.export.runs import count_manifest_pixels, count_pixels, export_all
from tests.library.published import NUMBERS, make_masks

LATER_COLUMNS = ["shard", "image_offset", "image_bytes", "image_uri"]


def write_as_version_4(run_uri: str) -> None:
    """Take from a run what came with version 5: places of photos, and the orientation in the PNG of a mask."""
    for uri in open_published(run_uri).manifest_uris:
        table = pq.read_table(uri).drop_columns(LATER_COLUMNS)
        records = table["mask"].to_pylist()
        for record in records:
            if record is not None and record["bytes"] is not None:
                record["bytes"] = encode_mask(decode_mask(record["bytes"]), voc_palette())
                assert b"eXIf" not in record["bytes"]
        masks = pa.array(records, table.schema.field("mask").type)
        pq.write_table(table.set_column(table.schema.get_field_index("mask"), "mask", masks), uri)
    path = Path(run_uri) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 4}))


def test_manifests_of_version_4_are_exported_upright(tmp_path: Path) -> None:
    run_uri = make_masks(tmp_path)
    export_all(run_uri, f"{tmp_path}/new", "fiftyone")
    write_as_version_4(run_uri)
    assert tagmask.open(run_uri).run.record["format_version"] == 4
    summary = export_all(run_uri, f"{tmp_path}/old", "fiftyone")
    assert summary.counts is not None
    assert (summary.counts.num_exported, dict(summary.counts.left_out)) == (len(NUMBERS), {"rejected": 1})
    masks = []
    for path in (tmp_path / "old" / "train" / "data").iterdir():
        mask = np.asarray(Image.open(tmp_path / "old" / "train" / "labels" / f"{path.stem}.png"))
        # Photos are bright where their mask is 1.
        assert ((np.asarray(Image.open(path))[..., 0] > 128) == (mask == 1)).all()
        assert path.read_bytes() == (tmp_path / "new" / "train" / "data" / path.name).read_bytes()
        masks.append(mask)
    assert len(masks) == len(NUMBERS)
    assert count_pixels(masks) == count_manifest_pixels(open_published(run_uri))
