"""Rows of published manifests: which ones, and how little is read for them."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline.errors import ManifestError
from pipeline.published.filters import RowFilter
from pipeline.published.rows import count_rows, iterate_rows, open_rows
from pipeline.published.run import open_published
from pipeline.run.records import InputShard, Status
from pipeline.run.run_file import Run
from pipeline.storage.writing import put_atomic
from tests.factories import make_labelled_row, make_rejected_row, make_run
from tests.fakes import SerialCluster
from tests.faulty_network import FaultyNetwork

LABELLED = RowFilter(statuses=(Status.LABELLED,))


@pytest.fixture(scope="module")
def labelled(label_small_run: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("published"))
    label_small_run(out, SerialCluster())
    return out


def test_run_has_its_shards_manifests_and_names(labelled: str) -> None:
    run = open_published(labelled)
    assert [shard.name for shard in run.shards] == ["photos-0", "photos-1"]
    assert [uri.rpartition("/")[2] for uri in run.manifest_uris] == ["photos-0.parquet", "photos-1.parquet"]
    assert run.class_names == ("background", "cat", "dog")
    assert run.palette[1].tolist() == [128, 0, 0]
    with pytest.raises(ManifestError, match=r"no published shard 'x'; it has 'photos-0'"):
        run.get_shard("x")


def test_rows_are_those_of_the_manifest_in_order(labelled: str) -> None:
    run = open_published(labelled)
    rows = list(iterate_rows(run, run.manifest_uris[1]))
    assert [(row.key, row.index) for row in rows] == [(f"s1-{number}", number) for number in range(5)]
    assert {row.shard_name for row in rows} == {"photos-1"}
    assert [row.class_names for row in rows] == [("cat",), (), ("cat",), ("dog",), ("cat",)]
    assert [row.is_labelled for row in rows] == [True, False, True, True, True]
    assert rows[0].mask().shape == (rows[0].get("height"), rows[0].get("width"))
    with pytest.raises(ManifestError, match=r"row 's1-1' of shard 'photos-1' has no mask: it was rejected \(no_known"):
        rows[1].mask()


def test_filter_and_columns_choose_rows_and_values(labelled: str) -> None:
    run = open_published(labelled)
    rows = list(iterate_rows(run, run.manifest_uris[0], RowFilter(class_names=("dog",)), ("quality",)))
    assert [set(row.values) for row in rows] == [{"key", "index", "quality"}]
    assert rows[0].key == "s0-3"
    with pytest.raises(ValueError, match="column 'mask' of row 's0-3' was not read"):
        rows[0].mask()


def test_row_groups_are_read_in_the_order_they_are_asked_for(labelled: str) -> None:
    run = open_published(labelled)
    rows = iterate_rows(run, run.manifest_uris[0], columns=("status",), row_groups=(2, 0))
    assert [row.index for row in rows] == [4, 0, 1]


def test_counts_are_those_of_the_rows(labelled: str) -> None:
    run = open_published(labelled)
    assert count_rows(run, run.manifest_uris[0]) == [2, 2, 1]
    assert count_rows(run, run.manifest_uris[0], LABELLED) == [1, 2, 1]


def test_masks_are_turned_upright(tmp_path: Path) -> None:
    shard = InputShard(uri=str(tmp_path / "a.tar"), name="a", size_bytes=1, etag="e")
    mask = np.array([[0, 1, 1], [0, 0, 2]], np.uint8)
    make_run(str(tmp_path), ("cat", "dog"), {shard: [make_labelled_row("k", mask, [1, 2], exif_orientation=6)]})
    run = open_published(str(tmp_path))
    (row,) = iterate_rows(run, run.manifest_uris[0])
    assert row.mask().tolist() == mask.tolist()
    assert row.upright_mask().tolist() == [[0, 0], [0, 1], [2, 1]]


def test_columns_of_later_versions_are_none_in_old_manifests(tmp_path: Path) -> None:
    shard = InputShard(uri=str(tmp_path / "a.tar"), name="a", size_bytes=1, etag="e")
    make_run(str(tmp_path), ("cat",), {shard: [make_rejected_row("k")]})
    run = open_published(str(tmp_path))
    with open_rows(run, run.manifest_uris[0]) as manifest:
        present = set(manifest.columns)
    (row,) = iterate_rows(run, run.manifest_uris[0])
    assert {"image_uri", "shard"} <= set(row.values)
    assert row.get("image_uri") is None
    assert present <= set(row.values)


def test_masks_of_groups_without_a_kept_row_are_not_read(
    open_small_run: Callable[..., Run],
    labelled: str,
    s3_endpoint: str,
    s3_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in Path(labelled).rglob("*"):
        if path.is_file():
            put_atomic(f"{s3_folder}/{path.relative_to(labelled)}", path.read_bytes())
    with FaultyNetwork(s3_endpoint) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        run = open_published(s3_folder)
        network.requests.clear()
        assert not list(iterate_rows(run, run.manifest_uris[0], RowFilter(keys=frozenset({"none"}))))
        num_without = len(network.requests)
        network.requests.clear()
        assert len(list(iterate_rows(run, run.manifest_uris[0], RowFilter(keys=frozenset({"s0-3"}))))) == 1
        num_with = len(network.requests)
        network.requests.clear()
        # Statistics of the footer exclude every row group.
        assert not list(iterate_rows(run, run.manifest_uris[0], RowFilter(max_quality=0.0, min_quality=0.0)))
        num_excluded = len(network.requests)
    assert num_with > num_without > num_excluded


@pytest.mark.parametrize("damage", ["gone", "foreign", "bytes"])
def test_manifests_that_are_gone_foreign_or_damaged_are_named(labelled: str, tmp_path: Path, damage: str) -> None:
    shard = InputShard(uri=str(tmp_path / "a.tar"), name="photos-0", size_bytes=1, etag="e")
    (uri,) = make_run(str(tmp_path), ("cat",), {shard: [make_rejected_row("k")]})
    run = open_published(str(tmp_path))
    if damage == "gone":
        Path(uri).unlink()
    else:
        payload = Path(f"{labelled}/labels/photos-0.parquet").read_bytes()
        Path(uri).write_bytes(payload if damage == "foreign" else payload[:-10])
    words = {"gone": "does not exist any more", "foreign": "of another run", "bytes": "not a manifest"}
    with pytest.raises(ManifestError, match=f"photos-0.parquet' .*{words[damage]}"):
        list(iterate_rows(run, uri))


def test_folders_without_a_published_shard_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no labelling run"):
        open_published(str(tmp_path))
