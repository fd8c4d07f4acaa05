"""A run that is extended: what was published before stays, and every sample of every shard is one row."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.commit.manifests import open_manifest
from pipeline.commit.names import locate_manifest
from pipeline.commit.retry import open_retry, plan_retry
from pipeline.driver.totals import RunSummary
from pipeline.label import label_run
from pipeline.run.run_file import Run
from tests.fakes import CrashError, FaultyStore, SerialCluster
from tests.small_run import NUM_PER_SHARD, OPTIONS, read_all

OUT = "faulty://out"
NUM_WRITES = 11
"""The attempt at run.json, the extension, a heartbeat, 3 parts and their deletion and a manifest for the new shard, and
the heartbeat's end."""

OpenRun = Callable[..., Run]


def label(run: Run, **arguments: Any) -> RunSummary:
    return label_run(run, OPTIONS, cluster=SerialCluster(), **arguments)


def publish_last_shard(open_small_run: OpenRun, out_uri: str, **options: Any) -> dict[str, bytes]:
    """Publish the run of the second shard alone; everything that it leaves, by name."""
    label(open_small_run(out_uri, pattern="photos-1.tar", **options))
    return read_all(out_uri)


def extend_and_label(open_small_run: OpenRun, out_uri: str) -> RunSummary:
    return label(open_small_run(out_uri, extend=True))


def read_rows(out_uri: str, shard_name: str) -> list[dict[str, Any]]:
    return list(open_manifest(locate_manifest(out_uri, shard_name)).iterate_rows())


def test_extended_run_keeps_its_manifests_and_has_the_rows_of_a_run_at_once(
    open_small_run: OpenRun, folder_uri: str, tmp_path: Any
) -> None:
    before = publish_last_shard(open_small_run, folder_uri)
    summary = extend_and_label(open_small_run, folder_uri)
    assert (summary.num_sealed, summary.counts.num_read) == (1, NUM_PER_SHARD)
    after = read_all(folder_uri)
    assert sorted(after.keys() - before.keys()) == ["/extensions/000001.json", "/labels/photos-0.parquet"]
    assert {name: after[name] for name in before} == before

    at_once = str(tmp_path / "at-once")
    label(open_small_run(at_once))
    for name in ("photos-0", "photos-1"):
        assert read_rows(folder_uri, name) == read_rows(at_once, name)

    listing = list_run(folder_uri)
    verdict = verify_run(listing, FULL)
    assert (verdict.findings, verdict.num_published, verdict.counts.num_read) == ({}, 2, 2 * NUM_PER_SHARD)
    assert [item.shard.name for item in listing.published] == ["photos-1", "photos-0"]

    assert extend_and_label(open_small_run, folder_uri).num_chunks == 0
    assert label(open_small_run(folder_uri)).num_chunks == 0
    assert read_all(folder_uri) == after


def test_run_that_is_extended_before_it_is_finished_is_finished_whole(open_small_run: OpenRun, tmp_path: Any) -> None:
    out_uri = str(tmp_path / "out")
    open_small_run(out_uri, pattern="photos-1.tar")
    # By the new shard alone: the one that is not published stays in the run.
    summary = label(open_small_run(out_uri, pattern="photos-0.tar", extend=True))
    assert (summary.num_sealed, summary.counts.num_read) == (2, 2 * NUM_PER_SHARD)
    assert verify_run(list_run(out_uri), FULL).findings == {}


def test_old_driver_and_extending_driver_harm_each_other_nothing(open_small_run: OpenRun, tmp_path: Any) -> None:
    out_uri = str(tmp_path / "out")
    old = open_small_run(out_uri, pattern="photos-1.tar")
    extended = open_small_run(out_uri, extend=True)
    assert label(old).num_sealed == 1
    assert label(extended).num_sealed == 1
    assert verify_run(list_run(out_uri), FULL).findings == {}


def test_extension_writes_what_the_protocol_says(open_small_run: OpenRun, faulty_uri: str) -> None:
    publish_last_shard(open_small_run, OUT)
    FaultyStore.heal()
    extend_and_label(open_small_run, OUT)
    names = [name.rpartition("/")[2] for name in FaultyStore.writes]
    assert names[:3] == ["run.json", "000001.json", "driver.json"]
    assert len(names) == NUM_WRITES


@pytest.mark.parametrize("number", range(NUM_WRITES))
@pytest.mark.parametrize("moment", ["before_write", "after_write"])
def test_extension_resumes_after_a_crash_at_any_write_with_the_same_bytes(
    open_small_run: OpenRun, faulty_uri: str, moment: str, number: int
) -> None:
    before = publish_last_shard(open_small_run, OUT)
    FaultyStore.heal()

    def crash(count: int, name: str) -> None:
        if count == number:
            raise CrashError(name)

    setattr(FaultyStore, moment, staticmethod(crash))
    with contextlib.suppress(CrashError):
        extend_and_label(open_small_run, OUT)
    FaultyStore.heal()
    extend_and_label(open_small_run, OUT)
    after = read_all(OUT)
    assert sorted(after.keys() - before.keys()) == ["/extensions/000001.json", "/labels/photos-0.parquet"]
    assert {name: after[name] for name in before} == before
    assert verify_run(list_run(OUT), FULL).findings == {}


def test_retry_is_the_same_one_before_and_after_an_extension(open_small_run: OpenRun, tmp_path: Any) -> None:
    out_uri = str(tmp_path / "out")
    publish_last_shard(open_small_run, out_uri)
    _, before = open_retry(open_small_run(out_uri, check=False, pattern="photos-1.tar"), ("no_known_tag",))
    extend_and_label(open_small_run, out_uri)
    run, after = open_retry(open_small_run(out_uri, check=False), ("no_known_tag",))
    assert after == before
    assert [shard.name for shard in run.shards] == ["photos-1", "photos-0"]
    assert [item.shard.name for item in plan_retry(run, after).work] == ["photos-1", "photos-0"]
    label(run, retry=after)
    verdict = verify_run(list_run(out_uri), FULL)
    assert (verdict.findings, verdict.counts.num_read) == ({}, 2 * NUM_PER_SHARD)
    footer = open_manifest(locate_manifest(out_uri, "photos-0")).footer
    assert [entry["id"] for entry in footer["retries"]] == [after.id]
    assert json.dumps(footer)
