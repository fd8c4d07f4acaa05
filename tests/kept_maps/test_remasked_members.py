"""Manifests of new masks count the members of the archives as those that kept the maps, and are audited likewise."""

import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.commit.encoding import parse_footer
from pipeline.commit.retry import open_retry
from pipeline.errors import RunConflictError
from pipeline.kept_maps.kept_run import open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.label import label_run
from pipeline.remask import remask_run
from pipeline.run.records import PLACE_COLUMNS
from tests.audit.published import make_old
from tests.fakes import SerialCluster
from tests.small_run import NUM_PER_SHARD, OPTIONS

NUM_MEMBERS = 2 * 2 * NUM_PER_SHARD
"""An image and a json for each photo of two shards."""


def remask(kept_path: Path, out_path: Path) -> None:
    kept = open_kept_run(str(kept_path))
    remask_run(open_remask(str(out_path), kept, kept.config.maps), cluster=SerialCluster())


def read_footers(out_path: Path) -> list[dict[str, Any]]:
    return [parse_footer(pq.ParquetFile(path)) for path in sorted((out_path / "labels").iterdir())]


def test_new_masks_count_the_members_of_their_source(open_small_run: Callable[..., Any], tmp_path: Path) -> None:
    kept_path, out_path = tmp_path / "kept", tmp_path / "out"
    label_run(open_small_run(str(kept_path), keep_maps=True), OPTIONS, cluster=SerialCluster())
    remask(kept_path, out_path)
    counted = [footer["members"] for footer in read_footers(kept_path)]
    assert [footer["members"] for footer in read_footers(out_path)] == counted
    verdict = verify_run(list_run(str(out_path)), FULL)
    assert (verdict.findings, verdict.members.num_in_rows) == ({}, NUM_MEMBERS)


def read_rows(out_path: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out_path / "labels").iterdir()) for row in pq.read_table(path).to_pylist()]


def test_new_masks_lead_to_the_images_of_their_source(open_small_run: Callable[..., Any], tmp_path: Path) -> None:
    kept_path, out_path = tmp_path / "kept", tmp_path / "out"
    label_run(open_small_run(str(kept_path), keep_maps=True), OPTIONS, cluster=SerialCluster())
    remask(kept_path, out_path)
    rows = read_rows(out_path)
    names = ("shard", *PLACE_COLUMNS)
    assert [[row[name] for name in names] for row in rows] == [
        [row[name] for name in names] for row in read_rows(kept_path)
    ]
    for row in rows:
        content = Path(row["shard"]).read_bytes()[row["image_offset"] :][: row["image_bytes"]]
        assert hashlib.sha256(content).hexdigest() == row["image_sha256"]


def test_new_masks_of_a_run_of_version_4_have_its_shards_and_no_places(
    open_small_run: Callable[..., Any], tmp_path: Path
) -> None:
    paths = [tmp_path / "kept", tmp_path / "out", tmp_path / "again"]
    label_run(open_small_run(str(paths[0]), keep_maps=True), OPTIONS, cluster=SerialCluster())
    shards = [row["shard"] for row in read_rows(paths[0])]
    make_old(paths[0], 4)
    assert verify_run(list_run(str(paths[0])), FULL).findings == {}
    for kept_path, out_path in itertools.pairwise(paths):
        remask(kept_path, out_path)
        rows = read_rows(out_path)
        assert [row["shard"] for row in rows] == shards
        assert {row[name] for row in rows for name in PLACE_COLUMNS} == {None}
        assert verify_run(list_run(str(out_path)), FULL).findings == {}


def test_run_of_version_4_cannot_be_continued_and_both_versions_are_named(
    open_small_run: Callable[..., Any], tmp_path: Path
) -> None:
    label_run(open_small_run(str(tmp_path), keep_maps=True), OPTIONS, cluster=SerialCluster())
    make_old(tmp_path, 4)
    with pytest.raises(RunConflictError, match="format_version was 4, is 5"):
        open_small_run(str(tmp_path), keep_maps=True)
    with pytest.raises(RunConflictError, match="format_version was 4, is 5"):
        open_retry(open_small_run(str(tmp_path), check=False, keep_maps=True), ["crashed"])


def test_new_masks_of_a_run_of_an_older_version_record_no_members_and_balance(
    open_small_run: Callable[..., Any], tmp_path: Path
) -> None:
    paths = [tmp_path / "kept", tmp_path / "out", tmp_path / "again"]
    label_run(open_small_run(str(paths[0]), keep_maps=True), OPTIONS, cluster=SerialCluster())
    make_old(paths[0])
    # New masks of new masks too.
    for kept_path, out_path in itertools.pairwise(paths):
        remask(kept_path, out_path)
        assert all("members" not in footer for footer in read_footers(out_path))
        verdict = verify_run(list_run(str(out_path)), FULL)
        assert (verdict.findings, verdict.members.num_unrecorded) == ({}, 2)
