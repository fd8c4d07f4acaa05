"""Stored decisions: none is lost by a kill, a lost store or several reviewers."""

import multiprocessing
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.published.decisions import RowId, Verdict, read_all_decisions, read_decisions
from pipeline.review.decision_log import DecisionLog
from pipeline.run.records import InputShard
from pipeline.storage.listing import list_objects
from tests.factories import make_rejected_row, make_run
from tests.fakes import FaultyStore
from tests.review.deciding import NOON, decide, decide_for_ever, open_log, read_fingerprint


def publish(run_uri: str) -> str:
    shard = InputShard(uri="/gone/photos-0.tar", name="photos-0", size_bytes=512, etag="e")
    make_run(run_uri, ("cat",), {shard: [make_rejected_row("s0-0")]})
    return run_uri


def list_files(run_uri: str) -> list[str]:
    return [item.uri.rpartition("/")[2] for item in list_objects(f"{run_uri}/reviews")]


def test_each_decision_is_stored_at_once_and_merged_at_the_end(folder_uri: str) -> None:
    run_uri = publish(folder_uri)
    log = open_log(run_uri)
    for place in range(3):
        decide(log, run_uri, place)
        assert len(read_decisions(run_uri)) == place + 1
    assert len(list_files(run_uri)) == 3
    before = read_decisions(run_uri)
    log.close()
    assert list_files(run_uri) == ["s1-first-000003.parquet"]
    assert read_decisions(run_uri) == before
    log.close()
    assert list_files(run_uri) == ["s1-first-000003.parquet"]


def test_many_decisions_stay_few_files(tmp_path: Path) -> None:
    run_uri = publish(str(tmp_path))
    log = DecisionLog(run_uri, read_fingerprint(run_uri), "ada", "s1", lambda: NOON, max_small_files=4)
    for place in range(10):
        decide(log, run_uri, place)
        assert len(list_files(run_uri)) <= 4
    assert len(read_decisions(run_uri)) == 10


def test_next_decision_counts_though_the_clock_went_back(tmp_path: Path) -> None:
    run_uri = publish(str(tmp_path))
    decide(open_log(run_uri), run_uri)
    late = open_log(run_uri, "bob", "s2", lambda: NOON - timedelta(hours=1))
    decide(late, run_uri, verdict=Verdict.REFUSE)
    assert read_decisions(run_uri)[RowId("photos-0", 0)].reviewer == "bob"
    decide(late, run_uri, verdict=Verdict.WITHDRAWN)
    assert not read_decisions(run_uri)
    assert not open_log(run_uri, "eve", "s3").decisions


def test_killed_reviewers_lose_nothing_that_was_answered(tmp_path: Path) -> None:
    run_uri = publish(str(tmp_path))
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    writers = [context.Process(target=decide_for_ever, args=(run_uri, name, said)) for name in ("ada", "bob")]
    for writer in writers:
        writer.start()
    answered: set[tuple[str, int]] = set()
    while not all(sum(name == who for who, _ in answered) >= 20 for name in ("ada", "bob")):
        answered.add(said.get(timeout=120))
    for writer in writers:
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    # Read as it lies there, and by the next session.
    stored = {(one.reviewer, one.index) for one in read_all_decisions(run_uri, read_fingerprint(run_uri))}
    assert stored >= answered
    assert open_log(run_uri, "ada", "next").decisions == read_decisions(run_uri)


def test_decision_that_was_not_stored_is_reported_and_the_one_before_counts(faulty_uri: str) -> None:
    run_uri = publish(faulty_uri)
    FaultyStore.heal()
    log = open_log(run_uri)
    decide(log, run_uri)

    def fail(number: int, name: str) -> None:
        raise OSError(5, "the store is away")

    FaultyStore.before_write = staticmethod(fail)
    with pytest.raises(OSError, match="the store is away"):
        decide(log, run_uri, verdict=Verdict.REFUSE)
    FaultyStore.heal()
    found = log.get(RowId("photos-0", 0))
    assert found is not None
    assert found.decision == Verdict.ACCEPT
    assert read_decisions(run_uri)[RowId("photos-0", 0)] == found
    decide(log, run_uri, verdict=Verdict.REFUSE)
    assert read_decisions(run_uri).count()["refuse"] == 1


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\x1bb"])
def test_names_of_reviewers_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path, name: str) -> None:
    run_uri = publish(str(tmp_path))
    with pytest.raises(ValueError, match="name of a reviewer"):
        open_log(run_uri, name)
