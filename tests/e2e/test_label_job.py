"""`tagmask label` as a user runs it, on a real local Ray."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import verify
from jobs.label import main
from pipeline.images.masks import decode_mask
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from tests.factories import make_parquet, make_photo, make_tar, save_small_model

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
NUM_PER_SHARD = 11


def make_samples(shard: Any) -> dict[str, dict[str, Any]]:
    return {
        f"s{shard}/photo{i:03d}": {
            "jpg": make_photo(100 * shard + i),
            "json": json.dumps({"tags": ["Kitty", "sunset"] if i % 4 else ["nothing"]}).encode(),
        }
        for i in range(NUM_PER_SHARD)
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for shard in range(3):
        make_tar(folder / f"photos-{shard:05d}.tar", make_samples(shard))
    (folder / "vocabulary.json").write_text(json.dumps({"classes": ["cat", "dog"], "aliases": {"cat": ["kitty"]}}))
    save_small_model(str(folder / "model"))
    return folder


def list_arguments(inputs: Path, out: Path | str, *flags: Any, shards: str = "photos-{00000..00002}.tar") -> list[str]:
    """List the arguments of a run by one actor: each of them imports PyTorch, which takes longer than the photos."""
    return [
        *("--shards", f"{inputs}/{shards}", "--vocabulary", f"{inputs}/vocabulary.json"),
        *("--model", f"{inputs}/model", "--out", str(out), "--gpus-per-worker", "0", "--workers", "1"),
        *("--views.num-patches", "16", "--inputs.max-chunk-samples", "4", *flags),
    ]


@pytest.fixture
def run_label(inputs: Path, local_ray: None, capsys: pytest.CaptureFixture[str]) -> Any:
    """The job in this process, on the session's Ray: its exit code is checked, what it prints is returned."""

    def run(out: Path, *flags: Any, check: int = 0) -> Any:
        try:
            code = main(list_arguments(inputs, out, *flags))
        except SystemExit as stop:  # how the command line parser ends a job
            code = stop.code
        assert code == check
        printed = capsys.readouterr()
        return printed.out + printed.err

    return run


def read_rows(out: Path) -> list[Any]:
    tables = [pq.read_table(io.BytesIO(read_bytes(item.uri))) for item in list_objects(str(out / "labels"))]
    return [row for table in tables for row in table.to_pylist()]


def test_command_finds_our_packages_where_the_current_folder_has_others_of_their_names(
    labelled: tuple[Path, Any],
) -> None:
    out, _ = labelled
    assert (out / "run.json").is_file()


def test_run_reports_what_it_did(labelled: tuple[Path, Any]) -> None:
    _, printed = labelled
    assert "labelled 24 and rejected 9 of 33 images" in printed
    assert "rejected, no_known_tag: 9" in printed


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packages named as ours, with and without `__init__.py`, and the script that pip installs."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("models/__init__.py", "pipeline/__init__.py", "jobs/label.py"):
        (folder / name).parent.mkdir()
        (folder / name).write_text(f"raise RuntimeError('{name} of the user was imported')\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "tagmask").write_text("import sys\nfrom tagmask import main\nsys.exit(main())\n")
    return folder


@pytest.fixture(scope="module")
def labelled(inputs: Path, user_folder: Path) -> tuple[Path, Any]:
    """A run as a user starts it: from their folder, its own process, its own Ray, as many actors as that holds."""
    command = [sys.executable, "bin/tagmask", "label", *list_arguments(inputs, "masks", "--workers", "None")]
    # An empty entry, as a leading colon makes it, puts the current folder before all others.
    environment = os.environ | {"PYTHONPATH": f"{os.pathsep}{ROOT}"}
    done = subprocess.run(
        command, cwd=user_folder, env=environment, capture_output=True, text=True, timeout=720, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return user_folder / "masks", done.stdout


def test_every_sample_is_in_the_manifests_once(labelled: tuple[Path, Any]) -> None:
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


def test_finished_run_leaves_manifests_and_what_it_says_of_itself_only(labelled: tuple[Path, Any]) -> None:
    out, _ = labelled
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == [*(f"labels/photos-0000{i}.parquet" for i in range(3)), "progress.json", "run.json"]


def test_second_run_of_the_same_command_does_nothing_and_starts_no_ray(
    run_label: Any, labelled: tuple[Path, Any]
) -> None:
    out, _ = labelled
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert "nothing to do" in run_label(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_run_in_pieces_gives_the_bytes_of_the_run_at_once(
    run_label: Any, labelled: tuple[Path, Any], tmp_path: Path
) -> None:
    """One shard first, then one lost manifest, then one lost part: the same command mends it all."""
    whole, _ = labelled
    out = tmp_path / "out"
    run_label(out, "--limit", "1")
    assert "to do: about 22 images in 6 chunks, by 1 published" in run_label(out, "--dry-run")
    assert [path.name for path in (out / "labels").iterdir()] == ["photos-00000.parquet"]
    (out / "labels" / "photos-00000.parquet").unlink()
    run_label(out)
    for shard in range(3):
        name = f"labels/photos-0000{shard}.parquet"
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_dry_run_prints_what_remains_and_writes_nothing(run_label: Any, tmp_path: Path) -> None:
    printed = run_label(tmp_path / "out", "--dry-run")
    assert "0 published, 3 to do" in printed
    assert re.search(r"to do: about 3\d images in \d+ chunks, by 3 shards whose first chunk was read", printed)
    assert not (tmp_path / "out").exists()


def test_other_settings_under_the_same_output_are_refused_with_the_difference(
    run_label: Any, labelled: tuple[Path, Any]
) -> None:
    out, _ = labelled
    printed = run_label(out, "--maps.foreground-threshold", "0.9", check=2)
    assert "config.maps.foreground_threshold was 0.6, is 0.9" in printed


@pytest.fixture
def broken_shards(tmp_path: Path) -> Path:
    """Two good shards with one base name, tars and a Parquet file with damage, and some unreadable ones."""
    folder = tmp_path / "shards"
    for name, number in (("x/photos.tar", 0), ("y/photos.tar", 1)):
        make_tar(folder / name, make_samples(number))
    whole = (folder / "x" / "photos.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        offsets = [archive.getmember(f"s0/photo{number:03d}.jpg").offset for number in range(NUM_PER_SHARD)]
    (folder / "cut.tar").write_bytes(whole[: offsets[9] + 700])
    (folder / "garbage.tar").write_bytes(whole[: offsets[5]] + b"\xff" * 600 + whole[offsets[5] + 600 :])
    (folder / "empty.tar").write_bytes(bytes(10_240))
    columns = {
        "jpg": [make_photo(0), None, make_photo(2)],
        "caption": ["kitty, sunset", "kitty", "dog"],
        "key": ["p0", "p1", "p2"],
        "status": ["success", "failed_to_download", "success"],
        "error_message": [None, "HTTP Error 404", None],
    }
    make_parquet(folder / "downloads.parquet", columns)
    (folder / "nothing.tar").write_bytes(b"")
    (folder / "noise.tar").write_bytes(b"this is not a tar archive" * 100)
    (folder / "zipped.tar").write_bytes(gzip.compress(whole))
    (folder / "short.parquet").write_bytes((folder / "downloads.parquet").read_bytes()[:-9])
    return folder


def test_broken_shards_give_all_that_is_whole_and_the_rest_is_named(
    run_label: Any, broken_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    # x/photos.tar is named twice.
    patterns = [f"{broken_shards}/{name}" for name in ("*.tar", "*.parquet", "?/*.tar", "x/photos.tar")]
    printed = run_label(out, "--shards", *patterns, check=1)
    for name, why in [
        ("nothing.tar", "is no tar archive: it is empty"),
        ("noise.tar", "is no tar archive"),
        ("zipped.tar", "is compressed with gzip; decompress it"),
        ("short.parquet", "is no readable Parquet file"),
    ]:
        assert re.search(f"error: shard '.*/{name}' .*{why}", printed)
    for name in ("cut.tar", "garbage.tar"):
        size = (broken_shards / name).stat().st_size
        warning = f"warning: .*{name}' is truncated at byte (\\d+) of {size}: .* the (\\d+) bytes behind"
        told = re.search(warning, printed)
        assert 0 < int(told[2]) < size
    assert "4 shards are not published" in printed

    keys = {path.stem: pq.read_table(path)["key"].to_pylist() for path in (out / "labels").iterdir()}
    twins = sorted(name for name in keys if name.startswith("photos-"))
    assert {name: len(found) for name, found in keys.items() if name not in twins} == {
        "cut": 9,
        "downloads": 3,
        "empty": 0,
        "garbage": 5,
    }
    assert sorted(keys[twins[0]] + keys[twins[1]]) == [key for number in (0, 1) for key in make_samples(number)]
    rejected = {row["key"]: row["reason"] for row in read_rows(out) if row["status"] == "rejected"}
    assert rejected["p1"] == "download_failed"

    assert verify.main(["--labels", str(out)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "the books do not balance: shard not begun"
    assert [line.split()[3] for line in lines if line.startswith("input truncated (warning)")] == ["2"]

    # A shard that vanished or changed since makes it another run, and says so.
    (broken_shards / "cut.tar").unlink()
    make_tar(broken_shards / "x" / "photos.tar", {"new": {"jpg": make_photo(0)}})
    refused = run_label(out, "--shards", *patterns, check=2)
    assert "cut.tar' is no longer among the inputs" in refused
    assert "x/photos.tar' changed (was" in refused


def test_retry_labels_rejected_rows_again_under_a_raised_limit(
    run_label: Any, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, shards = tmp_path / "out", ("--shards", f"{inputs}/photos-00000.tar", "--max-rejected-fraction", "1")
    retry = (*shards, "--retry", "rejected:too_large", "--inputs.max-image-pixels", "1000000")
    assert "rejected, too_large: 5" in run_label(out, *shards, "--inputs.max-image-pixels", "3000")
    before = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    assert "1 with rows to label again (5 rows in 3 chunks)" in run_label(out, *retry, "--dry-run")
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == before
    assert "labelled 5 and rejected 0 of 5 images" in run_label(out, *retry)
    assert {row["reason"] for row in read_rows(out)} == {None, "no_known_tag"}
    assert "nothing to do: every shard is labelled again" in run_label(out, *retry)
    assert verify.main(["--labels", str(out)]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shards", "nowhere/*.tar"], "nowhere/*.tar"),
        (["--model", "nowhere"], "is no model bundle"),
        (["--vocabulary", "nowhere.json"], "nowhere.json"),
        (["--maps.background-threshold", "0.9"], "background_threshold"),
        (["--workers", "99"], "99 workers of 1 CPUs each leave nothing of "),
        (["--shards", "ftp://me:hush-hush@host/a.tar"], "'ftp://...@host/a.tar' holds a password"),
        (["--endpoint-url=http://me:hush-hush@host"], "'http://...@host' holds a password"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    run_label: Any, tmp_path: Path, flags: list[str], message: str
) -> None:
    printed = run_label(tmp_path / "out", *flags, check=2)
    assert message in printed
    assert "hush-hush" not in printed


def test_vocabulary_that_is_not_the_models_is_refused(run_label: Any, tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text('{"classes": ["dog", "cat"]}')
    printed = run_label(tmp_path / "out", "--vocabulary", str(tmp_path / "vocabulary.json"), check=2)
    assert "same names, other order" in printed
