"""New masks of kept maps, crashed at every write: the same command goes on and leaves the bytes of a clean run."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commit.plan import ShardWork
from pipeline.driver.totals import MAX_READS
from pipeline.kept_maps.chunk_rows import read_kept_rows
from pipeline.kept_maps.kept_run import open_kept_run, pair_with_manifests, require_source
from pipeline.kept_maps.new_run import open_remask
from pipeline.kept_maps.remask_task import remask_row
from pipeline.label import label_run
from pipeline.remask import remask_run
from pipeline.run.run_file import Run
from pipeline.storage.writing import put_atomic
from pipeline.workers.attempts import MAX_DEATHS, AttemptCounter
from tests.fakes import REPORTING, CrashError, FaultyStore, SerialCluster, fail_reads
from tests.small_run import OPTIONS, read_all

OUT = "faulty://out"
NUM_WRITES = 17
"""As labelling: run.json, a heartbeat and its end; two shards with 3 parts, 3 deletions and a manifest each."""


@pytest.fixture(scope="module")
def kept_uri(open_small_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run that keeps its maps."""
    out_uri = str(tmp_path_factory.mktemp("kept"))
    label_run(open_small_run(out_uri, keep_maps=True), OPTIONS, cluster=SerialCluster())
    return out_uri


def open_lower(kept_uri: str) -> Any:
    """Open a run of masks with a lower threshold."""
    kept = open_kept_run(kept_uri)
    maps = replace(kept.config.maps, background_threshold=0.2, foreground_threshold=0.3)
    return open_remask(OUT, kept, maps)


def remask(kept_uri: str) -> Any:
    """Make masks with a lower threshold; gives the chunks made."""
    cluster = SerialCluster()
    # What was made up to a crash is wanted, too.
    with contextlib.suppress(CrashError):
        remask_run(open_lower(kept_uri), cluster=cluster)
    return cluster.labelled


@pytest.fixture(scope="module")
def expected(kept_uri: str) -> dict[str, bytes]:
    """What a run leaves behind that nothing disturbs."""
    FaultyStore.reset()
    assert len(remask(kept_uri)) == 6
    assert len(FaultyStore.writes) == NUM_WRITES
    return read_all(OUT)


@pytest.mark.parametrize("number", range(NUM_WRITES))
@pytest.mark.parametrize("moment", ["before_write", "after_write"])
def test_remask_resumes_after_a_crash_at_any_write_with_the_same_bytes(
    kept_uri: str, expected: dict[str, bytes], faulty_uri: str, moment: str, number: int
) -> None:
    def crash(count: Any, name: str) -> None:
        if count == number:
            raise CrashError(name)

    setattr(FaultyStore, moment, staticmethod(crash))
    first = remask(kept_uri)
    FaultyStore.heal()
    second = remask(kept_uri)
    assert read_all(OUT) == expected
    assert sorted(expected) == ["/labels/photos-0.parquet", "/labels/photos-1.parquet", "/run.json"]
    assert len(first) + len(second) <= 6 + 1


def test_manifest_with_a_damaged_page_fails_its_shard_and_no_other(
    kept_uri: str, faulty_uri: str, tmp_path: Path
) -> None:
    damaged = shutil.copytree(kept_uri, tmp_path / "damaged")
    manifest = Path(damaged) / "labels" / "photos-0.parquet"
    payload = bytearray(manifest.read_bytes())
    column = pq.ParquetFile(manifest).metadata.row_group(0).column(0)
    payload[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    manifest.write_bytes(payload)
    summary = remask_run(open_lower(str(damaged)), cluster=SerialCluster())
    assert list(summary.failed_shards) == ["photos-0"]
    assert f"manifest '{manifest}' cannot be read: " in summary.failed_shards["photos-0"]
    assert summary.num_sealed == 1


@pytest.mark.parametrize("num_failures", [2, 100])
def test_manifest_that_its_store_does_not_give_is_tried_three_times(
    kept_uri: str, faulty_uri: str, num_failures: int
) -> None:
    for name, payload in read_all(kept_uri).items():
        put_atomic(f"faulty://kept{name}", payload)
    FaultyStore.heal()
    run = open_lower("faulty://kept")
    failed = fail_reads("kept/labels/photos-0.parquet", PermissionError("access denied"), num_failures)
    summary = remask_run(run, cluster=SerialCluster())
    assert len(failed) == min(num_failures, MAX_READS)
    assert summary.num_sealed == (2 if num_failures == 2 else 1)
    assert list(summary.failed_shards.values()) == (
        []
        if num_failures == 2
        else [
            "'faulty://kept/labels/photos-0.parquet' cannot be reached: access denied; check network, endpoint and "
            "credentials (tried 3 times)"
        ]
    )


@pytest.mark.parametrize(
    ("module", "name"), [(pq.ParquetFile, "read_row_group"), (pa.ipc, "open_stream")], ids=["reading", "drawing"]
)
@pytest.mark.parametrize("error", [RecursionError, MemoryError, KeyError])
def test_shard_with_whose_maps_anything_is_raised_fails_alone(
    kept_uri: str, faulty_uri: str, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: Any
) -> None:
    original, failures = getattr(module, name), [error("such a thing")]

    def fail_once(*positional: Any, **arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return original(*positional, **arguments)

    monkeypatch.setattr(module, name, fail_once)
    summary = remask_run(open_lower(kept_uri), cluster=SerialCluster())
    assert list(summary.failed_shards) == ["photos-0"]
    assert error.__name__ in summary.failed_shards["photos-0"]
    assert summary.num_sealed == 1


def test_chunk_with_whose_maps_processes_die_fails_its_shard(kept_uri: str, faulty_uri: str) -> None:
    run = open_lower(kept_uri)
    pairs = pair_with_manifests(require_source(run), [ShardWork(shard=run.shards[0])])
    row = next(read_kept_rows(pairs, require_source(run).fingerprint, None, REPORTING))
    attempts = AttemptCounter()
    for _ in range(MAX_DEATHS):
        attempts.begin("photos-0/000000")
    (fields,) = remask_row(row, run, REPORTING, attempts).to_pylist()
    assert fields["error"] == "shard 'photos-0': 3 processes died with chunk 0; look at their logs"
