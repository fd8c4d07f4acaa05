"""Parts and manifests: what is published, and what is refused."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commit.encoding import FOOTER_KEY
from pipeline.commit.names import PartName, locate_manifest, locate_part, parse_part_name
from pipeline.commit.parts import commit_part, encode_part
from pipeline.commit.seal import CompleteShard, seal_shard
from pipeline.errors import ManifestError, RejectionLimitError
from pipeline.run.records import MANIFEST_SCHEMA, PART_SCHEMA, InputShard
from pipeline.storage.listing import exists, list_objects
from pipeline.storage.reading import read_bytes

FINGERPRINT = "f" * 64
SHARD = InputShard(uri="photos/a.tar", name="a", size_bytes=10_000, etag="1")


def make_rows(*rows: Any) -> pa.Table:
    """Rows of a part: a key alone is labelled, a pair is a key and the reason for its rejection."""
    fields = [
        {"key": row[0], "status": "rejected", "reason": row[1]}
        if isinstance(row, tuple)
        else {
            "key": row,
            "status": "labelled",
            "width": 4,
            "height": 3,
            "mask": {"bytes": b"png " + row.encode(), "path": row},
        }
        for row in rows
    ]
    return pa.Table.from_pylist(fields, schema=PART_SCHEMA)


def commit(out_uri: Any, *chunks: Any) -> list[Any]:
    names = []
    for index, rows in enumerate(chunks):
        part = PartName(chunk_index=index, end_offset=1000 * (index + 1))
        commit_part(out_uri, "a", part, encode_part(make_rows(*rows), FINGERPRINT, "a", index))
        names.append(part)
    return names


def seal(out_uri: Any, parts: Any, *, shard: Any = SHARD, truncated_at: Any = None, **changes: Any) -> Any:
    complete = CompleteShard(shard=shard, parts=tuple(parts), truncated_at=truncated_at)
    arguments = {"out_uri": out_uri, "fingerprint": FINGERPRINT, "max_rejected_fraction": 0.5, "class_texts": {}}
    return seal_shard(complete, **arguments | changes).counts


def read_manifest(out_uri: Any) -> pa.Table:
    return pq.read_table(io.BytesIO(read_bytes(locate_manifest(out_uri, "a"))))


def test_sealed_shard_holds_every_row_in_order_with_balanced_books(tmp_path: Path) -> None:
    out_uri = str(tmp_path)
    parts = commit(out_uri, ["k1", ("k2", "undecodable")], ["k0"], [("k3", "no_known_tag")])
    counts = seal(out_uri, parts)
    table = read_manifest(out_uri)
    assert table.schema.remove_metadata().equals(MANIFEST_SCHEMA)
    assert table["key"].to_pylist() == ["k1", "k2", "k0", "k3"]
    assert table["index"].to_pylist() == [0, 1, 2, 3]
    assert (counts.num_read, counts.num_labelled, counts.num_rejected) == (4, 2, 2)
    assert counts.rejected_by_reason == {"undecodable": 1, "no_known_tag": 1}


def test_manifest_footer_names_run_shard_and_counts(tmp_path: Path) -> None:
    parts = commit(str(tmp_path), ["k1", "k2"])
    seal(str(tmp_path), parts, truncated_at=512)
    footer = json.loads(read_manifest(str(tmp_path)).schema.metadata[FOOTER_KEY])
    assert footer["fingerprint"] == FINGERPRINT
    assert footer["shard"] == {"uri": "photos/a.tar", "name": "a", "size_bytes": 10_000, "etag": "1"}
    assert footer["counts"]["num_read"] == 2
    assert footer["truncated_at"] == 512


def test_sealing_removes_the_parts_and_sealing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    out_uri = str(tmp_path)
    parts = commit(out_uri, ["k1"], ["k2"])
    seal(out_uri, parts)
    first = read_bytes(locate_manifest(out_uri, "a"))
    assert not any(exists(locate_part(out_uri, "a", part)) for part in parts)
    commit(out_uri, ["k1"], ["k2"])
    seal(out_uri, parts)
    assert read_bytes(locate_manifest(out_uri, "a")) == first


def test_shard_without_samples_seals_to_an_empty_manifest(tmp_path: Path) -> None:
    seal(str(tmp_path), [])
    assert read_manifest(str(tmp_path)).num_rows == 0


def test_repeated_key_is_rejected_and_loses_its_mask_across_chunks(tmp_path: Path) -> None:
    parts = commit(str(tmp_path), ["k1", "k2"], ["k3", "k1", "k4"])
    counts = seal(str(tmp_path), parts)
    rows = read_manifest(str(tmp_path)).to_pylist()
    assert [row["status"] for row in rows] == ["labelled", "labelled", "labelled", "rejected", "labelled"]
    assert rows[3]["reason"] == "duplicate_key"
    assert rows[3]["mask"] is None
    assert counts.rejected_by_reason == {"duplicate_key": 1}


def test_fragment_without_image_of_a_seen_key_is_a_split_sample(tmp_path: Path) -> None:
    parts = commit(str(tmp_path), ["k1", ("k1", "no_image"), "k2"])
    seal(str(tmp_path), parts)
    assert read_manifest(str(tmp_path))["reason"].to_pylist() == [None, "split_sample", None]


def test_missing_chunk_is_refused(tmp_path: Path) -> None:
    parts = commit(str(tmp_path), ["k1"], ["k2"], ["k3"])
    with pytest.raises(ManifestError, match=r"chunks \[0, 2\] are not 0 to 1"):
        seal(str(tmp_path), [parts[0], parts[2]])
    assert not exists(locate_manifest(str(tmp_path), "a"))


def test_part_of_another_run_is_refused(tmp_path: Path) -> None:
    parts = commit(str(tmp_path), ["k1"])
    with pytest.raises(ManifestError, match="delete it and run again"):
        seal(str(tmp_path), parts, fingerprint="0" * 64)


def test_part_that_is_no_parquet_file_is_refused_by_name(tmp_path: Path) -> None:
    parts = commit(str(tmp_path), ["k1"])
    commit_part(str(tmp_path), "a", parts[0], b"not parquet")
    with pytest.raises(ManifestError, match="000000-00000000001000.parquet"):
        seal(str(tmp_path), parts)


def test_part_with_a_damaged_page_is_refused_by_name(tmp_path: Path) -> None:
    parts = commit(str(tmp_path), ["k1"])
    path = tmp_path / "parts" / "a" / str(parts[0])
    payload = bytearray(path.read_bytes())
    payload[40] ^= 0xFF
    path.write_bytes(payload)
    with pytest.raises(ManifestError, match=r"part '.*000000-00000000001000.parquet' is damaged: .*delete it and run"):
        seal(str(tmp_path), parts)


def test_too_many_rejected_rows_fail_the_shard_and_keep_its_parts(tmp_path: Path) -> None:
    parts = commit(str(tmp_path), ["k1", ("k2", "undecodable"), ("k3", "undecodable"), ("k4", "no_image")])
    with pytest.raises(RejectionLimitError, match=r"rejected 3 of 4 rows, limit 50%, mostly undecodable, first 'k2'"):
        seal(str(tmp_path), parts)
    assert [item.uri for item in list_objects(str(tmp_path))] == [locate_part(str(tmp_path), "a", parts[0])]
    assert seal(str(tmp_path), parts, max_rejected_fraction=0.75).num_rejected == 3


def test_images_without_known_tag_or_never_downloaded_do_not_count_as_damage(tmp_path: Path) -> None:
    parts = commit(str(tmp_path), [("k1", "no_known_tag"), ("k2", "download_failed"), "k3"])
    assert seal(str(tmp_path), parts, max_rejected_fraction=0.0).num_rejected == 2


def test_part_bytes_are_a_function_of_rows_and_run() -> None:
    rows = make_rows("k1", ("k2", "too_large"))
    assert encode_part(rows, FINGERPRINT, "a", 0) == encode_part(
        make_rows("k1", ("k2", "too_large")), FINGERPRINT, "a", 0
    )
    assert encode_part(rows, FINGERPRINT, "a", 0) != encode_part(rows, "0" * 64, "a", 0)


@pytest.mark.parametrize("name", ["1-2.parquet.tmp", "x-2.parquet", "000001.parquet", "manifest.json"])
def test_foreign_file_among_parts_is_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="is not the name of a part"):
        parse_part_name(name)
