"""Random damage: to the bytes of a file, to the values of a manifest, to the record of a run."""

import copy
import io
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audit.shard import AuditRules, PublishedShard, verify_shard
from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.bundles import load_bundle
from pipeline.commit.encoding import DICTIONARY_COLUMNS, FOOTER_KEY
from pipeline.images.masks import decode_mask
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.run.config import InputConfig, LabelConfig, MapConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.records import MANIFEST_SCHEMA
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import Vocabulary
from tests.factories import make_mask_png, make_photo, make_tar, save_small_model
from tests.fakes import SerialCluster

VERSION_DIGITS = re.compile(rb"parquet-cpp-arrow version (\d+\.\d+\.\d+)")


@dataclass
class Output:
    """A small run labelled by a real model, and one of its valid manifests."""

    folder: Path
    manifest: bytes
    item: PublishedShard
    rules: AuditRules

    def list_findings(self, manifest: bytes) -> list[str]:
        """Audit the shard with other bytes as its manifest; return the failed checks."""
        Path(self.item.manifest_uri).write_bytes(manifest)
        try:
            return [str(check) for check in verify_shard(self.item, self.rules).failed_checks]
        finally:
            Path(self.item.manifest_uri).write_bytes(self.manifest)


def label_photos(folder: Path) -> Output:
    """Label twelve photos in chunks of five: some of two classes, some without a known tag, one undecodable.

    Their archive has members of three other kinds.
    """
    tags = [["cat"], ["cat", "dog"], ["dog"], ["sunset"]]
    samples = {
        f"photo{i}": {"jpg": make_photo(i), "json": json.dumps({"tags": tags[i % 4]}).encode()} for i in range(12)
    }
    samples["photo5"]["jpg"] = b"broken"
    samples |= {"photo1": samples["photo1"] | {"png": b"", "csv": b""}, ".hidden": {"jpg": b""}, ".more": {"jpg": b""}}
    make_tar(folder / "photos.tar", samples)
    save_small_model(str(folder / "model"))
    maps = MapConfig(keep_maps=True, background_threshold=0.3, foreground_threshold=0.5)
    run = open_run(
        out_uri=str(folder / "out"),
        model_uri=str(folder / "model"),
        model_digest=load_bundle(str(folder / "model"))[2],
        vocabulary=Vocabulary(classes=("cat", "dog")),
        config=LabelConfig(inputs=InputConfig(max_chunk_samples=5), views=ViewConfig(num_patches=16), maps=maps),
        shards=list_shards([str(folder / "photos.tar")]),
    )
    options = LabelOptions(gpus_per_actor=0.0, device="cpu", max_rejected_fraction=1.0)
    label_run(run, options, cluster=SerialCluster())
    listing = list_run(run.out_uri)
    if findings := verify_run(listing, FULL).findings:
        raise ValueError(f"the audit of the undamaged output failed: {findings}")
    (item,) = listing.published
    return Output(folder, Path(item.manifest_uri).read_bytes(), item, AuditRules(record=listing.record))


def mutate_bytes(payload: bytes, rng: random.Random) -> bytes:
    """Damage bits, bytes and runs of bytes of a file; half of the times in its last quarter, where the footer is."""
    damaged = bytearray(payload)
    low = rng.choice([0, 3 * len(payload) // 4])
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place = rng.randrange(low, len(damaged)) if low < len(damaged) else 0
        length = rng.choice([1, 2, 4, 8, 100])
        match rng.choice(["bit", "bit", "byte", "byte", "step", "zeros", "noise", "remove", "insert", "copy", "end"]):
            case "bit":
                damaged[place] ^= 1 << rng.randrange(8)
            case "byte":
                damaged[place] = rng.randrange(256)
            case "step":
                damaged[place] = (damaged[place] + rng.choice([1, 255])) % 256
            case "zeros":
                damaged[place : place + length] = bytes(len(damaged[place : place + length]))
            case "noise":
                damaged[place : place + length] = rng.randbytes(len(damaged[place : place + length]))
            case "remove":
                del damaged[place : place + length]
            case "insert":
                damaged[place:place] = rng.randbytes(length)
            case "copy":
                start = rng.randrange(len(damaged))
                damaged[place : place + length] = damaged[start : start + len(damaged[place : place + length])]
            case "end":
                del damaged[len(damaged) - length :]
    return bytes(damaged)


def is_harmless(before: bytes, after: bytes) -> bool:
    """Check whether two manifests differ only in the version of the library that wrote them.

    Readers show this number and do not depend on it. No other byte of a manifest is without effect.
    """
    found, other = VERSION_DIGITS.search(before), VERSION_DIGITS.search(after)
    if not found or not other or len(before) != len(after):
        return before == after
    return before[: found.start(1)] + before[found.end(1) :] == after[: other.start(1)] + after[other.end(1) :]


def is_same_content(before: bytes, after: bytes) -> bool:
    """Check whether two texts are the same JSON. Spaces and escapes are harmless; repeated keys are not."""
    try:
        return json.loads(before) == json.loads(after, object_pairs_hook=_require_different_keys)
    except (ValueError, RecursionError):
        return False


def is_older_record(before: bytes, after: bytes) -> bool:
    """Check whether a run.json lost its digest and no other field: older versions wrote such files."""
    try:
        fields = json.loads(after, object_pairs_hook=_require_different_keys)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.keys() == json.loads(before).keys() - {"record_sha256"}


def _require_different_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("equal keys")
    return dict(pairs)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A manifest with changed values in valid Parquet."""

    kind: str
    payload: bytes
    is_changed: bool
    """False if the random values equal the old ones."""


def mutate_values(
    payload: bytes, rng: random.Random, edit_footer: Callable[[dict], dict] = lambda footer: footer
) -> Mutant:
    """Change values of a manifest and write it like our writer, with its footer.

    Args:
        payload: The manifest.
        rng: Source of the changes.
        edit_footer: Changes the manifest's own metadata.
    """
    file = pq.ParquetFile(io.BytesIO(payload))
    footer = json.dumps(edit_footer(json.loads(file.schema_arrow.metadata[FOOTER_KEY])), sort_keys=True)
    # Parquet has other names for the elements of lists.
    schema = MANIFEST_SCHEMA.with_metadata(file.schema_arrow.metadata | {FOOTER_KEY: footer.encode()})
    groups = [file.read_row_group(index).cast(schema) for index in range(file.num_row_groups)]
    kind = rng.choice(sorted(_SCHEMA_CHANGES)) if rng.random() < 0.1 else ""
    if kind:
        share = rng.random()
        changed = [_SCHEMA_CHANGES[kind](table, share) for table in groups]
        return Mutant(kind=kind, payload=write_groups(changed, changed[0].schema, footer), is_changed=True)
    rows = [table.to_pylist() for table in groups]
    before = copy.deepcopy(rows)
    kind = rng.choice(["cell", "cell", "cell", "null", "swap", "mask", "mask", "rows"])
    while True:
        _ROW_CHANGES[kind](rows, rng, schema)
        try:
            changed = [pa.Table.from_pylist(group, schema=schema) for group in rows]
            written = write_groups(changed, schema, footer)
        except (pa.ArrowInvalid, OverflowError):
            # A null in a required column, or a value out of range, cannot be written.
            rows = copy.deepcopy(before)
            continue
        is_changed = repr([table.to_pylist() for table in changed]) != repr(before)
        return Mutant(kind=kind, payload=written, is_changed=is_changed)


def mutate_members(footer: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Change the members that a footer counts: a number, a kind, an example, or drop any of it."""
    changed = copy.deepcopy(footer)
    members = changed["members"]
    kind = rng.choice(sorted(members["passed_over"]))
    entry = members["passed_over"][kind]
    step = rng.choice([-1, 1, 1000])
    match rng.choice(["field", "num", "kind num", "both", "rename", "drop", "add", "example", "move"]):
        case "field":
            del changed["members"]
        case "num":
            members["num"] += step
        case "kind num":
            entry["num"] += step
        case "both":
            members["num"] += step
            entry["num"] += step
        case "rename":
            members["passed_over"][rng.choice(["truncated", "second_member", "", "folder"])] = entry
            del members["passed_over"][kind]
        case "drop":
            del members["passed_over"][kind]
            members["num"] -= rng.choice([0, entry["num"]])
        case "add":
            members["passed_over"]["directory"] = {"num": 1, "example": "a"}
            members["num"] += rng.choice([0, 1])
        case "example":
            entry["example"] = rng.choice(["", "x", entry["example"] + "x", None])
        case "move":
            other = rng.choice(sorted(members["passed_over"].keys() - {kind}))
            members["passed_over"][other]["num"] += 1
            entry["num"] -= 1
    return changed


def replace_footer(payload: bytes, edit_footer: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """Write a manifest again with another footer and the same rows."""
    file = pq.ParquetFile(io.BytesIO(payload))
    footer = json.dumps(edit_footer(json.loads(file.schema_arrow.metadata[FOOTER_KEY])), sort_keys=True)
    groups = [file.read_row_group(index).cast(MANIFEST_SCHEMA) for index in range(file.num_row_groups)]
    return write_groups(groups, MANIFEST_SCHEMA.with_metadata(file.schema_arrow.metadata), footer)


def write_groups(groups: Sequence[pa.Table], schema: pa.Schema, footer: str) -> bytes:
    """Write tables as the row groups of a manifest, with the texts of the schema, of which the footer is another."""
    sink = io.BytesIO()
    schema = schema.with_metadata((schema.metadata or {}) | {FOOTER_KEY: footer.encode()})
    dictionaries = [name for name in DICTIONARY_COLUMNS if name in schema.names]
    with pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=dictionaries, write_page_checksum=True
    ) as writer:
        for table in groups:
            if table.num_rows:
                writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=table.num_rows)
    return sink.getvalue()


def _change_cell(groups: list[list[dict]], rng: random.Random, schema: pa.Schema) -> None:
    row = rng.choice(rng.choice(groups))
    name = rng.choice(schema.names)
    row[name] = _vary(row[name], schema.field(name).type, rng)


def _vary(value: Any, kind: pa.DataType, rng: random.Random) -> Any:
    """Another value of a type, near the old one or far from it."""
    types = pa.types
    if types.is_struct(kind) and value is not None:
        child = kind.field(rng.randrange(kind.num_fields))
        return value | {child.name: _vary(value[child.name], child.type, rng)}
    if types.is_list(kind) and value:
        place = rng.randrange(len(value))
        changed = [_vary(value[place], kind.value_type, rng)]
        return rng.choice(
            [value[:place] + changed + value[place + 1 :], value[:-1], value + value[:1], value[::-1], []]
        )
    if types.is_list(kind):
        return rng.choice([[], None])
    if types.is_struct(kind):
        return None
    if types.is_string(kind):
        return rng.choice([f"{value}x", (value or "")[:-1], "", "labelled", "rejected", "no_image", "../x", None])
    if types.is_binary(kind):
        return rng.choice([(value or b"")[:-1], (value or b"") + b"x", b"", mutate_bytes(value or b"x", rng)])
    if types.is_floating(kind):
        return rng.choice(
            [float("nan"), float("inf"), -0.5, 1.5, 0.123, (value or 0) + 0.01, (value or 0) * 0.99, None]
        )
    return rng.choice([(value or 0) + 1, (value or 0) - 1, 0, 120, -1, None])


def _null_cell(groups: list[list[dict]], rng: random.Random, schema: pa.Schema) -> None:
    rng.choice(rng.choice(groups))[rng.choice([field.name for field in schema if field.nullable])] = None


def _swap_cells(groups: list[list[dict]], rng: random.Random, schema: pa.Schema) -> None:
    one, other = (rng.choice(rng.choice(groups)) for _ in range(2))
    name = rng.choice(["mask", "mask", *schema.names])
    one[name], other[name] = other[name], one[name]


def _change_mask(groups: list[list[dict]], rng: random.Random, schema: pa.Schema) -> None:
    labelled = [row for group in groups for row in group if row["mask"]]
    row = rng.choice(labelled)
    mask = decode_mask(row["mask"]["bytes"]).copy()
    height, width = mask.shape
    match rng.choice(["pixel", "block", "class", "size", "turn", "flip", "truncate"]):
        case "pixel":
            mask[rng.randrange(height), rng.randrange(width)] = rng.choice([0, 1, 2, 3, 200, 255])
        case "block":
            mask[: rng.randrange(1, height), : rng.randrange(1, width)] = rng.choice([0, 1, 2, 255])
        case "class":
            mask[mask == rng.choice([0, 1, 2])] = rng.choice([0, 1, 2, 200, 255])
        case "size":
            mask = np.pad(mask, ((0, rng.randrange(2)), (0, 1)))
        case "turn":
            mask = np.rot90(mask)
        case "flip":
            # Keeps all measures of a mask.
            mask = mask[::-1] if rng.random() < 0.5 else mask[:, ::-1]
        case "truncate":
            row["mask"] = row["mask"] | {"bytes": row["mask"]["bytes"][: -rng.randrange(1, 40)]}
            return
    row["mask"] = row["mask"] | {"bytes": make_mask_png(np.ascontiguousarray(mask))}


def _change_rows(groups: list[list[dict]], rng: random.Random, schema: pa.Schema) -> None:
    group = rng.choice(groups)
    place = rng.randrange(len(group))
    match rng.choice(["drop", "double", "swap"]):
        case "drop":
            del group[place]
        case "double":
            group.insert(place, dict(group[place]))
        case "swap":
            other = rng.randrange(len(group))
            group[place], group[other] = group[other], group[place]


_ROW_CHANGES = {
    "cell": _change_cell,
    "null": _null_cell,
    "swap": _swap_cells,
    "mask": _change_mask,
    "rows": _change_rows,
}

_SCHEMA_CHANGES: dict[str, Callable[[pa.Table, float], pa.Table]] = {
    "column dropped": lambda table, share: table.remove_column(int(share * table.num_columns)),
    "column renamed": lambda table, share: table.rename_columns(
        [
            f"{name}x" if place == int(share * table.num_columns) else name
            for place, name in enumerate(table.column_names)
        ]
    ),
    "column widened": lambda table, share: table.set_column(
        table.schema.get_field_index("quality"), "quality", table["quality"].cast(pa.float64())
    ),
    "column added": lambda table, share: table.append_column("extra", pa.nulls(table.num_rows, pa.int32())),
}
