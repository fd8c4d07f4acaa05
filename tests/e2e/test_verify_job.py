"""`python -m jobs.verify` on a run that is too large for one process."""

import pytest

from jobs.verify import main
from pipeline.shards import list_shards
from pipeline.verify import FULL
from tests.factories import make_rejected_row, make_run, make_tar

pytestmark = pytest.mark.ray

NUM_SHARDS = FULL.num_shards_in_process + 4


def test_verify_job_on_ray_finds_the_one_lost_row_and_the_one_lost_shard(local_ray, tmp_path, capsys):
    rows = {}
    for number in range(NUM_SHARDS):
        keys = [f"{number}/photo{i}" for i in range(5)]
        path = make_tar(tmp_path / "inputs" / f"{number:05d}.tar", {key: {"jpg": b"x"} for key in keys})
        (shard,) = list_shards([str(path)])
        rows[shard] = [make_rejected_row(key) for key in keys]
    make_run(str(tmp_path / "whole"), ["cat"], rows)
    assert main(["--out", str(tmp_path / "whole")]) == 0
    assert f"{NUM_SHARDS} of {NUM_SHARDS} shards published, {5 * NUM_SHARDS} rows read" in capsys.readouterr().out

    shard = list(rows)[3]
    make_run(str(tmp_path / "torn"), ["cat"], rows | {shard: rows[shard][:-1]})
    (tmp_path / "torn" / "labels" / "00000.parquet").unlink()
    assert main(["--out", str(tmp_path / "torn")]) == 1
    printed = capsys.readouterr().out
    assert "00003: key '3/photo4'" in printed
    assert printed.endswith("the books do not balance: shard not begun, row missing\n")
