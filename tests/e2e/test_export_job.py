"""`tagmask export` as a user runs it: on Ray, without it, stopped in the middle, and with wrong options."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.export import main
from tests.export.runs import KEYS, export_all
from tests.small_run import read_all

ROOT = Path(__file__).parents[2]


def run_export(*flags: str) -> int:
    """The job in this process; its exit code, also where the parser of the command line ends it."""
    try:
        return main(list(flags))
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.ray
def test_export_job_on_ray_gives_the_bytes_of_one_process_and_goes_on(
    local_ray: None, hostile_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--labels", hostile_run, "--format", "webdataset", "--cluster", "ray"]
    assert run_export(*flags, "--out", f"{tmp_path}/out", "--limit", "1") == 0
    assert "1 shards: 0 exported, 1 to do" in capsys.readouterr().out
    assert run_export(*flags, "--out", f"{tmp_path}/out") == 0
    printed = capsys.readouterr().out
    assert "4 shards: 1 exported, 3 to do" in printed
    assert f"exported {3 * len(KEYS)} of {3 * len(KEYS) + 3} images as webdataset: {tmp_path}/out" in printed
    export_all(hostile_run, f"{tmp_path}/serial", "webdataset")
    assert read_all(f"{tmp_path}/out") == read_all(f"{tmp_path}/serial")


def test_export_command_without_ray_gives_the_bytes_of_one_process_and_answers_when_it_is_done(
    hostile_run: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "jobs.export", "--labels", hostile_run, "--format", "coco", "--cluster", "local"]
    command += ["--out", f"{tmp_path}/out"]
    for expected in ("exporting without Ray", "4 shards: 4 exported, 0 to do"):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
        assert f"of {3 * len(KEYS) + 3} images as coco" in done.stdout
    export_all(hostile_run, f"{tmp_path}/serial", "coco")
    assert read_all(f"{tmp_path}/out") == read_all(f"{tmp_path}/serial")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format", "voc", "--classes", "cow"], "has no class 'cow'"),
        (["--format", "voc", "--min-quality", "2"], "between 0 and 1"),
        (["--format", "voc", "--splits", "train=0.5,val=0.6"], "splits"),
        (["--format", "voc", "--reviewed"], "nobody has reviewed"),
        (["--format", "nosuch"], "nosuch"),
        (["--format", "voc", "--limit", "0"], "need --limit >= 1"),
        (["--format", "voc", "--cluster", "local", "--address", "auto"], "leave --address out"),
    ],
)
def test_wrong_option_is_one_line_and_exit_code_2_before_anything_is_written(
    hostile_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert run_export("--labels", hostile_run, "--out", f"{tmp_path}/out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_filters_that_leave_nothing_are_no_success(
    hostile_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--labels", hostile_run, "--format", "voc", "--min-quality", "0.99", "--out", f"{tmp_path}/out"]
    for _ in range(2):
        assert run_export(*flags, "--cluster", "local") == 1
        assert "error: " in capsys.readouterr().err
