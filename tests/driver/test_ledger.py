"""The ledger of a wave, without Ray."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.commit.names import PartName
from pipeline.commit.outcome import Outcome
from pipeline.commit.plan import plan_run
from pipeline.commit.worker_reports import ChunkId, ChunkReport, ShardEndReport
from pipeline.driver.ledger import Ledger
from pipeline.run.counts import LabelCounts
from pipeline.run.records import InputShard, ShardEnd
from tests.commit.test_plan import make_run
from tests.fakes import SerialCluster


def make_ledger(out: Path, suffix: str) -> Any:
    shard = InputShard(uri=f"in/a.{suffix}", name="a", size_bytes=5000, etag="e")
    plan = plan_run(make_run(out, (shard,)))
    return Ledger(
        plan=plan,
        wave=plan.work,
        started_s=0.0,
        counts=LabelCounts(),
        submit=SerialCluster().submit,
        publish=lambda complete: Outcome(),
    )


CHUNK = ChunkReport(
    chunk=ChunkId(shard_name="a", part=PartName(chunk_index=0, end_offset=2048)),
    counts=LabelCounts(num_read=4, num_labelled=3, num_rejected=1, rejected_by_reason={"download_failed": 1}),
)


def make_end(truncated_at: Any = None) -> Any:
    return ShardEndReport(shard_name="a", end=ShardEnd(num_chunks=1, truncated_at=truncated_at))


@pytest.mark.parametrize(("suffix", "num_bytes_done"), [("tar", 2048), ("parquet", 0)])
def test_offsets_of_chunks_count_as_progress_when_they_are_bytes(
    tmp_path: Path, suffix: str, num_bytes_done: int
) -> None:
    ledger = make_ledger(tmp_path, suffix)
    ledger.enter(CHUNK)
    assert ledger.show().num_bytes_done == num_bytes_done
    assert ledger.show().counts.rejected_by_reason == {"download_failed": 1}


def test_repeated_chunk_counts_once_and_one_of_a_sealed_shard_not_at_all(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path, "tar")
    ledger.enter(CHUNK)
    ledger.enter(CHUNK)
    assert (ledger.num_chunks, ledger.counts.num_read) == (1, 4)
    ledger.enter(make_end())
    ledger.enter(CHUNK)
    assert (ledger.num_chunks, ledger.counts.num_read) == (1, 4)
    ledger.collect_seals(timeout_s=1.0)
    assert ledger.num_sealed == 1


@pytest.mark.parametrize(
    ("truncated_at", "words"), [(None, []), (3000, ["is truncated at byte 3000 of 5000", "the 2952 bytes behind it"])]
)
def test_truncated_shard_is_reported_with_the_number_of_unread_bytes(
    tmp_path: Path, truncated_at: int | None, words: list[str]
) -> None:
    ledger = make_ledger(tmp_path, "tar")
    # The end may be reported before the last chunk.
    ledger.enter(make_end(truncated_at))
    ledger.enter(CHUNK)
    assert len(ledger.truncated_shards) == bool(words)
    for part in words:
        assert part in ledger.truncated_shards["a"]
