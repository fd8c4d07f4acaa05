"""Members of archives: each is in a row or among those passed over, by a count that no reader made."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.verify import main
from pipeline.audit.verdict import Check
from pipeline.audit.verify import FOOTERS, FULL
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig, KeyRule, LabelConfig
from tests.audit.published import audit, count_findings, drop_members, get_examples, make_old, rewrite
from tests.factories import make_parquet, make_rejected_row, make_run, make_tar

MEMBERS = (
    ("a", tarfile.DIRTYPE),
    ("a/.DS_Store", tarfile.REGTYPE),
    (".git/x.jpg", tarfile.REGTYPE),
    ("a/latest.jpg", tarfile.SYMTYPE),
    ("a/pipe.jpg", tarfile.FIFOTYPE),
    ("README", tarfile.REGTYPE),
    ("a/1.jpg", tarfile.REGTYPE),
    ("a/1.json", tarfile.REGTYPE),
    ("a/1.png", tarfile.REGTYPE),
    ("a/1.json", tarfile.REGTYPE),
    ("a/2.csv", tarfile.REGTYPE),
    ("a/2.jpg", tarfile.LNKTYPE),
    ("a/2.seg.png", tarfile.REGTYPE),
    ("a/2.jpg", tarfile.REGTYPE),
    ("b/IMG.0.jpg", tarfile.REGTYPE),
    ("b/IMG.0.json", tarfile.REGTYPE),
    ("b/IMG.1.jpg", tarfile.REGTYPE),
)
ROWS = (("a/1", "undecodable"), ("a/2", "undecodable"), ("a/2", "undecodable"))
FIRST_DOT_ROWS = (*ROWS, ("b/IMG.0", "dotted_name"), ("b/IMG.1", "dotted_name"))
LAST_DOT_ROWS = (
    *(*ROWS[:2], ("a/2.seg", "undecodable"), ("a/2", "undecodable")),
    *(("b/IMG.0", "undecodable"), ("b/IMG.1", "bad_tags")),
)
OLD_ROWS = ((".git/x", "undecodable"), ("a/1", "undecodable"), ("a/2", "undecodable"), ("b/IMG", "no_image"))


def describe(num: int, **passed_over: tuple[int, str]) -> dict[str, Any]:
    entries = {kind: {"num": number, "example": example} for kind, (number, example) in passed_over.items()}
    return {"num": num, "passed_over": entries}


ANYHOW: dict[str, tuple[int, str]] = {
    "directory": (1, "a"),
    "hidden_file": (1, "a/.DS_Store"),
    "in_hidden_folder": (1, ".git/x.jpg"),
    "symbolic_link": (1, "a/latest.jpg"),
    "special_file": (1, "a/pipe.jpg"),
    "no_suffix": (1, "README"),
    "second_image": (1, "a/1.png"),
    "second_member": (1, "a/1.json"),
}
FIRST_DOT = describe(17, **ANYHOW, dotted_image=(1, "a/2.seg.png"), unused_suffix=(2, "a/2.csv"))
"""Counted by hand: six members are in the five rows."""
LAST_DOT = describe(17, **ANYHOW, unused_suffix=(1, "a/2.csv"))
"""Likewise: eight members are in the six rows."""


def publish_archive(folder: Path, rows: Sequence[tuple[str, str]], members: Any, key: KeyRule) -> Path:
    """Publish a run over an archive of `MEMBERS`, with a footer that counts them by hand; return its folder."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name, kind in MEMBERS:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "a/1.jpg"
            header.size = len(name) if kind == tarfile.REGTYPE else 0
            archive.addfile(header, io.BytesIO(name.encode()))
    config = LabelConfig(inputs=InputConfig(key=key))
    published = {shard: [make_rejected_row(*row) for row in rows] for shard in list_shards([str(folder / "a.tar")])}
    make_run(str(folder / "out"), ["cat"], published, config)
    rewrite(folder / "out" / "labels" / "a.parquet", footer={"members": members})
    return folder / "out"


@pytest.fixture
def archive_out(tmp_path: Path) -> Path:
    """Output folder of a run over an archive of `MEMBERS`."""
    return publish_archive(tmp_path, FIRST_DOT_ROWS, FIRST_DOT, KeyRule.FIRST_DOT)


@pytest.mark.parametrize(
    ("key", "rows", "members", "num_in_rows"),
    [(KeyRule.FIRST_DOT, FIRST_DOT_ROWS, FIRST_DOT, 6), (KeyRule.LAST_DOT, LAST_DOT_ROWS, LAST_DOT, 8)],
)
def test_members_counted_by_hand_balance_and_are_summed(
    tmp_path: Path, key: KeyRule, rows: Sequence[tuple[str, str]], members: dict[str, Any], num_in_rows: int
) -> None:
    out = publish_archive(tmp_path, rows, members, key)
    for depth in (FULL, FOOTERS):
        verdict = audit(out, depth)
        assert verdict.findings == {}
        assert verdict.members.to_dict() == members | {"num_in_rows": num_in_rows, "num_shards_not_recorded": 0}


def test_job_names_what_was_passed_over_by_kind_with_an_example(
    archive_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--labels", str(archive_out), "--json", str(tmp_path / "verdict.json")]) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 shards published, 5 rows read" in printed
    assert "17 members of archives: 6 in rows, 11 passed over" in printed
    assert "  passed over: 1 hidden_file, such as 'a/.DS_Store'" in printed
    assert "  passed over: 2 unused_suffix, such as 'a/2.csv'" in printed
    assert "format version" not in printed
    assert json.loads((tmp_path / "verdict.json").read_text())["members"]["passed_over"] == FIRST_DOT["passed_over"]


def edit_kind(kind: str, **changes: Any) -> dict[str, Any]:
    passed_over = FIRST_DOT["passed_over"]
    return FIRST_DOT | {"passed_over": passed_over | {kind: passed_over[kind] | changes}}


def drop_kind(kind: str, num: int = 17) -> dict[str, Any]:
    return describe(num) | {
        "passed_over": {name: entry for name, entry in FIRST_DOT["passed_over"].items() if name != kind}
    }


def rename_kind(kind: str, other: str) -> dict[str, Any]:
    passed_over = drop_kind(kind)["passed_over"]
    return FIRST_DOT | {"passed_over": passed_over | {other: FIRST_DOT["passed_over"][kind]}}


@pytest.mark.parametrize(
    ("members", "checks", "example"),
    [
        (FIRST_DOT | {"num": 18}, {Check.UNACCOUNTED_MEMBERS}, "counts 18 members, the archive has 17"),
        # As by a reader that does not see the member.
        (
            drop_kind("no_suffix", 16),
            {Check.UNACCOUNTED_MEMBERS, Check.MISCOUNTED_MEMBERS},
            "its footer counts 16 members, the archive has 17",
        ),
        (
            drop_kind("no_suffix"),
            {Check.UNACCOUNTED_MEMBERS, Check.MISCOUNTED_MEMBERS},
            "rows and 10 passed over by its footer are 16, the archive has 17; perhaps 'README' is missing",
        ),
        (
            edit_kind("unused_suffix", num=3),
            {Check.UNACCOUNTED_MEMBERS, Check.MISCOUNTED_MEMBERS},
            "6 members in rows and 12 passed over by its footer are 18, the archive has 17",
        ),
        (
            rename_kind("no_suffix", "truncated"),
            {Check.MISCOUNTED_MEMBERS},
            "no_suffix: its footer counts 0, the archive has 1, such as 'README'",
        ),
        (
            edit_kind("hidden_file", example="a/x"),
            {Check.MISCOUNTED_MEMBERS},
            "hidden_file: its footer names 'a/x', the first in the archive is 'a/.DS_Store'",
        ),
    ],
)
def test_footer_that_counts_other_members_than_the_archive_has_is_named(
    archive_out: Path, members: dict[str, Any], checks: set[Check], example: str
) -> None:
    rewrite(archive_out / "labels" / "a.parquet", footer={"members": members})
    verdict = audit(archive_out)
    assert set(verdict.failed_checks) == checks
    assert any(example in text for check in checks for text in get_examples(verdict, check))
    # The footer alone does not show it.
    assert audit(archive_out, FOOTERS).findings == {}


@pytest.mark.parametrize(
    "members",
    [
        *(None, [], {}, 17, {"num": 17}, FIRST_DOT | {"more": 1}, FIRST_DOT | {"passed_over": []}),
        *(FIRST_DOT | {"num": num} for num in (-1, 17.0, True, "17", None, 10)),
        *(edit_kind("directory", num=num) for num in (0, -1, 1.0, True, None)),
        *(edit_kind("directory", example=text) for text in (None, 7, "x" * 201)),
        edit_kind("directory", more=1),
        rename_kind("directory", "folder"),
        FIRST_DOT | {"passed_over": FIRST_DOT["passed_over"] | {"directory": None}},
    ],
)
def test_members_of_another_form_make_a_footer_wrong(archive_out: Path, members: Any) -> None:
    rewrite(archive_out / "labels" / "a.parquet", footer={"members": members})
    for depth in (FULL, FOOTERS):
        assert count_findings(audit(archive_out, depth)) == {Check.WRONG_FOOTER: (1, 0)}


def test_footer_without_the_members_of_its_archive_is_wrong(archive_out: Path) -> None:
    drop_members(archive_out / "labels" / "a.parquet")
    for depth in (FULL, FOOTERS):
        verdict = audit(archive_out, depth)
        assert get_examples(verdict, Check.WRONG_FOOTER) == ["a: it lacks ['members']"]


def test_row_that_hides_a_dotted_name_is_inconsistent(tmp_path: Path) -> None:
    rows = (*FIRST_DOT_ROWS[:3], ("b/IMG.0", "no_image"), ("b/IMG.1", "dotted_name"))
    out = publish_archive(tmp_path, rows, FIRST_DOT, KeyRule.FIRST_DOT)
    assert count_findings(audit(out)) == {Check.INCONSISTENT_ROWS: (1, 1)}


def test_run_of_an_older_version_is_verified_by_its_rules_and_the_job_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = publish_archive(tmp_path, OLD_ROWS, FIRST_DOT, KeyRule.FIRST_DOT)
    make_old(out)
    assert main(["--labels", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "17 members of archives: 4 in rows, 13 passed over" in printed
    assert "passed over: 1 hard_link, such as 'a/2.jpg'" in printed
    assert (
        "the run has format version 2, which does not record the members that were passed over: those of 1 shards "
        "were counted by this audit alone"
    ) in printed
    assert main(["--labels", str(out), "--footers-only"]) == 0
    assert "those of 1 shards are not known, leave out --footers-only" in capsys.readouterr().out
    rewrite(out / "labels" / "a.parquet", footer={"members": FIRST_DOT})
    assert get_examples(audit(out), Check.WRONG_FOOTER) == ["a: it has the fields ['members']"]


def test_footer_of_a_parquet_input_counts_no_members(tmp_path: Path) -> None:
    path = make_parquet(tmp_path / "a.parquet", {"image": [b"1", b"2"], "key": ["x", "y"]})
    rows = {shard: [make_rejected_row(key) for key in "xy"] for shard in list_shards([str(path)])}
    make_run(str(tmp_path / "out"), ["cat"], rows)
    verdict = audit(tmp_path / "out")
    assert (verdict.findings, verdict.members.num) == ({}, 0)
    rewrite(tmp_path / "out" / "labels" / "a.parquet", footer={"members": describe(2)})
    assert get_examples(audit(tmp_path / "out"), Check.WRONG_FOOTER) == ["a: it has the fields ['members']"]


def test_archive_without_a_sample_has_members_that_were_passed_over(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {".hidden": {"jpg": b"1"}, ".other": {"jpg": b"2"}})
    make_run(str(tmp_path / "out"), ["cat"], {shard: [] for shard in list_shards([str(path)])})
    manifest = tmp_path / "out" / "labels" / "a.parquet"
    rewrite(manifest, rows=[], footer={"members": describe(2)})
    assert set(audit(tmp_path / "out").failed_checks) == {Check.UNACCOUNTED_MEMBERS, Check.MISCOUNTED_MEMBERS}
    rewrite(manifest, footer={"members": describe(2, hidden_file=(2, ".hidden.jpg"))})
    assert audit(tmp_path / "out").findings == {}
