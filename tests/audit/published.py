"""Published runs over real tars, changed and audited."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audit.verdict import Check, Verdict
from pipeline.audit.verify import FULL, Depth, list_run, verify_run
from pipeline.commit.encoding import FOOTER_KEY
from pipeline.commit.manifests import publish_manifest
from pipeline.inputs.shards import list_shards
from pipeline.run.config import LabelConfig, MapConfig
from pipeline.run.fingerprint import compute_fingerprint
from tests.factories import make_labelled_row, make_photo, make_rejected_row, make_run, make_tar

NUM_ROWS = 6
MASK = np.array([[0, 1], [2, 255]])
CONFIG = LabelConfig(maps=MapConfig(background_threshold=0.3, foreground_threshold=0.5))


def list_keys(shard_number: int, num_rows: int = NUM_ROWS) -> list[str]:
    return [f"s{shard_number}/photo{i}" for i in range(num_rows)]


def make_image(key: str) -> bytes:
    """Encode the image of a sample, as large as `MASK` and distinct for each key."""
    return make_photo(sum(key.encode()), size=(2, 2), image_format="PNG")


def make_rows(keys: Sequence[str], mask: np.ndarray = MASK) -> list[dict[str, Any]]:
    return [
        make_rejected_row(key) if i % 3 == 0 else make_labelled_row(key, mask, [1, 2], photo=make_image(key))
        for i, key in enumerate(keys)
    ]


def publish(folder: Path, num_shards: int = 3, num_rows: int = NUM_ROWS) -> Path:
    """Publish a run over real tars in the folder `inputs` beside it; return its output folder."""
    for number in range(num_shards):
        samples = {key: {"jpg": make_image(key), "json": b"{}"} for key in list_keys(number, num_rows)}
        make_tar(folder / "inputs" / f"{number}.tar", samples)
    shards = list_shards([str(folder / "inputs")])
    make_run(
        str(folder / "out"),
        ["cat", "dog"],
        {shard: make_rows(list_keys(number, num_rows)) for number, shard in enumerate(shards)},
        CONFIG,
    )
    return folder / "out"


def rewrite(manifest: Path, *, rows: Sequence[int] | None = None, footer: Mapping[str, Any] | None = None) -> None:
    """Seal a manifest again with other rows, renumbered, or another footer."""
    table = pq.read_table(manifest)
    stated = json.loads(table.schema.metadata[FOOTER_KEY])
    if rows is not None:
        table = table.take(pa.array(rows, pa.int64())).set_column(
            1, table.schema.field("index"), pa.array(range(len(rows)), pa.int64())
        )
        stated["chunks"] = [[len(rows), stated["chunks"][0][1]]] if rows else []
    tables = [table] if table.num_rows else []
    publish_manifest(str(manifest.parents[1]), manifest.stem, tables, stated | (footer or {}))


def drop_members(manifest: Path, **footer: Any) -> None:
    """Seal a manifest again without the members of its archive, and with other fields."""
    file = pq.ParquetFile(manifest)
    stated = json.loads(file.schema_arrow.metadata[FOOTER_KEY])
    del stated["members"]
    tables = [file.read_row_group(number) for number in range(file.num_row_groups)]
    publish_manifest(str(manifest.parents[1]), manifest.stem, tables, stated | footer)


def make_old(out: Path) -> None:
    """Turn a run into one of format version 2, whose footers count no members."""
    path = out / "run.json"
    record = {name: value for name, value in json.loads(path.read_text()).items() if name != "record_sha256"}
    identity = ("config", "format_version", "inputs", "model_digest", "vocabulary")
    record["format_version"] = 2
    record["fingerprint"] = compute_fingerprint({name: record[name] for name in identity})
    path.write_text(json.dumps(record | {"record_sha256": compute_fingerprint(record)}))
    for manifest in (out / "labels").iterdir():
        drop_members(manifest, fingerprint=record["fingerprint"])


def change_cell(manifest: Path, row: int, **cells: Any) -> None:
    """Seal a manifest again with other cells in one row, so that its digest is right."""
    table = pq.read_table(manifest)
    rows = table.to_pylist()
    rows[row] |= cells
    changed = pa.Table.from_pylist(rows, schema=table.schema)
    publish_manifest(str(manifest.parents[1]), manifest.stem, [changed], json.loads(table.schema.metadata[FOOTER_KEY]))


def audit(out: Path | str, depth: Depth = FULL) -> Verdict:
    return verify_run(list_run(str(out)), depth)


def count_findings(verdict: Verdict) -> dict[Check, tuple[int, int]]:
    return {check: (found.num_shards, found.num_rows) for check, found in verdict.findings.items()}


def get_examples(verdict: Verdict, check: Check) -> list[str]:
    return [example.text for example in verdict.findings[check].examples]
