"""The labelling actor where labelling fails: the chunk is taken up again in a child process, with the same rows."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Never

import pytest

from pipeline.commit.names import PartName, list_part_names
from pipeline.commit.plan import ShardWork
from pipeline.errors import LabellingError, StorageError
from pipeline.labelling.chunk_rows import read_rows
from pipeline.labelling.label_actor import MAX_MISSES, LabelChunks, WatchedLabeler
from pipeline.run.run_file import Run
from pipeline.workers.attempts import MAX_DEATHS, MAX_DEATHS_IN_ALL, AttemptCounter
from tests.fakes import REPORTING, FaultyStore
from tests.small_run import OPTIONS


class BrokenLabeler:
    """Fails on everything, as a process does whose device is lost."""

    def label(self, samples: Any) -> Never:
        raise ArithmeticError("this process is broken")


class RecoveringLabeler:
    """Fails on the first chunks."""

    def __init__(self, num_failures: int, run: Any, options: Any) -> None:
        self.labeler, self.num_failures = WatchedLabeler(run, options), num_failures

    def label(self, samples: Any) -> Any:
        self.num_failures -= 1
        return (BrokenLabeler() if self.num_failures >= 0 else self.labeler).label(samples)


class BereftLabeler:
    """Loses a process beside the device with its first chunk."""

    def __init__(self, run: Any, options: Any) -> None:
        self.labeler, self.num_failures = WatchedLabeler(run, options), 1

    def label(self, samples: Any) -> Any:
        self.num_failures -= 1
        if self.num_failures >= 0:
            raise BrokenProcessPool("a process ended")
        return self.labeler.label(samples)


def die() -> None:
    """Die as a process does that the kernel ends."""
    os.kill(os.getpid(), signal.SIGKILL)


def make_by_process(actor_pid: Any, make_in_actor: Any, make_in_child: Any, run: Any, options: Any) -> Any:
    """Make one labeler in the process of the actor, and another in its child processes."""
    return (make_in_actor if os.getpid() == actor_pid else make_in_child)(run, options)


def make_broken(run: Any, options: Any) -> Any:
    """Make a labeler that fails on everything."""
    return BrokenLabeler()


def make_stillborn(run: Any, options: Any) -> None:
    """Die before anything is labelled."""
    die()


def choose_labelers(make_in_actor: Any, make_in_child: Any = WatchedLabeler) -> Any:
    """Make one labeler here, and another in child processes."""
    return partial(make_by_process, os.getpid(), make_in_actor, make_in_child)


@pytest.mark.parametrize("trouble", ["an exception", "three deaths"])
def test_chunk_that_fails_in_the_actor_is_labelled_in_a_child_process(
    open_small_run: Callable[..., Run], tmp_path: Path, trouble: str
) -> None:
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    attempts = AttemptCounter()
    expected = LabelChunks(run, OPTIONS, attempts, REPORTING)(row)
    # Not even called once the chunk has killed three workers.
    actor = LabelChunks(run, OPTIONS, attempts, REPORTING, make_labeler=choose_labelers(make_broken))
    if trouble == "three deaths":
        for _ in range(MAX_DEATHS):
            attempts.begin("photos-0/000000")
    assert actor(row).to_pylist() == expected.to_pylist()
    assert attempts.begin("photos-0/000000") == 0


def test_chunk_that_lost_a_process_beside_the_device_is_tried_here_once_more(
    open_small_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    expected = LabelChunks(run, OPTIONS, AttemptCounter(), REPORTING)(row)
    # A child process could not be started.
    make_labeler = choose_labelers(BereftLabeler, make_stillborn)
    actor = LabelChunks(run, OPTIONS, AttemptCounter(), REPORTING, make_labeler=make_labeler)
    assert actor(row).to_pylist() == expected.to_pylist()


def test_chunk_is_committed_when_the_call_that_labelled_it_ends(
    open_small_run: Callable[..., Run], tmp_path: Path
) -> None:
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


def test_error_of_a_commit_is_raised_and_leaves_no_part(open_small_run: Callable[..., Run], faulty_uri: str) -> None:
    run = open_small_run(faulty_uri)
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))

    def refuse(number: int, name: str) -> Never:
        raise PermissionError("access denied")

    FaultyStore.before_write = staticmethod(refuse)
    with pytest.raises(StorageError, match="access denied"):
        LabelChunks(run, OPTIONS, AttemptCounter(), REPORTING)(row)
    assert list_part_names(run.out_uri) == {}


def test_chunk_that_kills_workers_whatever_is_done_fails_its_shard(
    open_small_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    attempts = AttemptCounter()
    for _ in range(MAX_DEATHS_IN_ALL):
        attempts.begin("photos-0/000000")
    (fields,) = LabelChunks(run, OPTIONS, attempts, REPORTING)(row).to_pylist()
    assert fields["is_end"]
    assert fields["error"].startswith("shard 'photos-0': 30 workers died with chunk 0, also when a child process")
    assert list_part_names(run.out_uri) == {}


def test_actor_that_cannot_label_what_a_child_process_can_ends_itself(
    open_small_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = open_small_run(str(tmp_path / "out"))
    rows = list(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    ended: list[Any] = []
    reporting = replace(REPORTING, end_process=ended.append)
    actor = LabelChunks(run, OPTIONS, AttemptCounter(), reporting, make_labeler=choose_labelers(make_broken))
    for row in rows[:MAX_MISSES]:
        actor(row)
    assert ended == []
    actor(rows[MAX_MISSES])
    assert ended == ["2 chunks in a row, which a child process labelled without trouble"]


def test_chunk_of_which_nothing_can_be_labelled_fails_its_shard_and_no_other(
    open_small_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = open_small_run(str(tmp_path / "out"))
    rows = list(read_rows([ShardWork(shard=shard) for shard in run.shards], run.config.inputs, REPORTING))
    attempts, ended = AttemptCounter(), []
    reporting = replace(REPORTING, end_process=ended.append)
    make_labeler = choose_labelers(partial(RecoveringLabeler, MAX_MISSES), make_broken)
    actor = LabelChunks(run, OPTIONS, attempts, reporting, make_labeler=make_labeler)
    (fields,) = actor(rows[0]).to_pylist()
    assert (fields["shard_name"], fields["is_end"], fields["is_store_error"]) == ("photos-0", True, False)
    assert fields["error"].startswith("shard 'photos-0': labelling fails with every one of 2 images from 's0-0' on")
    assert attempts.begin("photos-0/000000") == 0
    # Should it have been the process and not the images, then it fails no third shard.
    actor(rows[1])
    assert ended == []
    (fields,) = actor(rows[-2]).to_pylist()
    assert len(ended) == 1
    assert (fields["shard_name"], fields["error"]) == ("photos-1", None)


def test_child_that_cannot_start_is_not_blamed_on_the_shard(open_small_run: Callable[..., Run], tmp_path: Path) -> None:
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    make_labeler = choose_labelers(make_broken, make_stillborn)
    actor = LabelChunks(run, OPTIONS, AttemptCounter(), REPORTING, make_labeler=make_labeler)
    with pytest.raises(LabellingError, match="cannot be started"):
        actor(row)


def test_commit_that_hangs_is_noticed(open_small_run: Callable[..., Run], faulty_uri: str) -> None:
    run = open_small_run(faulty_uri)
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs, REPORTING))
    is_noticed = threading.Event()

    def notice(name: str) -> None:
        # Under the same limit the model is loaded.
        if name == "committing photos-0/000000":
            is_noticed.set()

    reporting = replace(REPORTING, beat_period_s=0.05, end_process=notice)
    actor = LabelChunks(run, OPTIONS, AttemptCounter(), reporting, commit_timeout_s=0.2)
    FaultyStore.before_write = staticmethod(lambda number, name: is_noticed.wait(60))
    actor(row)
    assert is_noticed.is_set()
