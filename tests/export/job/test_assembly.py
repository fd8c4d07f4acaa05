"""The export of a run: exactly once, whatever happens on the way."""

import os
import signal
from pathlib import Path

import pytest

from pipeline.driver.ledger import Progress
from pipeline.driver.stop import Stop
from pipeline.driver.waves import Hooks
from pipeline.errors import RunConflictError
from pipeline.export.formats.catalogue import FORMAT_NAMES
from pipeline.export.job.assembly import export_run
from pipeline.export.job.finish import NothingExportedError
from pipeline.published.run import open_published
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.writing import put_atomic
from tests.export.runs import (
    KEYS,
    SPLITS,
    count_manifest_pixels,
    export_all,
    list_shard,
    make_hostile_run,
    make_rows,
    make_scene,
    open_export,
)
from tests.factories import make_parquet, make_run
from tests.fakes import CrashError, FaultyStore, SerialCluster
from tests.small_run import read_all


def export_in_child(run_uri: str, out_uri: str, format_name: str, num_writes: int) -> bool:
    """Export in a process that ends by SIGKILL instead of its next write, or right after it; True if it was killed."""
    child = os.fork()
    if child == 0:
        replace, left = Path.replace, [num_writes]

        def count_down(source: Path, target: Path) -> Path:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(source, target)

        Path.replace = count_down  # type: ignore[assignment,method-assign]
        code = 1
        try:
            export_all(run_uri, out_uri, format_name, splits=SPLITS)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("format_name", ["hf", "webdataset", "voc", "yolo"])
def test_export_that_is_killed_at_any_write_goes_on_to_the_same_bytes(
    hostile_run: str, tmp_path: Path, format_name: str
) -> None:
    export_all(hostile_run, f"{tmp_path}/clean", format_name, splits=SPLITS)
    clean = read_all(f"{tmp_path}/clean")
    num_writes, step = 0, 1 if format_name in ("hf", "webdataset") else 23
    while export_in_child(hostile_run, f"{tmp_path}/{num_writes}", format_name, num_writes):
        uri = f"{tmp_path}/{num_writes}"
        assert read_all(uri) != clean
        export_all(hostile_run, uri, format_name, splits=SPLITS)
        assert read_all(uri) == clean, num_writes
        num_writes += step
    assert num_writes > 8
    # One that is complete writes the same again.
    export_all(hostile_run, f"{tmp_path}/clean", format_name, splits=SPLITS)
    assert read_all(f"{tmp_path}/clean") == clean


@pytest.mark.parametrize("fault", ["before_write", "after_write"])
def test_crash_around_any_write_to_a_store_leaves_what_the_next_export_completes(
    hostile_run: str, faulty_uri: str, fault: str
) -> None:
    export_all(hostile_run, "faulty://clean", "hf", splits=SPLITS)
    clean = read_all("faulty://clean")
    num_writes = len(FaultyStore.writes)
    assert num_writes > 15
    for crash_at in range(num_writes):
        FaultyStore.heal()
        uri = f"faulty://crash-{crash_at}"

        def crash(number: int, name: str, crash_at: int = crash_at) -> None:
            if number == crash_at:
                raise CrashError

        setattr(FaultyStore, fault, staticmethod(crash))
        with pytest.raises(CrashError):
            export_all(hostile_run, uri, "hf", splits=SPLITS)
        FaultyStore.heal()
        export_all(hostile_run, uri, "hf", splits=SPLITS)
        assert read_all(uri) == clean, crash_at


def test_exported_shards_are_not_written_again(hostile_run: str, tmp_path: Path) -> None:
    uri = f"{tmp_path}/out"
    export = open_export(hostile_run, uri)
    summary = export_run(export, limit=1, cluster=SerialCluster())
    assert summary.counts is not None
    assert summary.counts.num_exported == len(KEYS)
    photos = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "JPEGImages").iterdir()}
    summary = export_run(export, cluster=SerialCluster())
    assert summary.counts is not None
    assert (summary.run.num_sealed, summary.counts.num_exported) == (3, 3 * len(KEYS))
    assert {path: path.stat().st_mtime_ns for path in photos} == photos


def test_shards_added_to_the_run_are_added_to_the_export(tmp_path: Path) -> None:
    run_uri, uri = make_hostile_run(tmp_path, num_shards=1), f"{tmp_path}/out"
    export_all(run_uri, uri, "hf")
    first = read_all(uri)
    make_hostile_run(tmp_path, num_shards=2, extend=True)
    summary = export_all(run_uri, uri, "hf")
    assert summary.run.num_sealed == 1
    later = read_all(uri)
    changed = {name for name, payload in first.items() if later[name] != payload}
    assert changed == {"/README.md", "/export/summary.json"}
    export_all(run_uri, f"{tmp_path}/whole", "hf")
    assert later == read_all(f"{tmp_path}/whole")


def test_files_of_rows_that_a_new_manifest_leaves_out_are_deleted(tmp_path: Path) -> None:
    scenes = [make_scene(number) for number in range(4)]
    path = make_parquet(tmp_path / "a.parquet", {"image": [one.photo for one in scenes], "tags": [["cat"]] * 4})
    rows, shard, run_uri = make_rows(list("abcd"), scenes), list_shard(path), f"{tmp_path}/run"
    make_run(run_uri, ("cat", "dog"), {shard: rows})
    export_all(run_uri, f"{tmp_path}/out", min_quality=0.2)
    (manifest,) = open_published(run_uri).manifest_uris
    Path(manifest).unlink()
    make_run(run_uri, ("cat", "dog"), {shard: [*rows[:3], rows[3] | {"quality": 0.1}]})
    export_all(run_uri, f"{tmp_path}/out", min_quality=0.2)
    left = sorted(item.uri.rsplit("/", 1)[-1] for item in list_objects(f"{tmp_path}/out/JPEGImages"))
    assert left == ["b-0-1.jpg", "c-0-2.jpg"]
    assert len(list_objects(f"{tmp_path}/out/export")) == 4
    assert (tmp_path / "out/ImageSets/Segmentation/train.txt").read_text() == "b-0-1\nc-0-2\n"


def test_folder_holds_one_export(hostile_run: str, tmp_path: Path) -> None:
    uri = f"{tmp_path}/out"
    export_all(hostile_run, uri, "hf", min_quality=0.2)
    with pytest.raises(RunConflictError, match="holds another export: filters.min_quality was 0.2, is 0.3; give"):
        open_export(hostile_run, uri, "hf", min_quality=0.3)
    with pytest.raises(RunConflictError, match="format was 'hf', is 'voc'"):
        open_export(hostile_run, uri, "voc", min_quality=0.2)
    with pytest.raises(RunConflictError, match="is the folder of a labelling run"):
        open_export(hostile_run, hostile_run, "voc")
    put_atomic(f"{tmp_path}/foreign/export.json", b"[]")
    with pytest.raises(Exception, match="is not the record of an export"):
        open_export(hostile_run, f"{tmp_path}/foreign", "voc")


def test_export_of_nothing_names_the_filter_that_took_the_rows(hostile_run: str, tmp_path: Path) -> None:
    with pytest.raises(
        NothingExportedError, match="left out of 48: min-quality 45, rejected 3; lower --min-quality, or give --best"
    ):
        export_all(hostile_run, f"{tmp_path}/out", min_quality=0.99)


def test_image_that_changed_fails_its_shard_or_is_left_out_and_counted(tmp_path: Path) -> None:
    run_uri = make_hostile_run(tmp_path, num_shards=2)
    path = tmp_path / "s1.parquet"
    path.unlink()
    summary = export_all(run_uri, f"{tmp_path}/out")
    assert summary.counts is None
    assert list(summary.run.failed_shards) == ["s1"]
    assert "s1.parquet' does not exist" in summary.run.failed_shards["s1"]
    assert not (tmp_path / "out" / "labelmap.txt").exists()
    summary = export_all(run_uri, f"{tmp_path}/skipped", skip_missing=True)
    assert summary.counts is not None
    assert (summary.counts.num_exported, summary.counts.left_out["skip-missing"]) == (len(KEYS), len(KEYS))


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_export_to_s3_has_the_bytes_of_one_to_a_disk(
    hostile_run: str, tmp_path: Path, s3_folder: str, format_name: str
) -> None:
    export_all(hostile_run, f"{tmp_path}/out", format_name, splits=SPLITS)
    export_all(hostile_run, s3_folder, format_name, splits=SPLITS)
    assert read_all(s3_folder) == read_all(f"{tmp_path}/out")


def test_stopped_export_writes_no_joint_files_and_goes_on(hostile_run: str, tmp_path: Path) -> None:
    uri, stop = f"{tmp_path}/out", Stop(grace_s=0.0)

    def stop_early(progress: Progress) -> None:
        if progress.num_sealed:
            stop.request()

    hooks = Hooks(on_progress=stop_early, stop=stop)
    summary = export_run(open_export(hostile_run, uri), cluster=SerialCluster(), hooks=hooks)
    assert summary.run.was_stopped
    assert summary.counts is None
    assert not (tmp_path / "out" / "labelmap.txt").exists()
    assert export_all(hostile_run, uri).counts is not None


def test_counts_of_pixels_are_those_of_the_manifests(hostile_run: str, tmp_path: Path) -> None:
    summary = export_all(hostile_run, f"{tmp_path}/out", splits=SPLITS)
    assert summary.counts is not None
    total = summary.counts.pixels["train"] + summary.counts.pixels["val"]
    assert total == count_manifest_pixels(open_published(hostile_run))
    assert read_bytes(f"{tmp_path}/out/export/summary.json")
