"""The labelling actor where labelling fails: the chunk is taken up again in a child process, with the same rows."""

import pytest

from pipeline.attempts import MAX_DEATHS, AttemptCounter
from pipeline.chunk_source import read_rows
from pipeline.commit import PartName, list_part_names
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


def test_chunk_is_committed_when_the_call_that_labelled_it_ends(open_small_run, tmp_path):
    run = open_small_run(str(tmp_path / "out"))
    rows = list(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs))
    actor = LabelChunks(run, OPTIONS, AttemptCounter())
    for row in rows:
        fields = actor(row).to_pylist()[0]
        if not fields["is_end"]:
            part = PartName(chunk_index=fields["chunk_index"], end_offset=fields["end_offset"])
            assert part in list_part_names(run.out_uri)[fields["shard_name"]]
    assert actor(rows[0].slice(0, 0)).num_rows == 0
    assert sum(map(len, list_part_names(run.out_uri).values())) == len(rows) - 1


def test_error_of_a_commit_is_raised_and_leaves_no_part(open_small_run, tmp_path, monkeypatch):
    run = open_small_run(str(tmp_path / "out"))
    row = next(read_rows([ShardWork(shard=run.shards[0])], run.config.inputs))

    def refuse(uri, payload):
        raise PermissionError(f"'{uri}': access denied")

    monkeypatch.setattr("pipeline.commit.put_atomic", refuse)
    with pytest.raises(PermissionError, match="access denied"):
        LabelChunks(run, OPTIONS, AttemptCounter())(row)
    assert list_part_names(run.out_uri) == {}
