"""The labelling actor where labelling fails: the chunk is taken up again in a child process, with the same rows."""

import os
import signal
import threading

import pytest

from pipeline.commit.parts import PartName, list_part_names
from pipeline.commit.plan import ShardWork
from pipeline.errors import LabellingError
from pipeline.labelling import label_actor
from pipeline.labelling.chunk_source import read_rows
from pipeline.labelling.label_actor import LabelChunks
from pipeline.workers import pulse
from pipeline.workers.attempts import MAX_DEATHS, AttemptCounter
from tests.fakes import REPORTING
from tests.small_run import OPTIONS


class StillbornLabeler:
    """Dies before it has seen anything."""

    def __init__(self):
        os.kill(os.getpid(), signal.SIGKILL)


class BrokenLabeler:
    """Fails on everything, as a process does whose device is lost."""

    def label(self, samples):
        raise ArithmeticError("this process is broken")


@pytest.mark.parametrize("trouble", ["an exception", "three deaths"])
def test_chunk_that_fails_in_the_actor_is_labelled_in_a_child_process(open_small_run, tmp_path, trouble):
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    attempts = AttemptCounter()
    actor = LabelChunks(run, OPTIONS, attempts, REPORTING)
    expected = actor(row)
    # Not even called once the chunk has killed three workers.
    actor._labeler = BrokenLabeler()
    if trouble == "three deaths":
        for _ in range(MAX_DEATHS):
            attempts.begin("photos-0/000000")
    assert actor(row).to_pylist() == expected.to_pylist()
    assert attempts.begin("photos-0/000000") == 0


def test_chunk_is_committed_when_the_call_that_labelled_it_ends(open_small_run, tmp_path):
    run = open_small_run(str(tmp_path / "out"))
    rows = list(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    actor = LabelChunks(run, OPTIONS, AttemptCounter(), REPORTING)
    for row in rows:
        fields = actor(row).to_pylist()[0]
        if not fields["is_end"]:
            part = PartName(chunk_index=fields["chunk_index"], end_offset=fields["end_offset"])
            assert part in list_part_names(run.out_uri)[fields["shard_name"]]
    assert actor(rows[0].slice(0, 0)).num_rows == 0
    assert sum(map(len, list_part_names(run.out_uri).values())) == len(rows) - 1


def test_error_of_a_commit_is_raised_and_leaves_no_part(open_small_run, tmp_path, monkeypatch):
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))

    def refuse(uri, payload):
        raise PermissionError(f"'{uri}': access denied")

    monkeypatch.setattr("pipeline.commit.parts.put_atomic", refuse)
    with pytest.raises(PermissionError, match="access denied"):
        LabelChunks(run, OPTIONS, AttemptCounter(), REPORTING)(row)
    assert list_part_names(run.out_uri) == {}


def test_chunk_that_kills_workers_whatever_is_done_fails_its_shard(open_small_run, tmp_path):
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    attempts = AttemptCounter()
    for _ in range(label_actor.MAX_DEATHS_IN_ALL):
        attempts.begin("photos-0/000000")
    (fields,) = LabelChunks(run, OPTIONS, attempts, REPORTING)(row).to_pylist()
    assert fields["is_end"]
    assert fields["error"].startswith("shard 'photos-0': 30 workers died with chunk 0, also when a child process")
    assert list_part_names(run.out_uri) == {}


def test_actor_that_cannot_label_what_a_child_process_can_ends_itself(open_small_run, tmp_path, monkeypatch):
    run = open_small_run(str(tmp_path / "out"))
    rows = list(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    actor = LabelChunks(run, OPTIONS, AttemptCounter(), REPORTING)
    actor._labeler = BrokenLabeler()
    ended = []
    monkeypatch.setattr(label_actor, "end_process", ended.append)
    for row in rows[: label_actor.MAX_MISSES]:
        actor(row)
    assert ended == []
    actor(rows[label_actor.MAX_MISSES])
    assert ended == ["2 chunks in a row, which a child process labelled without trouble"]


def test_chunk_of_which_nothing_can_be_labelled_fails_its_shard_and_no_other(open_small_run, tmp_path, monkeypatch):
    run = open_small_run(str(tmp_path / "out"))
    rows = list(read_rows([ShardWork(shard=shard) for shard in run.shards], run.config.inputs, REPORTING))
    attempts = AttemptCounter()
    actor = LabelChunks(run, OPTIONS, attempts, REPORTING)
    good, actor._labeler, actor._make_labeler = actor._labeler, BrokenLabeler(), BrokenLabeler
    (fields,) = actor(rows[0]).to_pylist()
    assert (fields["shard_name"], fields["is_end"], fields["is_store_error"]) == ("photos-0", True, None)
    assert fields["error"].startswith("shard 'photos-0': labelling fails with every one of 2 images from 's0-0' on")
    assert attempts.begin("photos-0/000000") == 0
    # Should it have been the process and not the images, then it fails no third shard.
    actor(rows[1])
    ended = []
    monkeypatch.setattr(label_actor, "end_process", ended.append)
    actor._labeler = good
    (fields,) = actor(rows[-2]).to_pylist()
    assert len(ended) == 1
    assert (fields["shard_name"], fields["error"]) == ("photos-1", None)


def test_child_that_cannot_start_is_not_blamed_on_the_shard(open_small_run, tmp_path):
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    actor = LabelChunks(run, OPTIONS, AttemptCounter(), REPORTING)
    actor._labeler, actor._make_labeler = BrokenLabeler(), StillbornLabeler
    with pytest.raises(LabellingError, match="cannot be started"):
        actor(row)


def test_commit_that_hangs_is_noticed(open_small_run, tmp_path, monkeypatch):
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    stalled, is_noticed = [], threading.Event()

    def notice(name):
        stalled.append(name)
        is_noticed.set()

    monkeypatch.setattr(pulse, "end_process", notice)
    monkeypatch.setattr(pulse, "BEAT_PERIOD_S", 0.05)
    monkeypatch.setattr(label_actor, "COMMIT_TIMEOUT_S", 0.2)
    monkeypatch.setattr("pipeline.commit.parts.put_atomic", lambda uri, payload: is_noticed.wait(60))
    LabelChunks(run, OPTIONS, AttemptCounter(), REPORTING)(row)
    assert stalled[0] == "committing photos-0/000000"
