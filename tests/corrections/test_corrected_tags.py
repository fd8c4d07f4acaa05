"""Rows whose tags reviewers corrected are labelled again: exactly these, with the corrected classes, once."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.execution.retry import check_retry, open_ordered
from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.commit.encoding import FOOTER_KEY
from pipeline.commit.plan import ORDERS_FOLDER, read_order
from pipeline.commit.retry import open_retry, parse_reasons
from pipeline.corrections.corrected_tags import (
    NO_CHANGE,
    NO_CLASS,
    NO_SUCH_CLASS,
    NOT_PUBLISHED,
    OTHER_ROW,
    find_corrections,
)
from pipeline.errors import ManifestError, RunConflictError
from pipeline.label import label_run
from pipeline.local_cluster.cluster import LocalCluster
from pipeline.published.decisions import Decision, Verdict, compute_mask_digest, read_decisions
from pipeline.published.run import open_published
from pipeline.run.records import MANIFEST_SCHEMA, TagEdit
from pipeline.run.run_file import Run, read_run
from pipeline.storage.listing import list_folder
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.fakes import CrashError, FaultyStore, SerialCluster
from tests.published.test_decisions import NOON, put_decisions
from tests.small_run import OPTIONS

pytestmark = pytest.mark.timeout(300)
LENIENT = replace(OPTIONS, max_rejected_fraction=1.0)
BOTH = "reviewed:wrong_tag,reviewed:missing_tag"
SHARDS = ("photos-0", "photos-1")
CAT, DOG = 1, 2


def read_rows(out: str) -> dict[str, list[dict[str, Any]]]:
    return {
        name: pq.read_table(io.BytesIO(read_bytes(join_uri(out, "labels", f"{name}.parquet")))).to_pylist()
        for name in SHARDS
    }


def read_retries(out: str, shard: str) -> list[Any]:
    payload = read_bytes(join_uri(out, "labels", f"{shard}.parquet"))
    found: list[Any] = json.loads(pq.read_schema(io.BytesIO(payload)).metadata[FOOTER_KEY]).get("retries", [])
    return found


def decide(out: str, shard_name: str, place: int, verdict: str, *classes: str, **changes: Any) -> None:
    """Write a decision about a row as it is now."""
    row = read_rows(out)[shard_name][place]
    plain: dict[str, Any] = {
        "shard": shard_name,
        "index": place,
        "key": row["key"],
        "decision": Verdict(verdict),
        "classes": classes,
        "reviewer": "ada",
        "time": NOON,
        "fingerprint": read_run(out)["fingerprint"],
        "image_sha256": row["image_sha256"],
        "mask_sha256": compute_mask_digest(row["mask"]),
    }
    decision = Decision(**plain | changes)
    put_decisions(out, f"{shard_name}-{place}-{decision.time:%H%M%S}.parquet", decision)


def audit(out: str) -> Any:
    return verify_run(list_run(out), FULL).findings


def retry(run: Run, text: str = BOTH, cluster: Any = None) -> tuple[Any, Any]:
    run, order = open_ordered(run, text, writes=True)
    cluster = cluster or SerialCluster()
    return label_run(run, LENIENT, retry=order, cluster=cluster), cluster


@pytest.fixture(params=["local", "faulty", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    return str(request.getfixturevalue("faulty_uri" if request.param == "faulty" else "s3_folder"))


@pytest.fixture
def label_first(open_small_run: Callable[..., Run]) -> Callable[[str], dict[str, Any]]:
    def label(out: str) -> dict[str, Any]:
        label_run(open_small_run(out), LENIENT, cluster=SerialCluster())
        return read_rows(out)

    return label


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, int]]:
    return [
        (name, place)
        for name in SHARDS
        for place, (old, new) in enumerate(zip(before[name], after[name], strict=True))
        if old != new
    ]


def test_exactly_the_corrected_rows_change_and_the_audit_passes(
    open_small_run: Callable[..., Run], label_first: Callable[..., Any], out: str
) -> None:
    before = label_first(out)
    decide(out, "photos-0", 3, "wrong_tag", "dog")
    decide(out, "photos-0", 0, "missing_tag", "dog")
    decide(out, "photos-1", 1, "missing_tag", "cat")  # rejected: it has no known tag
    decide(out, "photos-1", 2, "refuse")
    retry(open_small_run(out, check=False))
    after = read_rows(out)
    assert differing(before, after) == [("photos-0", 0), ("photos-0", 3), ("photos-1", 1)]
    assert after["photos-0"][0]["class_ids"] == [CAT, DOG]
    assert after["photos-1"][1]["class_ids"] == [CAT]
    assert after["photos-1"][1]["status"] == "labelled"
    assert after["photos-1"][1]["tags_unknown"] == ["sunset"]
    emptied = after["photos-0"][3]
    assert (emptied["status"], emptied["reason"], emptied["class_ids"]) == ("rejected", "no_known_tag", [])
    assert emptied["error"] == "a reviewer took away all classes that its tags name"
    assert read_retries(out, "photos-0")[0]["edits"] == {"0": [[], [DOG]], "3": [[DOG], []]}
    assert read_retries(out, "photos-1")[0]["edits"] == {"1": [[], [CAT]]}
    assert audit(out) == {}


def test_the_same_command_again_does_nothing(
    open_small_run: Callable[..., Run], label_first: Callable[..., Any], tmp_path: Path
) -> None:
    out = str(tmp_path)
    label_first(out)
    decide(out, "photos-0", 3, "wrong_tag", "dog")
    decide(out, "photos-1", 0, "missing_tag", "dog")
    retry(open_small_run(out, check=False))
    once = read_rows(out)
    _, cluster = retry(open_small_run(out, check=False))
    assert (cluster.labelled, read_rows(out)) == ([], once)
    # Also if the decision is about the new row, of which the mask may have the bytes of before.
    decide(out, "photos-0", 3, "wrong_tag", "dog", time=NOON.replace(hour=13))
    _, cluster = retry(open_small_run(out, check=False))
    assert (cluster.labelled, read_rows(out)) == ([], once)


def test_later_decisions_and_later_retries_keep_earlier_corrections(
    open_small_run: Callable[..., Run], label_first: Callable[..., Any], tmp_path: Path
) -> None:
    out = str(tmp_path)
    label_first(out)
    decide(out, "photos-0", 0, "wrong_tag", "cat")
    retry(open_small_run(out, check=False))
    assert read_rows(out)["photos-0"][0]["reason"] == "no_known_tag"
    # The tags of the input still say cat.
    run, order = open_retry(open_small_run(out, check=False), parse_reasons("rejected:no_known_tag"))
    label_run(run, LENIENT, retry=order, cluster=SerialCluster())
    assert read_rows(out)["photos-0"][0]["reason"] == "no_known_tag"
    decide(out, "photos-0", 0, "missing_tag", "dog", time=NOON.replace(hour=13))
    retry(open_small_run(out, check=False))
    assert read_rows(out)["photos-0"][0]["class_ids"] == [DOG]
    assert audit(out) == {}


def test_killed_retry_goes_on_with_the_corrections_that_it_began_with(
    open_small_run: Callable[..., Run], label_first: Callable[..., Any], faulty_uri: str, capsys: Any
) -> None:
    label_first(faulty_uri)
    decide(faulty_uri, "photos-0", 3, "missing_tag", "cat")
    decide(faulty_uri, "photos-1", 0, "missing_tag", "dog")
    FaultyStore.heal()

    def crash(count: Any, name: str) -> None:
        if "labels" in name:
            raise CrashError(name)

    FaultyStore.before_write = staticmethod(crash)
    with contextlib.suppress(CrashError):
        retry(open_small_run(faulty_uri, check=False))
    FaultyStore.heal()
    decide(faulty_uri, "photos-1", 4, "missing_tag", "dog")
    decide(faulty_uri, "photos-0", 3, "accept", time=NOON.replace(hour=13))
    retry(open_small_run(faulty_uri, check=False))
    rows = read_rows(faulty_uri)
    assert "unfinished retry of 2 rows" in capsys.readouterr().out
    assert rows["photos-0"][3]["class_ids"] == [CAT, DOG]
    assert rows["photos-1"][0]["class_ids"] == [CAT, DOG]
    assert rows["photos-1"][4]["class_ids"] == [CAT]
    retry(open_small_run(faulty_uri, check=False))
    assert read_rows(faulty_uri)["photos-1"][4]["class_ids"] == [CAT, DOG]
    orders = [read_order(item.uri)[0].id for item in list_folder(join_uri(faulty_uri, ORDERS_FOLDER))]
    assert sorted(orders) == sorted({entry["id"] for name in SHARDS for entry in read_retries(faulty_uri, name)})


def test_unfinished_retry_under_other_limits_is_refused(
    open_small_run: Callable[..., Run], label_first: Callable[..., Any], tmp_path: Path
) -> None:
    label_first(str(tmp_path))
    decide(str(tmp_path), "photos-0", 3, "missing_tag", "cat")
    open_ordered(open_small_run(str(tmp_path), check=False), BOTH, writes=True)
    with pytest.raises(RunConflictError, match="unfinished retry of reviewed:missing_tag, reviewed:wrong_tag under"):
        open_ordered(open_small_run(str(tmp_path), check=False, max_image_pixels=99), BOTH, writes=True)


def test_edited_order_is_refused(
    open_small_run: Callable[..., Run], label_first: Callable[..., Any], tmp_path: Path
) -> None:
    label_first(str(tmp_path))
    put_atomic(str(tmp_path / ORDERS_FOLDER / "0.json"), b'{"reasons": [], "settings": "", "edits": {}}')
    with pytest.raises(ManifestError, match="was edited"):
        open_ordered(open_small_run(str(tmp_path), check=False), BOTH, writes=True)


def test_dry_run_writes_no_order(
    open_small_run: Callable[..., Run], label_first: Callable[..., Any], tmp_path: Path
) -> None:
    label_first(str(tmp_path))
    decide(str(tmp_path), "photos-0", 3, "missing_tag", "cat")
    _, order = open_ordered(open_small_run(str(tmp_path), check=False), BOTH, writes=False)
    assert order.edits == {"photos-0": {3: TagEdit(added=frozenset({CAT}))}}
    assert list_folder(join_uri(str(tmp_path), ORDERS_FOLDER)) == []


def test_decisions_that_change_nothing_are_counted_by_reason(label_first: Callable[..., Any], tmp_path: Path) -> None:
    out = str(tmp_path)
    label_first(out)
    decide(out, "photos-0", 0, "wrong_tag")
    decide(out, "photos-0", 2, "wrong_tag", "dog")
    decide(out, "photos-0", 3, "wrong_tag", "dog", mask_sha256="0" * 64)
    decide(out, "photos-1", 0, "wrong_tag", "cat", image_sha256="0" * 64)
    decide(out, "photos-1", 1, "wrong_tag", "zebra")
    decide(out, "photos-1", 2, "wrong_tag", "cat", key="../<b>🐱\n")
    decide(out, "photos-1", 3, "missing_tag", "cat", shard="gone")
    decide(out, "photos-1", 4, "missing_tag", "dog", index=99)
    found = find_corrections(open_published(out), read_decisions(out), [Verdict.WRONG_TAG, Verdict.MISSING_TAG])
    assert found.edits == {}
    assert dict(found.left_out) == {NO_CLASS: 1, NO_CHANGE: 1, OTHER_ROW: 4, NO_SUCH_CLASS: 1, NOT_PUBLISHED: 1}


def test_kinds_are_those_that_were_asked_for(label_first: Callable[..., Any], tmp_path: Path) -> None:
    out = str(tmp_path)
    label_first(out)
    decide(out, "photos-0", 3, "wrong_tag", "dog")
    decide(out, "photos-0", 4, "missing_tag", "dog")
    found = find_corrections(open_published(out), read_decisions(out), [Verdict.WRONG_TAG])
    assert found.edits == {"photos-0": {3: TagEdit(removed=frozenset({DOG}))}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reviewed:redraw", "tagmask import-masks"),
        ("reviewed:refuse", "--without-refused"),
        ("reviewed:accept", "needs no other"),
        ("reviewed:", "got ''"),
        ("reviewed:wrong_tag,rejected:crashed", "one, then the other"),
        ("rejected:crashed,reviewed:wrong_tag", "one, then the other"),
        ("wrong_tag", "--retry takes 'rejected'"),
    ],
)
def test_retry_that_cannot_be_is_refused_with_advice(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_retry(text)


def test_child_processes_label_the_corrected_rows(
    open_small_run: Callable[..., Run], label_first: Callable[..., Any], tmp_path: Path
) -> None:
    out = str(tmp_path)
    before = label_first(out)
    decide(out, "photos-1", 3, "missing_tag", "cat")
    retry(open_small_run(out, check=False), cluster=LocalCluster(1))
    after = read_rows(out)
    assert differing(before, after) == [("photos-1", 3)]
    assert after["photos-1"][3]["class_ids"] == [CAT, DOG]
    assert pa.Table.from_pylist(after["photos-1"], schema=MANIFEST_SCHEMA).num_rows == 5
