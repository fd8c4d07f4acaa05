"""The labelling actor where labelling fails: the chunk is taken up again in a child process, with the same rows."""

import pytest

from pipeline.attempts import MAX_DEATHS, AttemptCounter
from pipeline.chunk_source import read_rows
from pipeline.label_actor import LabelChunks
from pipeline.resume import ShardWork
from tests.faults.conftest import OPTIONS


class BrokenLabeler:
    """Fails on everything, as a process does whose device is lost."""

    def label(self, samples):
        raise ArithmeticError("this process is broken")


@pytest.mark.parametrize("trouble", ["an exception", "three deaths"])
def test_chunk_that_fails_in_the_actor_is_labelled_in_a_child_process(open_small_run, tmp_path, trouble):
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs))
    attempts = AttemptCounter()
    actor = LabelChunks(run, OPTIONS, attempts)
    expected = actor(row)
    # Not even called once the chunk has killed three workers.
    actor._labeler = BrokenLabeler()
    if trouble == "three deaths":
        for _ in range(MAX_DEATHS):
            attempts.begin("photos-0/000000")
    assert actor(row).to_pylist() == expected.to_pylist()
    assert attempts.begin("photos-0/000000") == 0
