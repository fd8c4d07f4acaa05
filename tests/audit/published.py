"""Published runs over real tars, changed and audited."""

import hashlib
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
from pipeline.run.records import MANIFEST_SCHEMA, PLACE_COLUMNS
from tests.factories import make_labelled_row, make_photo, make_rejected_row, make_run, make_tar
from tests.mutations import write_groups

NUM_ROWS = 6
MASK = np.array([[0, 1], [2, 255]])
OLD_SCHEMA = pa.schema(
    [
        field.with_type(pa.list_(pa.int16())) if field.name.endswith("class_ids") else field
        for field in MANIFEST_SCHEMA
        if field.name not in ("shard", *PLACE_COLUMNS)
    ]
)
"""Of format versions 2 to 4."""
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
    seal_again(manifest, [table] if table.num_rows else [], stated | (footer or {}))


def seal_again(manifest: Path, tables: Sequence[pa.Table], footer: Mapping[str, Any]) -> None:
    """Publish a manifest with other rows and another footer, and the texts that it has."""
    if tables and "shard" not in tables[0].schema.names:
        # Of an older version: its digest is not made here.
        groups = [table.cast(OLD_SCHEMA) for table in tables]
        manifest.write_bytes(write_groups(groups, OLD_SCHEMA, json.dumps(dict(footer), sort_keys=True)))
        return
    texts = pq.read_schema(manifest).metadata
    others = {key: text for key, text in texts.items() if key != FOOTER_KEY}
    publish_manifest(str(manifest.parents[1]), manifest.stem, tables, dict(footer), others)


def drop_members(manifest: Path) -> None:
    """Seal a manifest again without the members of its archive."""
    file = pq.ParquetFile(manifest)
    stated = json.loads(file.schema_arrow.metadata[FOOTER_KEY])
    del stated["members"]
    seal_again(manifest, [file.read_row_group(number) for number in range(file.num_row_groups)], stated)


def make_old(out: Path, format_version: int = 2) -> None:
    """Turn a run of unturned images into one of an earlier format version. Footers of version 2 count no members."""
    path = out / "run.json"
    record = {name: value for name, value in json.loads(path.read_text()).items() if name != "record_sha256"}
    identity = ("config", "format_version", "inputs", "model_digest", "vocabulary")
    record["format_version"] = format_version
    record["fingerprint"] = compute_fingerprint({name: record[name] for name in identity})
    path.write_text(json.dumps(record | {"record_sha256": compute_fingerprint(record)}))
    for manifest in (out / "labels").iterdir():
        _make_old_manifest(manifest, record["fingerprint"], format_version)


def _make_old_manifest(manifest: Path, fingerprint: str, format_version: int) -> None:
    file = pq.ParquetFile(manifest)
    groups = [
        file.read_row_group(number).select(OLD_SCHEMA.names).cast(OLD_SCHEMA) for number in range(file.num_row_groups)
    ]
    rows = [json.dumps(row, default=bytes.hex) for group in groups for row in group.to_pylist()]
    stated = json.loads(file.schema_arrow.metadata[FOOTER_KEY]) | {"fingerprint": fingerprint}
    stated["rows_sha256"] = hashlib.sha256("".join(f"{row}\n" for row in rows).encode()).hexdigest()
    if format_version == 2:
        stated.pop("members", None)
    manifest.write_bytes(write_groups(groups, OLD_SCHEMA, json.dumps(stated, sort_keys=True)))


def change_cell(manifest: Path, row: int, **cells: Any) -> None:
    """Seal a manifest again with other cells in one row, so that its digest is right."""
    table = pq.read_table(manifest)
    rows = table.to_pylist()
    rows[row] |= cells
    changed = pa.Table.from_pylist(rows, schema=table.schema)
    seal_again(manifest, [changed], json.loads(table.schema.metadata[FOOTER_KEY]))


def audit(out: Path | str, depth: Depth = FULL) -> Verdict:
    return verify_run(list_run(str(out)), depth)


def count_findings(verdict: Verdict) -> dict[Check, tuple[int, int]]:
    return {check: (found.num_shards, found.num_rows) for check, found in verdict.findings.items()}


def get_examples(verdict: Verdict, check: Check) -> list[str]:
    return [example.text for example in verdict.findings[check].examples]
