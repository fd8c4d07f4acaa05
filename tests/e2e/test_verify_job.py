"""`python -m jobs.verify` on a run that is too large for one process."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from jobs.verify import main
from pipeline.audit.shard import verify_shard
from pipeline.audit.verdict import Check
from pipeline.audit.verify import FULL, Depth, list_run, verify_run
from pipeline.inputs.shards import list_shards
from tests.factories import make_rejected_row, make_run, make_tar

pytestmark = pytest.mark.ray

NUM_SHARDS = FULL.num_shards_in_process + 4


def test_verify_job_on_ray_finds_the_one_lost_row_and_the_one_lost_shard(
    local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {}
    for number in range(NUM_SHARDS):
        keys = [f"{number}/photo{i}" for i in range(5)]
        path = make_tar(tmp_path / "inputs" / f"{number:05d}.tar", {key: {"jpg": b"x"} for key in keys})
        (shard,) = list_shards([str(path)])
        rows[shard] = [make_rejected_row(key) for key in keys]
    make_run(str(tmp_path / "whole"), ["cat"], rows)
    assert main(["--labels", str(tmp_path / "whole")]) == 0
    assert f"{NUM_SHARDS} of {NUM_SHARDS} shards published, {5 * NUM_SHARDS} rows read" in capsys.readouterr().out

    shard = list(rows)[3]
    make_run(str(tmp_path / "torn"), ["cat"], rows | {shard: rows[shard][:-1]})
    (tmp_path / "torn" / "labels" / "00000.parquet").unlink()
    assert main(["--labels", str(tmp_path / "torn")]) == 1
    printed = capsys.readouterr().out
    assert "00003: key '3/photo4'" in printed
    assert printed.endswith("the books do not balance: shard not begun, row missing\n")


def test_process_that_ends_is_the_verdict_on_its_shard_and_the_others_go_on(local_ray: None, tmp_path: Path) -> None:
    rows = {}
    for number in range(3):
        path = make_tar(tmp_path / "inputs" / f"{number}.tar", {f"{number}/photo": {"jpg": b"x"}})
        (shard,) = list_shards([str(path)])
        rows[shard] = [make_rejected_row(f"{number}/photo")]
    make_run(str(tmp_path / "out"), ["cat"], rows)

    def judge(item: Any, rules: Any) -> Any:
        """End the process as a signal would."""
        if item.shard.name == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return verify_shard(item, rules)

    # All in one task first: which of them ended it shows when each has a process of its own.
    depth = Depth(judge=judge, num_shards_in_process=0, num_shards_per_task=3)
    verdict = verify_run(list_run(str(tmp_path / "out")), depth)
    assert verdict.failed_checks == [Check.AUDIT_FAILED]
    assert verdict.findings[Check.AUDIT_FAILED].examples[0].text.startswith("1: the process that read it ended")
    assert (verdict.num_shards, verdict.num_published) == (3, 2)
