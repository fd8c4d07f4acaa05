"""Exports of what reviewers accepted, or found no fault with."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.export import main
from pipeline.errors import RunConflictError
from pipeline.published.decisions import (
    Decision,
    Verdict,
    compute_mask_digest,
    encode_decisions,
    locate_reviewer,
    read_decisions,
)
from pipeline.published.rows import iterate_rows
from pipeline.published.run import open_published
from pipeline.storage.writing import put_atomic
from tests.export.runs import export_all, list_shard, make_rows, make_scene, open_export
from tests.factories import make_parquet, make_run

VERDICTS = (Verdict.ACCEPT, Verdict.REFUSE, Verdict.WRONG_TAG, Verdict.MISSING_TAG, Verdict.REDRAW, None)


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    """Six photos, of which all but the last are judged, each in another way."""
    scenes = [make_scene(0)] * len(VERDICTS)
    path = make_parquet(tmp_path / "a.parquet", {"image": [one.photo for one in scenes], "tags": [["cat"]] * 6})
    make_run(f"{tmp_path}/run", ("cat", "dog"), {list_shard(path): make_rows([*"abcdef"], scenes)})
    judge(f"{tmp_path}/run", "ada", dict(zip("abcde", VERDICTS[:-1], strict=True)))
    return f"{tmp_path}/run"


def judge(run_uri: str, reviewer: str, verdicts: dict[str, Verdict], *, has_mask_changed: bool = False) -> None:
    """Decide about rows by their keys."""
    run = open_published(run_uri)
    decisions = [
        Decision(
            shard=row.shard_name,
            index=row.index,
            key=row.key,
            decision=verdicts[row.key],
            reviewer=reviewer,
            time=datetime.now(UTC),
            fingerprint=run.record["fingerprint"],
            image_sha256=row.get("image_sha256"),
            mask_sha256="0" * 64 if has_mask_changed else compute_mask_digest(row.get("mask")),
        )
        for row in iterate_rows(run, run.manifest_uris[0])
        if row.key in verdicts
    ]
    put_atomic(
        f"{locate_reviewer(run_uri, reviewer)}/{datetime.now(UTC).timestamp()}.parquet", encode_decisions(decisions)
    )


def list_keys(out: Path) -> set[str]:
    return {line.split("\t")[1] for line in (out / "keys.tsv").read_text().splitlines()}


def test_accepted_rows_alone_or_all_without_fault_are_exported(run_uri: str, tmp_path: Path) -> None:
    decisions = read_decisions(run_uri)
    summary = export_all(run_uri, f"{tmp_path}/accepted", is_reviewed=True, decisions=decisions)
    assert list_keys(tmp_path / "accepted") == {"a"}
    assert summary.counts is not None
    assert summary.counts.left_out == {"reviewed": 5}
    summary = export_all(run_uri, f"{tmp_path}/rest", is_without_refused=True, decisions=decisions)
    assert list_keys(tmp_path / "rest") == {"a", "f"}
    assert summary.counts is not None
    assert summary.counts.left_out == {"without-refused": 4}
    export_all(run_uri, f"{tmp_path}/all", decisions=decisions)
    assert list_keys(tmp_path / "all") == {*"abcdef"}


def test_decision_about_a_mask_that_is_gone_does_not_count(run_uri: str, tmp_path: Path) -> None:
    judge(run_uri, "ada", {"a": Verdict.ACCEPT, "f": Verdict.REFUSE}, has_mask_changed=True)
    decisions = read_decisions(run_uri)
    export_all(run_uri, f"{tmp_path}/rest", is_without_refused=True, decisions=decisions)
    assert list_keys(tmp_path / "rest") == {"a", "f"}
    judge(run_uri, "bob", {"b": Verdict.ACCEPT})
    export_all(run_uri, f"{tmp_path}/accepted", is_reviewed=True, decisions=read_decisions(run_uri))
    assert list_keys(tmp_path / "accepted") == {"b"}


def test_another_decision_makes_another_export(run_uri: str, tmp_path: Path) -> None:
    export_all(run_uri, f"{tmp_path}/out", is_reviewed=True, decisions=read_decisions(run_uri))
    open_export(run_uri, f"{tmp_path}/out", is_reviewed=True, decisions=read_decisions(run_uri))
    judge(run_uri, "ada", {"b": Verdict.ACCEPT})
    with pytest.raises(RunConflictError, match="decisions_sha256"):
        open_export(run_uri, f"{tmp_path}/out", is_reviewed=True, decisions=read_decisions(run_uri))


def test_command_counts_what_it_would_leave_out_or_says_that_nobody_reviewed(
    run_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--labels", run_uri, "--out", f"{tmp_path}/out", "--format", "voc", "--dry-run", "--reviewed"]
    assert main(command) == 0
    assert "1 shards: 0 exported, 1 to do" in capsys.readouterr().out
    for path in (tmp_path / "run" / "reviews").rglob("*.parquet"):
        path.unlink()
    assert main(command) != 0
    assert "nobody has reviewed" in capsys.readouterr().err
