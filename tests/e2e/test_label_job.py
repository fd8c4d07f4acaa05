"""`python -m jobs.label` as a user runs it, on a real local Ray."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.label import main
from pipeline.masks import decode_mask
from pipeline.storage import list_objects, read_bytes
from tests.factories import make_photo, make_tar, save_small_model

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
NUM_PER_SHARD = 11


def make_samples(shard):
    return {
        f"s{shard}/photo{i:03d}": {
            "jpg": make_photo(100 * shard + i),
            "json": json.dumps({"tags": ["Kitty", "sunset"] if i % 4 else ["nothing"]}).encode(),
        }
        for i in range(NUM_PER_SHARD)
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for shard in range(3):
        make_tar(folder / f"photos-{shard:05d}.tar", make_samples(shard))
    (folder / "vocabulary.json").write_text(json.dumps({"classes": ["cat", "dog"], "aliases": {"cat": ["kitty"]}}))
    save_small_model(str(folder / "model"))
    return folder


def list_arguments(inputs, out, *flags, shards="photos-{00000..00002}.tar"):
    return [
        *("--shards", f"{inputs}/{shards}", "--vocabulary", f"{inputs}/vocabulary.json"),
        *("--model", f"{inputs}/model", "--out", str(out), "--gpus-per-actor", "0"),
        *("--views.num-patches", "16", "--inputs.max-chunk-samples", "4", *flags),
    ]


@pytest.fixture
def run_label(inputs, local_ray, capsys):
    """The job in this process, on the session's Ray: its exit code is checked, what it prints is returned."""

    def run(out, *flags, check=0):
        try:
            code = main(list_arguments(inputs, out, *flags))
        except SystemExit as stop:  # how the command line parser ends a job
            code = stop.code
        assert code == check
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def read_rows(out):
    tables = [pq.read_table(io.BytesIO(read_bytes(item.uri))) for item in list_objects(str(out / "labels"))]
    return [row for table in tables for row in table.to_pylist()]


def test_run_reports_what_it_did(labelled):
    _, printed = labelled
    assert "labelled 24 and rejected 9 of 33 images" in printed
    assert "rejected, no_known_tag: 9" in printed


@pytest.fixture(scope="module")
def labelled(inputs, tmp_path_factory):
    """A run as a user starts it: its own process, its own Ray."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "jobs.label", *list_arguments(inputs, out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def test_every_sample_is_in_the_manifests_once(labelled):
    out, _ = labelled
    rows = read_rows(out)
    expected = [key for shard in range(3) for key in make_samples(shard)]
    assert [row["key"] for row in rows] == expected
    assert [row["index"] for row in rows] == [*range(NUM_PER_SHARD)] * 3
    for row in rows:
        if row["status"] == "labelled":
            assert decode_mask(row["mask"]["bytes"]).shape == (row["height"], row["width"])
        else:
            assert (row["reason"], row["tags_unknown"]) == ("no_known_tag", ["nothing"])
    assert sum(row["status"] == "labelled" for row in rows) == 3 * 8


def test_finished_run_leaves_manifests_and_the_run_record_only(labelled):
    out, _ = labelled
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == [*(f"labels/photos-0000{i}.parquet" for i in range(3)), "run.json"]


def test_second_run_of_the_same_command_does_nothing_and_starts_no_ray(run_label, labelled):
    out, _ = labelled
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert "nothing to do" in run_label(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_run_in_pieces_gives_the_bytes_of_the_run_at_once(run_label, labelled, tmp_path):
    """One shard first, then one lost manifest, then one lost part: the same command mends it all."""
    whole, _ = labelled
    out = tmp_path / "out"
    run_label(out, "--limit", "1")
    assert "to do: about 22 images in 6 chunks, by what 1 published" in run_label(out, "--dry-run")
    assert [path.name for path in (out / "labels").iterdir()] == ["photos-00000.parquet"]
    (out / "labels" / "photos-00000.parquet").unlink()
    run_label(out)
    for shard in range(3):
        name = f"labels/photos-0000{shard}.parquet"
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_dry_run_prints_what_remains_and_writes_no_labels(run_label, tmp_path):
    printed = run_label(tmp_path / "out", "--dry-run")
    assert "0 published, 3 to do" in printed
    assert not (tmp_path / "out" / "labels").exists()


def test_other_settings_under_the_same_output_are_refused_with_the_difference(run_label, labelled):
    out, _ = labelled
    printed = run_label(out, "--maps.foreground-threshold", "0.9", check=2)
    assert "config.maps.foreground_threshold was 0.4, is 0.9" in printed


def test_shard_that_is_no_tar_fails_alone_and_is_named(run_label, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    make_tar(shards / "good.tar", make_samples(0))
    (shards / "bad.tar").write_bytes(b"this is not a tar archive" * 100)
    done = run_label(tmp_path / "out", "--shards", str(shards), check=1)
    assert "bad.tar" in done
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir()] == ["good.parquet"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shards", "nowhere/*.tar"], "nowhere/*.tar"),
        (["--model", "nowhere"], "is no model bundle"),
        (["--vocabulary", "nowhere.json"], "nowhere.json"),
        (["--maps.background-threshold", "0.9"], "background_threshold"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(run_label, tmp_path, flags, message):
    printed = run_label(tmp_path / "out", *flags, check=2)
    assert message in printed


def test_vocabulary_that_is_not_the_models_is_refused(run_label, tmp_path):
    (tmp_path / "vocabulary.json").write_text('{"classes": ["dog", "cat"]}')
    printed = run_label(tmp_path / "out", "--vocabulary", str(tmp_path / "vocabulary.json"), check=2)
    assert "same names, other order" in printed
