"""An audit finds every kind of damage to a published run, names it, and counts its rows."""

import json
import os
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.verify import main
from pipeline.audit.keys import compare_keys
from pipeline.audit.verdict import Check, Problem, Verdict, judge_shard
from pipeline.audit.verify import FOOTERS, FULL, list_run, verify_run
from pipeline.commit.encoding import FOOTER_KEY
from pipeline.commit.manifests import publish_manifest
from pipeline.commit.names import PartName
from pipeline.commit.parts import commit_part
from pipeline.inputs.shards import list_shards
from pipeline.run.config import LabelConfig, MapConfig
from pipeline.run.counts import LabelCounts
from pipeline.run.records import InputShard
from pipeline.storage.storage import put_atomic
from tests.factories import make_labelled_row, make_photo, make_rejected_row, make_run, make_tar

NUM_ROWS = 6
MASK = np.array([[0, 1], [2, 255]])
CONFIG = LabelConfig(maps=MapConfig(background_threshold=0.3, foreground_threshold=0.5))


def list_keys(shard_number, num_rows=NUM_ROWS):
    return [f"s{shard_number}/photo{i}" for i in range(num_rows)]


def make_image(key):
    """Encode the image of a sample, as large as `MASK`: another one for each key."""
    return make_photo(sum(key.encode()), size=(2, 2), image_format="PNG")


def make_rows(keys, mask=MASK):
    return [
        make_rejected_row(key) if i % 3 == 0 else make_labelled_row(key, mask, [1, 2], photo=make_image(key))
        for i, key in enumerate(keys)
    ]


def publish(folder, num_shards=3, num_rows=NUM_ROWS):
    """Publish a run over real tars; returns its output folder. The tars lie beside it in `inputs`."""
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


@pytest.fixture
def out(tmp_path):
    return publish(tmp_path)


def rewrite(manifest, *, rows=None, footer=None):
    """Seal a manifest again with other rows (numbered again) or another footer."""
    table = pq.read_table(manifest)
    stated = json.loads(table.schema.metadata[FOOTER_KEY])
    if rows is not None:
        table = table.take(pa.array(rows, pa.int64())).set_column(
            1, table.schema.field("index"), pa.array(range(len(rows)), pa.int64())
        )
        stated["chunks"] = [[len(rows), stated["chunks"][0][1]]] if rows else []
    tables = [table] if table.num_rows else []
    publish_manifest(str(manifest.parents[1]), manifest.stem, tables, stated | (footer or {}))


def change_cell(manifest, row, **cells):
    """Seal a manifest again with other cells in one row: its digest is right, whatever it holds."""
    table = pq.read_table(manifest)
    rows = table.to_pylist()
    rows[row] |= cells
    changed = pa.Table.from_pylist(rows, schema=table.schema)
    publish_manifest(str(manifest.parents[1]), manifest.stem, [changed], json.loads(table.schema.metadata[FOOTER_KEY]))


def audit(out, depth=FULL):
    return verify_run(list_run(str(out)), depth)


def count_findings(verdict):
    return {check: (found.num_shards, found.num_rows) for check, found in verdict.findings.items()}


def get_examples(verdict, check):
    return [example.text for example in verdict.findings[check].examples]


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_untouched_run_balances_and_its_rows_are_counted(out, depth):
    verdict = audit(out, depth)
    assert verdict.findings == {}
    assert (verdict.num_shards, verdict.num_published) == (3, 3)
    counts = verdict.counts
    assert (counts.num_read, counts.num_labelled, counts.rejected_by_reason) == (18, 12, {"undecodable": 6})


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_shard_without_manifest_is_not_begun_or_in_progress(out, depth):
    (out / "labels" / "0.parquet").unlink()
    (out / "labels" / "1.parquet").unlink()
    for chunk_index in (0, 2):
        commit_part(str(out), "1", PartName(chunk_index=chunk_index, end_offset=512), b"part")
    verdict = audit(out, depth)
    assert count_findings(verdict) == {Check.SHARD_NOT_BEGUN: (1, 0), Check.SHARD_IN_PROGRESS: (1, 0)}
    assert get_examples(verdict, Check.SHARD_NOT_BEGUN) == ["0"]
    assert get_examples(verdict, Check.SHARD_IN_PROGRESS) == ["1: 2 parts"]
    assert (verdict.num_shards, verdict.num_published) == (3, 1)


def test_two_parts_that_claim_one_chunk_are_found(out):
    (out / "labels" / "0.parquet").unlink()
    for end_offset in (512, 1024):
        commit_part(str(out), "0", PartName(chunk_index=0, end_offset=end_offset), b"part")
    verdict = audit(out)
    assert count_findings(verdict) == {Check.SHARD_IN_PROGRESS: (1, 0), Check.RIVAL_PARTS: (1, 0)}
    assert get_examples(verdict, Check.RIVAL_PARTS) == ["0: chunk 0"]


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_leftover_parts_of_a_published_shard_are_a_warning_only(out, depth):
    commit_part(str(out), "2", PartName(chunk_index=0, end_offset=512), b"part")
    verdict = audit(out, depth)
    assert count_findings(verdict) == {Check.LEFTOVER_PARTS: (1, 0)}
    assert verdict.failed_checks == []
    assert verdict.num_shards == 3


@pytest.mark.parametrize("name", ["labels/other.parquet", "labels/notes.txt", "parts/other/0-512.parquet", "parts/0/x"])
def test_file_that_belongs_to_no_input_is_foreign(out, name):
    put_atomic(str(out / name), b"anything")
    verdict = audit(out)
    assert count_findings(verdict) == {Check.FOREIGN_FILE: (1, 0)}
    assert get_examples(verdict, Check.FOREIGN_FILE) == [str(out / name)]


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
@pytest.mark.parametrize("num_bytes", [0, 3, 200, -1])
def test_truncated_manifest_is_unreadable_and_does_not_end_the_audit(out, depth, num_bytes):
    manifest = out / "labels" / "1.parquet"
    manifest.write_bytes(manifest.read_bytes()[:num_bytes])
    verdict = audit(out, depth)
    assert count_findings(verdict) == {Check.UNREADABLE_MANIFEST: (1, 0)}
    assert (verdict.num_shards, verdict.num_published, verdict.counts.num_read) == (3, 2, 12)


def test_manifest_with_damaged_pages_is_unreadable(out):
    manifest = out / "labels" / "1.parquet"
    payload = bytearray(manifest.read_bytes())
    payload[4:300] = b"\xff" * 296
    manifest.write_bytes(payload)
    assert count_findings(audit(out)) == {Check.UNREADABLE_MANIFEST: (1, 0)}
    assert audit(out, FOOTERS).findings == {}


def test_manifest_with_one_damaged_bit_in_a_mask_is_unreadable(out):
    manifest = out / "labels" / "1.parquet"
    payload = bytearray(manifest.read_bytes())
    group = pq.ParquetFile(manifest).metadata.row_group(0)
    (mask,) = [
        column for column in map(group.column, range(group.num_columns)) if column.path_in_schema == "mask.bytes"
    ]
    payload[mask.data_page_offset + mask.total_compressed_size - 8] ^= 1
    manifest.write_bytes(payload)
    assert count_findings(audit(out)) == {Check.UNREADABLE_MANIFEST: (1, 0)}


def test_manifest_without_a_column_is_unreadable(out):
    manifest = out / "labels" / "1.parquet"
    pq.write_table(pq.read_table(manifest).drop_columns(["mask"]), manifest)
    verdict = audit(out)
    assert count_findings(verdict) == {Check.UNREADABLE_MANIFEST: (1, 0)}
    assert "lacks the columns ['mask']" in get_examples(verdict, Check.UNREADABLE_MANIFEST)[0]


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_manifest_of_another_run_is_named_and_its_rows_are_not_counted(out, depth):
    rewrite(out / "labels" / "0.parquet", footer={"fingerprint": "f" * 64})
    verdict = audit(out, depth)
    assert count_findings(verdict) == {Check.OTHER_RUN: (1, 0)}
    assert verdict.counts.num_read == 12


@pytest.mark.parametrize("depth", [FULL, FOOTERS])
def test_manifest_under_the_name_of_another_shard_is_named(out, depth):
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
def test_footer_whose_counts_are_not_those_of_its_rows_is_found(out, depth, counts):
    rewrite(out / "labels" / "0.parquet", footer={"counts": counts})
    assert count_findings(audit(out, depth)) == {Check.WRONG_COUNTS: (1, 0)}


def test_counts_that_add_up_and_are_still_wrong_are_found_in_the_rows(out):
    num_bytes = (out.parent / "inputs" / "0.tar").stat().st_size
    rejected = {"num_rejected": 2, "rejected_by_reason": {"too_large": 2}}
    counts = {"num_read": 6, "num_labelled": 4, "num_bytes": num_bytes, **rejected}
    rewrite(out / "labels" / "0.parquet", footer={"counts": counts})
    assert audit(out, FOOTERS).findings == {}
    assert count_findings(audit(out)) == {Check.WRONG_COUNTS: (1, 0)}


@pytest.mark.parametrize(
    ("rows", "check", "num_rows", "example"),
    [
        ([0, 1, 3, 4, 5], Check.MISSING_ROWS, 1, "0: key 's0/photo2'"),
        ([0, 1, 2, 2, 3, 4, 5], Check.DOUBLED_ROWS, 1, "0: row 3, key 's0/photo2'"),
        ([], Check.MISSING_ROWS, 6, "0: key 's0/photo0'"),
    ],
)
def test_lost_and_doubled_rows_are_named_and_contradict_the_footer(out, rows, check, num_rows, example):
    rewrite(out / "labels" / "0.parquet", rows=rows)
    verdict = audit(out)
    assert count_findings(verdict) == {check: (1, num_rows), Check.WRONG_COUNTS: (1, 0)}
    assert example in get_examples(verdict, check)


def test_swapped_rows_are_out_of_order_and_nothing_else(out):
    rewrite(out / "labels" / "0.parquet", rows=[0, 2, 1, 3, 4, 5])
    assert count_findings(audit(out)) == {Check.MISPLACED_ROWS: (1, 1)}


def test_row_that_the_input_does_not_have_is_unknown(out):
    change_cell(out / "labels" / "0.parquet", 2, key="stranger")
    verdict = audit(out)
    assert count_findings(verdict) == {Check.UNKNOWN_ROWS: (1, 1), Check.MISSING_ROWS: (1, 1)}
    assert get_examples(verdict, Check.UNKNOWN_ROWS) == ["0: row 2, key 'stranger'"]


def test_row_with_another_index_is_misnumbered(out):
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
def test_row_whose_status_and_mask_do_not_go_together_is_inconsistent(out, row, cells):
    change_cell(out / "labels" / "0.parquet", row, **cells)
    assert count_findings(audit(out)) == {Check.INCONSISTENT_ROWS: (1, 1)}


@pytest.mark.parametrize("cells", [{"status": "done"}, {"reason": None}])
def test_rejected_row_that_loses_status_or_reason_contradicts_the_footer_too(out, cells):
    change_cell(out / "labels" / "0.parquet", 0, **cells)
    assert count_findings(audit(out)) == {Check.INCONSISTENT_ROWS: (1, 1), Check.WRONG_COUNTS: (1, 0)}


def test_input_that_is_gone_or_changed_is_named_as_such_and_not_as_lost_rows(out):
    (out.parent / "inputs" / "0.tar").unlink()
    make_tar(out.parent / "inputs" / "1.tar", {"new": {"jpg": b"new"}})
    os.utime(out.parent / "inputs" / "2.tar", ns=(1, 1))
    verdict = audit(out)
    assert count_findings(verdict) == {Check.INPUT_GONE: (1, 0), Check.INPUT_CHANGED: (2, 0)}
    assert get_examples(verdict, Check.INPUT_GONE) == [str(out.parent / "inputs" / "0.tar")]
    assert audit(out, FOOTERS).findings == {}


def test_input_that_is_no_archive_is_unreadable(tmp_path):
    path = tmp_path / "bad.tar"
    path.write_bytes(b"no archive" * 100)
    make_run(str(tmp_path / "out"), ["cat"], {shard: make_rows(["a"]) for shard in list_shards([str(path)])})
    assert count_findings(audit(tmp_path / "out")) == {Check.INPUT_UNREADABLE: (1, 0)}


def test_truncated_input_is_a_warning_when_the_footer_says_so_and_an_imbalance_when_not(tmp_path):
    path = make_tar(tmp_path / "cut.tar", {key: {"jpg": key.encode()} for key in "abc"})
    # The third header is cut, so more of b might have followed: only a is whole.
    path.write_bytes(path.read_bytes()[: 4 * 512 + 100])
    make_run(str(tmp_path / "out"), ["cat"], {shard: make_rows("a") for shard in list_shards([str(path)])})
    silent = audit(tmp_path / "out")
    assert count_findings(silent) == {Check.WRONG_COUNTS: (1, 0)}
    truncated_at = int(get_examples(silent, Check.WRONG_COUNTS)[0].rpartition(" ")[2])
    rewrite(tmp_path / "out" / "labels" / "cut.parquet", footer={"truncated_at": truncated_at})
    verdict = audit(tmp_path / "out")
    assert count_findings(verdict) == {Check.TRUNCATED_INPUT: (1, 0)}
    assert verdict.failed_checks == []


def test_key_that_the_input_repeats_has_as_many_rows(tmp_path):
    path = make_tar(tmp_path / "a.tar", {key: {"jpg": make_image(key)} for key in "xy"})
    first = path.read_bytes()[: 4 * 512]
    path.write_bytes(first + path.read_bytes())
    shards = list_shards([str(path)])
    make_run(str(tmp_path / "out"), ["cat", "dog"], {shard: make_rows("xyxy") for shard in shards}, CONFIG)
    # Sealing gave the repeated keys their own reasons: the audit only wants a row for each.
    assert audit(tmp_path / "out").findings == {}
    rewrite(tmp_path / "out" / "labels" / "a.parquet", rows=[0, 1, 3])
    assert count_findings(audit(tmp_path / "out"))[Check.MISSING_ROWS] == (1, 1)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_verify_reports_exactly_the_rows_that_were_deleted_and_doubled(tmp_path_factory, data):
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


def compute_common_length(first, second):
    """Length of a longest common subsequence, by the textbook."""
    before = [0] * (len(second) + 1)
    for a in first:
        now = [0]
        for place, b in enumerate(second):
            now.append(before[place] + 1 if a == b else max(now[place], before[place + 1]))
        before = now
    return before[-1]


@given(st.lists(st.sampled_from("abcdef"), max_size=12), st.lists(st.sampled_from("abcdefgh"), max_size=12))
def test_every_difference_of_keys_is_counted_once(wanted, found):
    rows = Counter()
    for check, num_rows, _ in compare_keys("shard", wanted, found):
        rows[check] += num_rows
    surplus = Counter(found) - Counter(wanted)
    common = (Counter(wanted) & Counter(found)).total()
    assert rows[Check.MISSING_ROWS] == (Counter(wanted) - Counter(found)).total()
    assert rows[Check.UNKNOWN_ROWS] == sum(n for key, n in surplus.items() if key not in wanted)
    assert rows[Check.DOUBLED_ROWS] == sum(n for key, n in surplus.items() if key in wanted)
    assert rows[Check.MISPLACED_ROWS] == common - compute_common_length(wanted, found)


problems = st.lists(st.builds(Problem, st.sampled_from(Check), st.integers(0, 5), st.text(max_size=3)), max_size=8)


@given(st.lists(problems, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_verdicts_merge_in_any_order_and_grouping(shards, random):
    counts = LabelCounts(num_read=1, num_labelled=1)
    verdicts = [judge_shard(position, found, counts=counts) for position, found in enumerate(shards)]
    expected = Verdict()
    for verdict in verdicts:
        expected = expected.merge(verdict)
    random.shuffle(verdicts)
    while len(verdicts) > 1:
        verdicts.append(verdicts.pop(random.randrange(len(verdicts))).merge(verdicts.pop()))
    assert verdicts[0].merge(Verdict()) == expected
    assert expected.num_published == len(shards)


def test_job_prints_the_table_and_its_exit_code_is_the_verdict(out, tmp_path, capsys):
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


def test_job_with_footers_only_says_what_it_did_not_check(out, capsys):
    assert main(["--labels", str(out), "--footers-only"]) == 0
    printed = capsys.readouterr().out
    assert "rows and inputs were not read" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("row missing")]
    assert line.endswith("not checked: footers only")
    (out / "labels" / "2.parquet").unlink()
    assert main(["--labels", str(out), "--footers-only"]) == 1


def test_job_without_a_run_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["--labels", str(tmp_path)]) == 2
    (tmp_path / "run.json").write_text('{"fingerprint": "f", "inputs": [["a.tar"]], "vocabulary": {}}')
    assert main(["--labels", str(tmp_path)]) == 2
    complaints = capsys.readouterr().err.splitlines()
    assert len(complaints) == 2
    assert "holds no labelling run" in complaints[0]
    assert "run.json' cannot be understood" in complaints[1]


def test_footers_are_read_from_object_storage_without_the_manifests(s3_folder, monkeypatch):
    """Random masks do not compress, so the manifest is large and its footer is not."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 256, (40, 256, 256))
    rows = [make_labelled_row(f"photo{i}", mask, [1, 2]) for i, mask in enumerate(masks)]
    shard = InputShard(uri="s3://gone/a.tar", name="a", size_bytes=1, etag="e")
    (manifest,) = make_run(s3_folder, ["cat", "dog"], {shard: rows})
    num_bytes_read = []
    fetch_range = s3fs.core.S3File._fetch_range

    def count_and_fetch(file, start, end):
        payload = fetch_range(file, start, end)
        num_bytes_read.append(len(payload))
        return payload

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", count_and_fetch)
    verdict = audit(s3_folder, FOOTERS)
    assert verdict.findings == {}
    assert verdict.counts.num_labelled == 40
    num_bytes = s3fs.S3FileSystem(use_listings_cache=False).size(manifest)
    assert 0 < sum(num_bytes_read) < 0.05 * num_bytes
