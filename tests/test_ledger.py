"""What the driver knows of a wave, without Ray: progress by what comes back."""

import pytest

from pipeline.counts import LabelCounts
from pipeline.label_actor import LabelOptions
from pipeline.ledger import Ledger
from pipeline.records import InputShard
from pipeline.resume import plan_run
from tests.fakes import SerialEngine
from tests.test_resume import make_run


@pytest.mark.parametrize(("suffix", "num_bytes_done"), [("tar", 2048), ("parquet", 0)])
def test_offsets_of_chunks_count_as_progress_when_they_are_bytes(tmp_path, suffix, num_bytes_done):
    shard = InputShard(uri=f"in/a.{suffix}", name="a", size_bytes=5000, etag="e")
    run = make_run(tmp_path, (shard,))
    plan = plan_run(run)
    ledger = Ledger(
        run=run,
        options=LabelOptions(),
        plan=plan,
        wave=plan.work,
        started_s=0.0,
        counts=LabelCounts(),
        submit=SerialEngine().submit,
    )
    chunk = {"shard_name": "a", "error": None, "is_end": False, "chunk_index": 0, "end_offset": 2048}
    ledger.take(chunk | {"num_labelled": 3, "rejected": [("download_failed", 1)]})
    assert ledger.show().num_bytes_done == num_bytes_done
    assert ledger.show().counts.rejected_by_reason == {"download_failed": 1}
