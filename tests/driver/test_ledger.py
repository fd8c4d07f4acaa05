"""What the driver knows of a wave, without Ray: progress by what comes back."""

import pytest

from pipeline.commit.plan import plan_run
from pipeline.driver.ledger import Ledger
from pipeline.labelling.label_actor import LabelOptions
from pipeline.run.counts import LabelCounts
from pipeline.run.records import InputShard
from tests.commit.test_plan import make_run
from tests.fakes import SerialEngine


def make_ledger(out, suffix):
    shard = InputShard(uri=f"in/a.{suffix}", name="a", size_bytes=5000, etag="e")
    run = make_run(out, (shard,))
    plan = plan_run(run)
    return Ledger(
        run=run,
        options=LabelOptions(),
        plan=plan,
        wave=plan.work,
        started_s=0.0,
        counts=LabelCounts(),
        submit=SerialEngine().submit,
    )


CHUNK = {"shard_name": "a", "error": None, "is_end": False, "chunk_index": 0, "end_offset": 2048}
CHUNK |= {"num_labelled": 3, "rejected": [("download_failed", 1)]}


@pytest.mark.parametrize(("suffix", "num_bytes_done"), [("tar", 2048), ("parquet", 0)])
def test_offsets_of_chunks_count_as_progress_when_they_are_bytes(tmp_path, suffix, num_bytes_done):
    ledger = make_ledger(tmp_path, suffix)
    ledger.take(CHUNK)
    assert ledger.show().num_bytes_done == num_bytes_done
    assert ledger.show().counts.rejected_by_reason == {"download_failed": 1}


def test_chunk_that_comes_twice_counts_once_and_one_of_a_sealed_shard_not_at_all(tmp_path):
    ledger = make_ledger(tmp_path, "tar")
    ledger.take(CHUNK)
    ledger.take(CHUNK)
    assert (ledger.num_chunks, ledger.counts.num_read) == (1, 4)
    ledger.take({"shard_name": "a", "error": None, "is_end": True, "num_chunks": 1, "truncated_at": None})
    ledger.take(CHUNK)
    assert (ledger.num_chunks, ledger.counts.num_read) == (1, 4)


@pytest.mark.parametrize(
    ("truncated_at", "told"), [(None, []), (3000, ["breaks off at byte 3000 of 5000", "the 2952 bytes behind it"])]
)
def test_shard_that_breaks_off_is_told_with_what_was_not_read(tmp_path, truncated_at, told):
    ledger = make_ledger(tmp_path, "tar")
    # The end may come back before the last chunk does.
    ledger.take({"shard_name": "a", "error": None, "is_end": True, "num_chunks": 1, "truncated_at": truncated_at})
    ledger.take(CHUNK)
    assert len(ledger.cut_shards) == bool(told)
    for words in told:
        assert words in ledger.cut_shards["a"]
