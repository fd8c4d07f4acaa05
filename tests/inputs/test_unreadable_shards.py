"""A shard that its store does not return: the others are labelled, and its reads are retried a few times."""

import tarfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from pipeline.commit.plan import ShardWork
from pipeline.driver.totals import MAX_READS, RunSummary
from pipeline.driver.waves import Hooks
from pipeline.label import label_run
from pipeline.labelling.chunk_rows import read_rows
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard
from pipeline.run.run_file import Run
from tests.fakes import REPORTING, FaultyStore, SerialCluster, fail_reads
from tests.small_run import OPTIONS, read_all

DENIED = PermissionError(13, "access denied")


def test_shard_that_its_store_never_returns_fails_alone(open_small_run: Callable[..., Run], faulty_inputs: str) -> None:
    run = open_small_run("faulty://out", inputs_uri=faulty_inputs)
    denied = fail_reads("in/photos-0.tar", DENIED, num_times=100)
    summary = label_run(run, OPTIONS, cluster=SerialCluster())
    assert list(summary.failed_shards) == ["photos-0"]
    assert summary.failed_shards["photos-0"] == (
        "shard 'faulty://in/photos-0.tar' cannot be read: 'faulty://in/photos-0.tar' cannot be reached: [Errno 13] "
        f"access denied; check network, endpoint and credentials (tried {MAX_READS} times)"
    )
    assert len(denied) == MAX_READS
    assert summary.num_sealed == 1
    assert [name for name in read_all("faulty://out") if "labels" in name] == ["/labels/photos-1.parquet"]


@pytest.mark.parametrize("error", [RecursionError, MemoryError, pa.ArrowMemoryError, KeyError, SystemError])
def test_shard_with_any_error_of_the_parser_fails_alone(
    label_small_run: Callable[..., RunSummary], faulty_uri: str, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    failures, read_header = [error("such a thing")], tarfile.TarFile.next

    def fail_once(archive: Any) -> Any:
        if failures:
            raise failures.pop()
        return read_header(archive)

    monkeypatch.setattr(tarfile.TarFile, "next", fail_once)
    summary = label_small_run("faulty://out")
    # A defect of a shard is permanent: its read is not retried, unlike a failure of the store.
    assert list(summary.failed_shards) == ["photos-0"]
    assert f"photos-0.tar' cannot be read: {error.__name__}: " in summary.failed_shards["photos-0"]
    assert summary.num_sealed == 1


def test_shard_whose_name_is_not_utf8_fails_by_an_escaped_name() -> None:
    shard = InputShard(uri="/in/a\udcff.tar", name="a_", size_bytes=1, etag="e")
    (row,) = (row.to_pylist()[0] for row in read_rows([ShardWork(shard=shard)], InputConfig(), REPORTING))
    assert row["error"] == "shard '/in/a\\udcff.tar' does not exist; it was there when it was listed"


def test_shard_that_its_store_returns_later_is_labelled(open_small_run: Callable[..., Run], faulty_inputs: str) -> None:
    run = open_small_run("faulty://out", inputs_uri=faulty_inputs)
    denied = fail_reads("in/photos-0.tar", DENIED, num_times=MAX_READS - 1)
    summary = label_run(run, OPTIONS, cluster=SerialCluster())
    assert len(denied) == MAX_READS - 1
    assert (summary.failed_shards, summary.num_sealed, summary.num_shards_left) == ({}, 2, 0)


@pytest.mark.parametrize("error", [PermissionError(13, "denied for a moment"), OSError(5, "input/output error")])
def test_seal_that_fails_temporarily_is_retried_in_the_same_invocation(
    label_small_run: Callable[..., RunSummary], faulty_uri: str, error: Any
) -> None:
    failures = [error]

    def fail_once(number: int, name: str) -> None:
        if "/labels/" in name and failures:
            raise failures.pop()

    FaultyStore.before_write = staticmethod(fail_once)
    cluster = SerialCluster()
    summary = label_small_run("faulty://out", cluster)
    assert failures == []
    assert (summary.failed_shards, summary.num_sealed, summary.num_shards_left) == ({}, 2, 0)
    assert len(cluster.labelled) == len(set(cluster.labelled))


def test_plan_waits_for_the_end_of_an_outage(open_small_run: Callable[..., Run], faulty_uri: str) -> None:
    run = open_small_run("faulty://out")
    failed = fail_reads("out", ConnectionRefusedError("refused"), num_times=1)
    warnings: list[Any] = []
    options = replace(OPTIONS, store_outage_s=60.0)
    summary = label_run(run, options, cluster=SerialCluster(), hooks=Hooks(on_warning=warnings.append))
    assert len(failed) == 1
    assert summary.num_sealed == 2
    assert any(line.startswith("waiting: ") and "cannot be reached" in line for line in warnings)
    assert any(line.startswith("resumed after a wait of") for line in warnings)
