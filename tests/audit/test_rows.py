"""Rows with a right digest and values that labelling never writes: each is named by its own check."""

import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.audit.shard import AuditRules, verify_shard
from pipeline.audit.verdict import Check
from pipeline.commit.encoding import FOOTER_KEY
from pipeline.images.masks import decode_mask
from pipeline.run.records import MANIFEST_SCHEMA
from tests.audit.published import seal_again
from tests.factories import make_mask_png
from tests.mutations import Output, label_photos

CAT, BOTH, DOG, UNKNOWN = 0, 1, 2, 3
"""Rows by their tags."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    return label_photos(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def audit_rows(output: Output) -> Iterator[Any]:
    """Change rows and seal them again; return the first example of each failed check."""

    def audit(change: Any, sample_fraction: float = 1.0) -> dict[str, Any]:
        file = pq.ParquetFile(io.BytesIO(output.manifest))
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
        rows = file.read().to_pylist()
        change(rows)
        starts = np.cumsum([0, *sizes])
        tables = [
            pa.Table.from_pylist(rows[start : start + size], schema=MANIFEST_SCHEMA)
            for start, size in zip(starts, sizes, strict=False)
        ]
        footer = json.loads(file.schema_arrow.metadata[FOOTER_KEY])
        seal_again(Path(output.item.manifest_uri), tables, footer)
        rules = AuditRules(record=output.rules.record, sample_fraction=sample_fraction)
        return {check: found.examples[0].text for check, found in verify_shard(output.item, rules).findings.items()}

    yield audit
    Path(output.item.manifest_uri).write_bytes(output.manifest)


def set_mask(row: Any, draw: Any) -> None:
    mask = decode_mask(row["mask"]["bytes"]).copy()
    row["mask"] = row["mask"] | {"bytes": make_mask_png(np.ascontiguousarray(draw(mask)))}


def recolour(row: Any) -> None:
    image = Image.open(io.BytesIO(row["mask"]["bytes"]))
    image.putpalette([*reversed(image.getpalette())])
    payload = io.BytesIO()
    image.save(payload, "PNG")
    row["mask"] = row["mask"] | {"bytes": payload.getvalue()}


def swap(rows: Any, one: Any, other: Any, *names: Any) -> None:
    for name in names:
        rows[one][name], rows[other][name] = rows[other][name], rows[one][name]


def damage_pixels(row: Any) -> None:
    """Give a mask compressed pixels that are none, in chunks with right checksums."""
    payload = row["mask"]["bytes"]
    start = payload.index(b"IDAT") - 4
    length = int.from_bytes(payload[start : start + 4], "big")
    content = b"IDAT" + bytes(length)
    chunk = length.to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big")
    row["mask"] = row["mask"] | {"bytes": payload[:start] + chunk + payload[start + 12 + length :]}


def fill(value: Any) -> Callable[..., Any]:
    return lambda mask: np.full_like(mask, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[CAT]["mask"].update(bytes=rows[CAT]["mask"]["bytes"][:-20]), "is truncated"),
        (lambda rows: rows[CAT]["mask"].update(bytes=rows[CAT]["mask"]["bytes"] + b"more"), "is truncated"),
        (lambda rows: rows[CAT]["mask"].update(bytes=b"GIF89a"), "is no PNG"),
        (lambda rows: set_mask(rows[CAT], lambda mask: mask[:-1]), "pixels, its image"),
        (lambda rows: set_mask(rows[CAT], fill(200)), "pixels of [200]"),
        (lambda rows: set_mask(rows[CAT], fill(2)), "pixels of [2]"),
        (lambda rows: set_mask(rows[BOTH], np.vectorize({0: 0, 1: 2, 2: 1, 255: 255}.get)), "area_fraction"),
        (lambda rows: recolour(rows[CAT]), "another palette"),
        (lambda rows: damage_pixels(rows[CAT]), "has a mask that cannot be decoded"),
        (lambda rows: swap(rows, CAT, 8, "mask"), "row 0"),
        (lambda rows: swap(rows, CAT, DOG, "mask"), "row 0"),
        (lambda rows: rows[CAT].update(background_fraction=0.5), "background_fraction 0.5"),
        (lambda rows: rows[CAT].update(ignore_fraction=0.5), "ignore_fraction 0.5"),
        (lambda rows: rows[BOTH]["classes"][1].update(area_fraction=0.25), "area_fraction of class 2"),
        (lambda rows: rows[BOTH]["classes"][1].update(components=50), "50 components of class 2"),
        (lambda rows: rows[BOTH]["classes"][1].update(confidence_mean=None), "confidence_mean None"),
    ],
)
def test_mask_that_contradicts_its_row_is_named(audit_rows: Any, change: Callable[..., Any], words: str) -> None:
    found = audit_rows(change)
    assert found.keys() == {Check.WRONG_MASKS}
    assert words in found[Check.WRONG_MASKS]


@pytest.mark.parametrize(
    ("row", "cells", "words"),
    [
        (CAT, {"class_ids": None}, "lacks class_ids"),
        (CAT, {"classes": None}, "lacks classes"),
        (BOTH, {"class_ids": [2]}, "statistics of other classes"),
        (CAT, {"class_ids": [3]}, "ascending ids from 1 to 2"),
        (BOTH, {"class_ids": [2, 1]}, "ascending ids"),
        (CAT, {"quality": float("nan")}, "quality nan"),
        (CAT, {"quality": 0.123}, "by its classes it is"),
        (CAT, {"entropy_mean": float("inf")}, "entropy_mean inf"),
        (CAT, {"margin_mean": -0.1}, "margin_mean -0.1"),
        (CAT, {"width": 0}, "width 0"),
        (CAT, {"exif_orientation": 9}, "exif_orientation 9"),
        (CAT, {"image_sha256": "0" * 63}, "image_sha256"),
        (CAT, {"error": "none"}, "the error 'none'"),
        (CAT, {"suggested_class_ids": [1]}, "suggests classes that it has"),
        (CAT, {"doubtful_class_ids": [1]}, "doubtful_class_ids [1]"),
        (CAT, {"class_maps": None}, "no class_maps"),
        (CAT, {"mask": {"bytes": None, "path": "photo0.png"}}, "no bytes"),
        (CAT, {"mask": {"bytes": b"", "path": "../../photo0.png"}}, "path '../../photo0.png'"),
        (CAT, {"shard": "s3://bucket/other.tar"}, "has the shard 's3://bucket/other.tar', its footer"),
        (CAT, {"image_offset": -1}, "has the image_offset -1"),
        (CAT, {"image_bytes": None}, "image_bytes None"),
        (CAT, {"image_uri": "s3://bucket/a.jpg"}, "image_uri 's3://bucket/a.jpg'"),
        (UNKNOWN, {"image_bytes": None}, "image_bytes None"),
        (UNKNOWN, {"quality": 0.5}, "is rejected and has quality"),
        (UNKNOWN, {"error": None}, "without an error"),
        (UNKNOWN, {"class_ids": [7]}, "class_ids [7]"),
    ],
)
def test_row_whose_columns_do_not_fit_is_inconsistent(
    audit_rows: Any, row: int, cells: dict[str, Any], words: str
) -> None:
    found = audit_rows(lambda rows: rows[row].update(cells))
    assert found.keys() - {Check.WRONG_IMAGES} == {Check.INCONSISTENT_ROWS}
    assert words in found[Check.INCONSISTENT_ROWS]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row["classes"][0].update(presence=float("nan")), "presence nan"),
        (lambda row: row["classes"][0].update(raw_peak=float("inf")), "raw_peak inf"),
        (lambda row: row["classes"][0].update(stability=1.5), "stability 1.5"),
        (lambda row: row["classes"][0].update(components=-1), "-1 components"),
        (lambda row: row["class_maps"]["scales"].append(0.5), "2 class_maps"),
        (lambda row: row["class_maps"].update(height=0), "class_maps of 0 x"),
        (lambda row: row["class_maps"].update(values=row["class_maps"]["values"][:-1]), "bytes, need 1 of"),
        (lambda row: row["class_maps"].update(scales=[float("nan")]), "scales are not the raw_peak"),
        (lambda row: row["class_maps"].update(values=bytes([7]) * len(row["class_maps"]["values"])), "from 0 to 255"),
    ],
)
def test_row_whose_nested_columns_do_not_fit_is_inconsistent(
    audit_rows: Any, change: Callable[..., Any], words: str
) -> None:
    found = audit_rows(lambda rows: change(rows[CAT]))
    assert found.keys() == {Check.INCONSISTENT_ROWS}
    assert words in found[Check.INCONSISTENT_ROWS]


def test_rejected_row_with_an_unknown_reason_is_inconsistent_and_contradicts_the_footer(audit_rows: Any) -> None:
    found = audit_rows(lambda rows: rows[UNKNOWN].update(reason="felt_like_it"))
    assert found.keys() == {Check.INCONSISTENT_ROWS, Check.WRONG_COUNTS}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: swap(rows, CAT, 8, "image_sha256"), "has the image_sha256 of another image"),
        (lambda rows: rows[CAT].update(width=49), "has 49 x 48 pixels"),
        (lambda rows: swap(rows, CAT, 8, "image_offset", "image_bytes"), "states its image at offset"),
        (lambda rows: rows[CAT].update(image_offset=rows[CAT]["image_offset"] + 1), "states its image at offset 513"),
        (lambda rows: rows[CAT].update(image_bytes=rows[CAT]["image_bytes"] - 1), "has the image_bytes"),
        (lambda rows: rows[UNKNOWN].update(image_offset=None, image_bytes=None), "states its image at offset None"),
    ],
)
def test_image_that_is_not_the_one_of_its_row_is_named(audit_rows: Any, change: Callable[..., Any], words: str) -> None:
    found = audit_rows(change)
    assert Check.WRONG_IMAGES in found
    assert words in found[Check.WRONG_IMAGES]


def test_size_that_is_not_the_one_of_the_image_is_named_even_if_the_mask_has_it(audit_rows: Any) -> None:
    def halve(rows: Any) -> None:
        set_mask(rows[CAT], lambda mask: mask[:, :1].repeat(4, axis=1))
        rows[CAT]["width"] = 4

    found = audit_rows(halve)
    assert "4 x 48 pixels in orientation 1, its image 48 x 48" in found[Check.WRONG_IMAGES]


def test_sample_looks_at_masks_and_images_of_the_same_rows_every_time(audit_rows: Any, output: Output) -> None:
    def spoil(rows: Any) -> None:
        for row in rows:
            if row["status"] == "labelled":
                row["background_fraction"] = 0.987

    assert Check.WRONG_MASKS in audit_rows(spoil)
    assert audit_rows(spoil, sample_fraction=0.0) == {}
    keys = [f"photo{i}" for i in range(2000)]
    few, more = (
        [key for key in keys if AuditRules(record=output.rules.record, sample_fraction=share).chooses(key)]
        for share in (0.1, 0.3)
    )
    assert set(few) < set(more)
    assert 150 < len(few) < 250
    assert 500 < len(more) < 700
