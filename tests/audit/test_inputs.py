"""Rows of a manifest against the samples of its input."""

import os
from pathlib import Path

import pytest

from pipeline.audit.verdict import Check
from pipeline.audit.verify import FOOTERS
from pipeline.inputs.shards import list_shards
from tests.audit.published import (
    CONFIG,
    audit,
    change_cell,
    count_findings,
    get_examples,
    make_image,
    make_rows,
    rewrite,
)
from tests.factories import make_run, make_tar


@pytest.mark.parametrize(
    ("rows", "check", "num_rows", "example"),
    [
        ([0, 1, 3, 4, 5], Check.MISSING_ROWS, 1, "0: key 's0/photo2'"),
        ([0, 1, 2, 2, 3, 4, 5], Check.DOUBLED_ROWS, 1, "0: row 3, key 's0/photo2'"),
        ([], Check.MISSING_ROWS, 6, "0: key 's0/photo0'"),
    ],
)
def test_lost_and_doubled_rows_are_named_and_contradict_the_footer(
    out: Path, rows: list[int], check: Check, num_rows: int, example: str
) -> None:
    rewrite(out / "labels" / "0.parquet", rows=rows)
    verdict = audit(out)
    assert count_findings(verdict) == {check: (1, num_rows), Check.WRONG_COUNTS: (1, 0)}
    assert example in get_examples(verdict, check)


def test_swapped_rows_are_out_of_order_and_nothing_else(out: Path) -> None:
    rewrite(out / "labels" / "0.parquet", rows=[0, 2, 1, 3, 4, 5])
    assert count_findings(audit(out)) == {Check.MISPLACED_ROWS: (1, 1)}


def test_row_that_the_input_does_not_have_is_unknown(out: Path) -> None:
    change_cell(out / "labels" / "0.parquet", 2, key="stranger")
    verdict = audit(out)
    assert count_findings(verdict) == {Check.UNKNOWN_ROWS: (1, 1), Check.MISSING_ROWS: (1, 1)}
    assert get_examples(verdict, Check.UNKNOWN_ROWS) == ["0: row 2, key 'stranger'"]


def test_input_that_is_gone_or_changed_is_named_as_such_and_not_as_lost_rows(out: Path) -> None:
    (out.parent / "inputs" / "0.tar").unlink()
    make_tar(out.parent / "inputs" / "1.tar", {"new": {"jpg": b"new"}})
    os.utime(out.parent / "inputs" / "2.tar", ns=(1, 1))
    verdict = audit(out)
    assert count_findings(verdict) == {Check.INPUT_GONE: (1, 0), Check.INPUT_CHANGED: (2, 0)}
    assert get_examples(verdict, Check.INPUT_GONE) == [str(out.parent / "inputs" / "0.tar")]
    assert audit(out, FOOTERS).findings == {}


def test_input_that_is_no_archive_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(b"no archive" * 100)
    make_run(str(tmp_path / "out"), ["cat"], {shard: make_rows(["a"]) for shard in list_shards([str(path)])})
    assert count_findings(audit(tmp_path / "out")) == {Check.INPUT_UNREADABLE: (1, 0)}


def test_truncated_input_is_a_warning_if_the_footer_states_it_and_else_an_imbalance(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "cut.tar", {key: {"jpg": key.encode()} for key in "abc"})
    # The third header is cut, so more of b might have followed: only a is whole.
    path.write_bytes(path.read_bytes()[: 4 * 512 + 100])
    make_run(str(tmp_path / "out"), ["cat"], {shard: make_rows("a") for shard in list_shards([str(path)])})
    members = {"num": 2, "passed_over": {"truncated": {"num": 1, "example": "b.jpg"}}}
    rewrite(tmp_path / "out" / "labels" / "cut.parquet", footer={"members": members})
    silent = audit(tmp_path / "out")
    assert count_findings(silent) == {Check.WRONG_COUNTS: (1, 0)}
    truncated_at = int(get_examples(silent, Check.WRONG_COUNTS)[0].rpartition(" ")[2])
    rewrite(tmp_path / "out" / "labels" / "cut.parquet", footer={"truncated_at": truncated_at, "members": members})
    verdict = audit(tmp_path / "out")
    assert count_findings(verdict) == {Check.TRUNCATED_INPUT: (1, 0)}
    assert verdict.failed_checks == []


def test_key_that_the_input_repeats_has_as_many_rows(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {key: {"jpg": make_image(key)} for key in "xy"})
    first = path.read_bytes()[: 4 * 512]
    path.write_bytes(first + path.read_bytes())
    shards = list_shards([str(path)])
    make_run(str(tmp_path / "out"), ["cat", "dog"], {shard: make_rows("xyxy") for shard in shards}, CONFIG)
    # Sealing gave the repeated keys their own reasons: the audit only wants a row for each.
    assert audit(tmp_path / "out").findings == {}
    rewrite(tmp_path / "out" / "labels" / "a.parquet", rows=[0, 1, 3])
    assert count_findings(audit(tmp_path / "out"))[Check.MISSING_ROWS] == (1, 1)
