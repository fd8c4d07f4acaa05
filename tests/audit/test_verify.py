"""An audit finds, names and counts each kind of damage to a published run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import s3fs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.verify import main
from pipeline.audit.verdict import Check
from pipeline.audit.verify import FOOTERS, FULL, Depth
from pipeline.commit.names import PartName
from pipeline.commit.parts import commit_part
from pipeline.run.records import InputShard
from pipeline.storage.writing import put_atomic
from tests.audit.published import (
    audit,
    change_cell,
    count_findings,
    get_examples,
    publish,
    rewrite,
)
from tests.factories import make_labelled_row, make_run


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_untouched_run_balances_and_its_rows_are_counted(out: Path, depth: Depth) -> None:
    verdict = audit(out, depth)
    assert verdict.findings == {}
    assert (verdict.num_shards, verdict.num_published) == (3, 3)
    counts = verdict.counts
    assert (counts.num_read, counts.num_labelled, counts.rejected_by_reason) == (18, 12, {"undecodable": 6})


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_shard_without_manifest_is_not_begun_or_in_progress(out: Path, depth: Depth) -> None:
    (out / "labels" / "0.parquet").unlink()
    (out / "labels" / "1.parquet").unlink()
    for chunk_index in (0, 2):
        commit_part(str(out), "1", PartName(chunk_index=chunk_index, end_offset=512), b"part")
    verdict = audit(out, depth)
    assert count_findings(verdict) == {Check.SHARD_NOT_BEGUN: (1, 0), Check.SHARD_IN_PROGRESS: (1, 0)}
    assert get_examples(verdict, Check.SHARD_NOT_BEGUN) == ["0"]
    assert get_examples(verdict, Check.SHARD_IN_PROGRESS) == ["1: 2 parts"]
    assert (verdict.num_shards, verdict.num_published) == (3, 1)


def test_two_parts_that_claim_one_chunk_are_found(out: Path) -> None:
    (out / "labels" / "0.parquet").unlink()
    for end_offset in (512, 1024):
        commit_part(str(out), "0", PartName(chunk_index=0, end_offset=end_offset), b"part")
    verdict = audit(out)
    assert count_findings(verdict) == {Check.SHARD_IN_PROGRESS: (1, 0), Check.RIVAL_PARTS: (1, 0)}
    assert get_examples(verdict, Check.RIVAL_PARTS) == ["0: chunk 0"]


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_leftover_parts_of_a_published_shard_are_a_warning_only(out: Path, depth: Depth) -> None:
    commit_part(str(out), "2", PartName(chunk_index=0, end_offset=512), b"part")
    verdict = audit(out, depth)
    assert count_findings(verdict) == {Check.LEFTOVER_PARTS: (1, 0)}
    assert verdict.failed_checks == []
    assert verdict.num_shards == 3


@pytest.mark.parametrize("name", ["labels/other.parquet", "labels/notes.txt", "parts/other/0-512.parquet", "parts/0/x"])
def test_file_that_belongs_to_no_input_is_foreign(out: Path, name: str) -> None:
    put_atomic(str(out / name), b"anything")
    verdict = audit(out)
    assert count_findings(verdict) == {Check.FOREIGN_FILE: (1, 0)}
    assert get_examples(verdict, Check.FOREIGN_FILE) == [str(out / name)]


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
@pytest.mark.parametrize("num_bytes", [0, 3, 200, -1])
def test_truncated_manifest_is_unreadable_and_does_not_end_the_audit(out: Path, depth: Depth, num_bytes: int) -> None:
    manifest = out / "labels" / "1.parquet"
    manifest.write_bytes(manifest.read_bytes()[:num_bytes])
    verdict = audit(out, depth)
    assert count_findings(verdict) == {Check.UNREADABLE_MANIFEST: (1, 0)}
    assert (verdict.num_shards, verdict.num_published, verdict.counts.num_read) == (3, 2, 12)


def test_manifest_with_damaged_pages_is_unreadable(out: Path) -> None:
    manifest = out / "labels" / "1.parquet"
    payload = bytearray(manifest.read_bytes())
    payload[4:300] = b"\xff" * 296
    manifest.write_bytes(payload)
    assert count_findings(audit(out)) == {Check.UNREADABLE_MANIFEST: (1, 0)}
    assert audit(out, FOOTERS).findings == {}


def test_manifest_with_one_damaged_bit_in_a_mask_is_unreadable(out: Path) -> None:
    manifest = out / "labels" / "1.parquet"
    payload = bytearray(manifest.read_bytes())
    group = pq.ParquetFile(manifest).metadata.row_group(0)
    (mask,) = [
        column for column in map(group.column, range(group.num_columns)) if column.path_in_schema == "mask.bytes"
    ]
    payload[mask.data_page_offset + mask.total_compressed_size - 8] ^= 1
    manifest.write_bytes(payload)
    assert count_findings(audit(out)) == {Check.UNREADABLE_MANIFEST: (1, 0)}


def test_manifest_without_a_column_is_unreadable(out: Path) -> None:
    manifest = out / "labels" / "1.parquet"
    pq.write_table(pq.read_table(manifest).drop_columns(["mask"]), manifest)
    verdict = audit(out)
    assert count_findings(verdict) == {Check.UNREADABLE_MANIFEST: (1, 0)}
    assert "lacks the columns ['mask']" in get_examples(verdict, Check.UNREADABLE_MANIFEST)[0]


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_manifest_of_another_run_is_named_and_its_rows_are_not_counted(out: Path, depth: Depth) -> None:
    rewrite(out / "labels" / "0.parquet", footer={"fingerprint": "f" * 64})
    verdict = audit(out, depth)
    assert count_findings(verdict) == {Check.OTHER_RUN: (1, 0)}
    assert verdict.counts.num_read == 12


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_manifest_under_the_name_of_another_shard_is_named(out: Path, depth: Depth) -> None:
    (out / "labels" / "0.parquet").write_bytes((out / "labels" / "1.parquet").read_bytes())
    assert count_findings(audit(out, depth)) == {Check.OTHER_INPUT: (1, 0)}


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
@pytest.mark.parametrize(
    "counts",
    [
        {"num_read": 6, "num_labelled": 3, "num_rejected": 2, "rejected_by_reason": {"undecodable": 2}},
        {"num_read": 5, "num_labelled": 3, "num_rejected": 2, "rejected_by_reason": {"undecodable": 2}},
        {"num_read": 6, "num_labelled": 4, "num_rejected": 2, "rejected_by_reason": {}},
        {"num_read": "six"},
        {"num_seen": 6},
        None,
    ],
)
def test_footer_whose_counts_are_not_those_of_its_rows_is_found(
    out: Path, depth: Depth, counts: dict[str, int | dict[str, int] | str] | None
) -> None:
    rewrite(out / "labels" / "0.parquet", footer={"counts": counts})
    assert count_findings(audit(out, depth)) == {Check.WRONG_COUNTS: (1, 0)}


def test_counts_that_add_up_and_are_still_wrong_are_found_in_the_rows(out: Path) -> None:
    num_bytes = (out.parent / "inputs" / "0.tar").stat().st_size
    rejected = {"num_rejected": 2, "rejected_by_reason": {"too_large": 2}}
    counts = {"num_read": 6, "num_labelled": 4, "num_bytes": num_bytes, **rejected}
    rewrite(out / "labels" / "0.parquet", footer={"counts": counts})
    assert audit(out, FOOTERS).findings == {}
    assert count_findings(audit(out)) == {Check.WRONG_COUNTS: (1, 0)}


def test_row_with_another_index_is_misnumbered(out: Path) -> None:
    change_cell(out / "labels" / "0.parquet", 2, index=7)
    assert count_findings(audit(out)) == {Check.MISNUMBERED_ROWS: (1, 1)}


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (1, {"mask": None}),
        (1, {"reason": "undecodable"}),
        (0, {"mask": {"bytes": b"", "path": "a.png"}}),
    ],
)
def test_row_whose_status_and_mask_do_not_go_together_is_inconsistent(
    out: Path, row: int, cells: dict[str, str | dict[str, bytes | str] | None]
) -> None:
    change_cell(out / "labels" / "0.parquet", row, **cells)
    assert count_findings(audit(out)) == {Check.INCONSISTENT_ROWS: (1, 1)}


@pytest.mark.parametrize("cells", [{"status": "done"}, {"reason": None}])
def test_rejected_row_that_loses_status_or_reason_contradicts_the_footer_too(
    out: Path, cells: dict[str, str | None]
) -> None:
    change_cell(out / "labels" / "0.parquet", 0, **cells)
    assert count_findings(audit(out)) == {Check.INCONSISTENT_ROWS: (1, 1), Check.WRONG_COUNTS: (1, 0)}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_verify_reports_exactly_the_rows_that_were_deleted_and_doubled(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    out = publish(tmp_path_factory.mktemp("run"), num_shards=1, num_rows=10)
    deleted = data.draw(st.sets(st.integers(0, 9)))
    rows = [row for row in range(10) if row not in deleted]
    copies = data.draw(st.lists(st.sampled_from(rows), max_size=6)) if rows else []
    for row in copies:
        rows.insert(data.draw(st.integers(0, len(rows))), row)
    rewrite(out / "labels" / "0.parquet", rows=rows)
    verdict = audit(out)
    expected = {Check.MISSING_ROWS: (1, len(deleted)), Check.DOUBLED_ROWS: (1, len(copies))}
    found = count_findings(verdict)
    found.pop(Check.WRONG_COUNTS, None)
    assert found == {check: numbers for check, numbers in expected.items() if numbers[1]}
    assert bool(verdict.failed_checks) == bool(deleted or copies)
    assert verdict.counts.num_read == 10 - len(deleted) + len(copies)


def test_job_prints_the_table_and_its_exit_code_is_the_verdict(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--labels", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "the books balance" in printed
    assert "rejected, undecodable: 6" in printed
    assert "3 of 3 shards published, 18 rows read" in printed

    rewrite(out / "labels" / "0.parquet", rows=[0, 1, 3, 4, 5])
    assert main(["--labels", str(out), "--json", str(tmp_path / "verdict.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("row missing")]
    assert line.split() == ["row", "missing", "1", "1", "0:", "key", "'s0/photo2'"]
    assert lines[-1] == "the books do not balance: counts do not balance, row missing"
    record = json.loads((tmp_path / "verdict.json").read_text())
    assert record["balances"] is False
    assert record["findings"]["row missing"]["num_rows"] == 1
    assert record["fingerprint"] == json.loads((out / "run.json").read_text())["fingerprint"]


def test_job_with_footers_only_prints_what_it_did_not_check(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--labels", str(out), "--footers-only"]) == 0
    printed = capsys.readouterr().out
    assert "rows and inputs were not read" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("row missing")]
    assert line.endswith("not checked: footers only")
    (out / "labels" / "2.parquet").unlink()
    assert main(["--labels", str(out), "--footers-only"]) == 1


def test_job_without_a_run_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--labels", str(tmp_path)]) == 2
    (tmp_path / "run.json").write_text('{"fingerprint": "f", "inputs": [["a.tar"]], "vocabulary": {}}')
    assert main(["--labels", str(tmp_path)]) == 2
    complaints = capsys.readouterr().err.splitlines()
    assert len(complaints) == 2
    assert "holds no labelling run" in complaints[0]
    assert "run.json' cannot be understood" in complaints[1]


def test_footers_are_read_from_object_storage_without_the_manifests(
    s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random masks do not compress, so the manifest is much larger than its footer."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 256, (40, 256, 256))
    rows = [make_labelled_row(f"photo{i}", mask, [1, 2]) for i, mask in enumerate(masks)]
    shard = InputShard(uri="s3://gone/a.tar", name="a", size_bytes=1, etag="e")
    (manifest,) = make_run(s3_folder, ["cat", "dog"], {shard: rows})
    num_bytes_read = []
    fetch_range = s3fs.core.S3File._fetch_range

    def count_and_fetch(file: Any, start: Any, end: Any) -> bytes:
        payload = fetch_range(file, start, end)
        num_bytes_read.append(len(payload))
        return payload

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", count_and_fetch)
    verdict = audit(s3_folder, FOOTERS)
    assert verdict.findings == {}
    assert verdict.counts.num_labelled == 40
    num_bytes = s3fs.S3FileSystem(use_listings_cache=False).size(manifest)
    assert 0 < sum(num_bytes_read) < 0.05 * num_bytes
