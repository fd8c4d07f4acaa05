"""Corrected masks beside a run: which one counts, what it changes in a row, what a damaged or foreign file does."""

import pickle
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ManifestError
from pipeline.images.masks import decode_mask, encode_mask, voc_palette
from pipeline.published.decisions import RowId
from pipeline.published.overrides import (
    OVERRIDE_SCHEMA,
    OVERRIDES_FOLDER,
    ROWS_PER_GROUP,
    Override,
    encode_overrides,
    read_overrides,
)
from pipeline.published.rows import MaskRow, iterate_rows
from pipeline.published.run import open_published
from pipeline.run.records import InputShard
from pipeline.run.run_file import read_run
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.factories import make_labelled_row, make_rejected_row, make_run

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
KEYS = ("../../x", "a/b\\c", "<b>&\"'", "зрение 🐱", "line\nbreak", "x" * 300, "case", "Case", "rejected")


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    return publish(f"{tmp_path}/run")


def publish(uri: str) -> str:
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3] = 1
    rows = [make_labelled_row(key, mask, [1]) for key in KEYS[:-1]]
    shards = {
        InputShard(uri=f"/gone/{name}.tar", name=name, size_bytes=512, etag="e"): [*rows, make_rejected_row(KEYS[-1])]
        for name in ("photos-0", "photos-1")
    }
    make_run(uri, ("cat", "dog"), shards)
    return uri


def draw(value: int) -> bytes:
    mask = np.zeros((6, 8), np.uint8)
    mask[4, value % 8] = 2
    return encode_mask(mask, voc_palette())


def read_rows(run_uri: str, columns: Sequence[str] | None = None) -> dict[RowId, MaskRow]:
    run = open_published(run_uri)
    return {
        RowId(row.shard_name, row.index): row
        for uri in run.manifest_uris
        for row in iterate_rows(run, uri, columns=columns)
    }


def make_override(run_uri: str, row: MaskRow, **changes: Any) -> Override:
    plain: dict[str, Any] = {
        "shard": row.shard_name,
        "index": row.index,
        "key": row.key,
        "class_ids": (2,),
        "tool": "cvat",
        "source": "annotations.zip",
        "annotator": None,
        "time": NOON,
        "fingerprint": str(read_run(run_uri)["fingerprint"]),
        "image_sha256": row.get("image_sha256"),
        "mask_sha256": None,
    }
    return Override(**plain | changes)


def put(run_uri: str, name: str, payload: bytes) -> str:
    uri = join_uri(run_uri, OVERRIDES_FOLDER, f"{name}.parquet")
    put_atomic(uri, payload)
    return uri


def test_a_run_without_imports_has_none(run_uri: str) -> None:
    overrides = read_overrides(run_uri)
    row = read_rows(run_uri)[RowId("photos-0", 0)]
    assert not overrides
    assert overrides.find(row) is None
    assert overrides.apply(row) is row


def check_every_row(run_uri: str) -> None:
    rows = read_rows(run_uri)
    assert len(rows) > ROWS_PER_GROUP
    masks = [(make_override(run_uri, row), draw(place)) for place, row in enumerate(rows.values())]
    put(run_uri, "one", encode_overrides(masks))
    overrides = read_overrides(run_uri)
    assert set(overrides) == set(rows)
    for place, (row_id, row) in enumerate(rows.items()):
        found = overrides.find(row)
        assert found is not None
        assert (found.row_id, found.key) == (row_id, row.key)
        assert overrides.read_png(found) == draw(place)
        assert np.array_equal(overrides.read_mask(found), decode_mask(draw(place)))
        changed = overrides.apply(row)
        assert np.array_equal(changed.mask(), decode_mask(draw(place)))
        assert (changed.is_labelled, changed.get("reason")) == (True, None)
        assert (changed.class_names, changed.quality) == (("dog",), 1.0)
        assert changed.get("override_source") == "annotations.zip"


def test_each_row_gets_its_mask_whatever_its_key(run_uri: str) -> None:
    check_every_row(run_uri)


def test_each_row_gets_its_mask_on_a_store(s3_folder: str) -> None:
    check_every_row(publish(f"{s3_folder}/run"))


def test_the_latest_import_counts_whatever_its_name(run_uri: str) -> None:
    row = read_rows(run_uri)[RowId("photos-1", 2)]
    put(run_uri, "a", encode_overrides([(make_override(run_uri, row, time=NOON + timedelta(hours=1)), draw(5))]))
    put(run_uri, "b", encode_overrides([(make_override(run_uri, row), draw(6))]))
    overrides = read_overrides(run_uri)
    assert overrides.read_png(overrides[RowId("photos-1", 2)]) == draw(5)


def test_a_mask_does_not_apply_to_another_image(run_uri: str) -> None:
    row_id = RowId("photos-0", 1)
    row = read_rows(run_uri)[row_id]
    put(run_uri, "a", encode_overrides([(make_override(run_uri, row, image_sha256="0" * 64), draw(5))]))
    overrides = read_overrides(run_uri)
    assert overrides.find(row) is None
    assert overrides.apply(row) is row
    assert overrides.find(read_rows(run_uri, columns=["status"])[row_id]) is not None


def test_columns_that_were_not_read_stay_unread(run_uri: str) -> None:
    row_id = RowId("photos-0", 1)
    put(run_uri, "a", encode_overrides([(make_override(run_uri, read_rows(run_uri)[row_id]), draw(5))]))
    changed = read_overrides(run_uri).apply(read_rows(run_uri, columns=["quality"])[row_id])
    assert changed.quality == 1.0
    with pytest.raises(ValueError, match="was not read"):
        changed.mask()


def test_a_file_of_another_run_is_refused(run_uri: str) -> None:
    row = read_rows(run_uri)[RowId("photos-0", 1)]
    put(run_uri, "a", encode_overrides([(make_override(run_uri, row, fingerprint="f" * 64), draw(5))]))
    with pytest.raises(ManifestError, match=r"a\.parquet' holds masks of another run"):
        read_overrides(run_uri)


@pytest.mark.parametrize("kind", ["no Parquet", "cut off", "another table", "unknown tool"])
def test_a_damaged_file_is_named(run_uri: str, tmp_path: Path, kind: str) -> None:
    row = read_rows(run_uri)[RowId("photos-0", 1)]
    whole = encode_overrides([(make_override(run_uri, row), draw(5))])
    table = pq.read_table(pa.BufferReader(whole))
    if kind == "no Parquet":
        payload = b"no table"
    elif kind == "cut off":
        payload = whole[:-20]
    else:
        if kind == "another table":
            table = table.drop_columns(["source"])
        else:
            table = table.set_column(table.column_names.index("tool"), "tool", pa.array(["pencil"]))
        path = tmp_path / "x.parquet"
        pq.write_table(table, path)
        payload = path.read_bytes()
    put(run_uri, "broken", payload)
    with pytest.raises(ManifestError, match=r"broken\.parquet' is no table of corrected masks.*move it out"):
        read_overrides(run_uri)


def test_a_mask_that_is_no_png_is_named(run_uri: str) -> None:
    row = read_rows(run_uri)[RowId("photos-0", 1)]
    put(run_uri, "a", encode_overrides([(make_override(run_uri, row), b"no png")]))
    overrides = read_overrides(run_uri)
    with pytest.raises(ManifestError, match=r"a\.parquet', mask of 'a/b"):
        overrides.read_mask(overrides[RowId("photos-0", 1)])


def test_a_file_that_was_deleted_since_is_named(run_uri: str) -> None:
    row = read_rows(run_uri)[RowId("photos-0", 1)]
    uri = put(run_uri, "a", encode_overrides([(make_override(run_uri, row), draw(5))]))
    overrides = read_overrides(run_uri)
    Path(uri).unlink()
    with pytest.raises(ManifestError, match="does not exist any more"):
        overrides.read_png(overrides[row_id_of(row)])


def row_id_of(row: MaskRow) -> RowId:
    return RowId(row.shard_name, row.index)


def test_pixels_do_not_travel_to_other_processes(run_uri: str) -> None:
    row = read_rows(run_uri)[RowId("photos-0", 1)]
    put(run_uri, "a", encode_overrides([(make_override(run_uri, row), draw(5))]))
    overrides = read_overrides(run_uri)
    plain = len(pickle.dumps(overrides))
    overrides.read_png(overrides[row_id_of(row)])
    assert len(pickle.dumps(overrides)) == plain
    there = pickle.loads(pickle.dumps(overrides))
    assert there == overrides
    assert there.read_png(there[row_id_of(row)]) == draw(5)


def test_a_file_without_masks_is_a_table(run_uri: str) -> None:
    put(run_uri, "a", encode_overrides([]))
    assert not read_overrides(run_uri)
    assert pq.read_schema(join_uri(run_uri, OVERRIDES_FOLDER, "a.parquet")).names == OVERRIDE_SCHEMA.names
