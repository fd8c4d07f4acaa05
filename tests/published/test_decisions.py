"""Decisions of reviewers: which one counts, and what a damaged or foreign file does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ManifestError
from pipeline.published.decisions import (
    DECISION_SCHEMA,
    Decision,
    RowId,
    Verdict,
    choose_latest,
    compute_mask_digest,
    encode_decisions,
    locate_reviewer,
    read_decisions,
)
from pipeline.published.rows import MaskRow
from pipeline.run.records import InputShard
from pipeline.run.run_file import read_run
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.factories import make_rejected_row, make_run

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SHARD = InputShard(uri="/gone/photos-0.tar", name="photos-0", size_bytes=512, etag="e")
HOSTILE = ("../../x", "a/b", "<b>&\"'", "зрение 🐱", ".", "CON", "x" * 100)


def make_decision(**changes: Any) -> Decision:
    plain: dict[str, Any] = {
        "shard": "photos-0",
        "index": 3,
        "key": "s0-3",
        "decision": Verdict.ACCEPT,
        "reviewer": "ada",
        "time": NOON,
        "fingerprint": "f" * 64,
        "image_sha256": "1" * 64,
        "mask_sha256": None,
    }
    return Decision(**plain | changes)


def put_decisions(run_uri: str, name: str, *decisions: Decision) -> None:
    put_atomic(join_uri(locate_reviewer(run_uri, decisions[0].reviewer), name), encode_decisions(decisions))


@given(
    st.lists(
        st.builds(
            make_decision,
            index=st.integers(0, 2),
            time=st.integers(0, 2).map(lambda seconds: NOON + timedelta(seconds=seconds)),
            reviewer=st.sampled_from(["ada", "bob"]),
            decision=st.sampled_from(Verdict),
        ),
        max_size=8,
    ),
    st.randoms(),
)
def test_latest_decision_counts_in_any_order_of_files(decisions: list[Decision], random: Any) -> None:
    expected = choose_latest(decisions)
    random.shuffle(decisions)
    assert choose_latest(decisions) == expected
    for row_id in {one.row_id for one in decisions}:
        last = max(one.time for one in decisions if one.row_id == row_id)
        standing = {one.decision for one in decisions if one.row_id == row_id and one.time == last}
        assert expected[row_id].decision in standing if row_id in expected else Verdict.WITHDRAWN in standing


def test_decisions_come_back_as_they_were_written_whoever_wrote_them(folder_uri: str) -> None:
    run_uri = publish(folder_uri)
    fingerprint = read_fingerprint(run_uri)
    written = [
        make_decision(index=place, key=name * 3, note=name, reviewer=name, fingerprint=fingerprint)
        for place, name in enumerate(HOSTILE)
    ]
    for one in written:
        put_decisions(run_uri, "one.parquet", one)
    assert [read_decisions(run_uri)[RowId("photos-0", place)] for place in range(len(HOSTILE))] == written


def publish(run_uri: str) -> str:
    make_run(run_uri, ("cat",), {SHARD: [make_rejected_row("s0-0")]})
    return run_uri


def read_fingerprint(run_uri: str) -> str:
    return str(read_run(run_uri)["fingerprint"])


def test_run_without_reviews_has_no_decisions(tmp_path: Path) -> None:
    assert not read_decisions(publish(str(tmp_path)))


def test_same_key_in_two_shards_has_two_decisions() -> None:
    found = choose_latest([make_decision(), make_decision(shard="photos-1", decision=Verdict.REFUSE)])
    assert found.count() == {"accept": 1, "refuse": 1, "wrong_tag": 0, "missing_tag": 0, "redraw": 0}


def test_decision_about_an_older_mask_does_not_count() -> None:
    mask = {"bytes": b"judged", "path": "x.png"}
    found = choose_latest([make_decision(mask_sha256=compute_mask_digest(mask))])
    row = {"key": "s0-3", "index": 3, "image_sha256": "1" * 64, "mask": mask}
    assert found.is_accepted(MaskRow(row, "photos-0", ()))
    for change in ({"mask": {"bytes": b"labelled again", "path": "x.png"}}, {"image_sha256": "2" * 64}, {"index": 2}):
        assert not found.is_accepted(MaskRow(row | change, "photos-0", ())), change


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no parquet", "is no table of decisions"),
        (
            encode_decisions([make_decision(fingerprint="0" * 64)]),
            "holds decisions about another run, of fingerprint 0",
        ),
    ],
)
def test_files_that_are_no_decisions_of_the_run_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    run_uri = publish(str(tmp_path))
    put_atomic(join_uri(run_uri, "reviews", "ada", "x.parquet"), content)
    with pytest.raises(ManifestError, match=said):
        read_decisions(run_uri)


def test_unknown_word_of_a_decision_is_named(tmp_path: Path) -> None:
    run_uri = publish(str(tmp_path))
    put_decisions(run_uri, "x.parquet", make_decision(fingerprint=read_fingerprint(run_uri)))
    path = next(tmp_path.glob("reviews/*/*.parquet"))
    table = pq.read_table(path)
    table = table.set_column(3, DECISION_SCHEMA.field("decision"), [["perhaps"]])
    pq.write_table(table, path)
    with pytest.raises(ManifestError, match="'perhaps'"):
        read_decisions(run_uri)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"classes": ("dog",)}, "classes belong to"),
        ({"note": "x" * 1001}, "at most 1000 characters"),
        ({"note": "\ud800"}, "whole Unicode"),
        ({"reviewer": ""}, "name of a reviewer"),
        ({"reviewer": "a\nb"}, "name of a reviewer"),
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_decision(**wrong)
