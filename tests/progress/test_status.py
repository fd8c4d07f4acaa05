"""The status of runs that go on, end, stop and die."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import export
from jobs.status import main
from pipeline.driver.heartbeat import MAX_SILENCE_S
from pipeline.errors import ManifestError
from pipeline.progress.progress_file import RunState, format_time, read_progress
from pipeline.progress.status import Condition, read_status
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.factories import make_photo, make_tar, save_small_model

ROOT = Path(__file__).parents[2]
NOW_S = 1_800_000_000.0


def say(out: str, state: RunState, age_s: float, *, host: str = "elsewhere", command: str = "label") -> None:
    fields = {"state": state, "command": command, "host": host, "pid": 2**22 + 1}
    times = {"started": format_time(NOW_S - 1000), "updated": format_time(NOW_S - age_s)}
    put_atomic(join_uri(out, "progress.json"), json.dumps(fields | times).encode())


def beat(out: str, age_s: float) -> None:
    fields = {"host": "elsewhere", "pid": 7, "started_s": 0.0, "beat_s": NOW_S - age_s}
    put_atomic(join_uri(out, "driver.json"), json.dumps(fields).encode())


@pytest.fixture
def out(open_small_run: Callable[..., Any], tmp_path: Path) -> str:
    """A run of which nothing is published."""
    open_small_run(str(tmp_path))
    return str(tmp_path)


@pytest.fixture
def finished(label_small_run: Callable[..., Any], tmp_path: Path) -> str:
    """A run of which everything is published."""
    label_small_run(str(tmp_path / "finished"))
    return str(tmp_path / "finished")


@pytest.mark.parametrize(
    ("state", "age_s", "beat_s", "expected"),
    [
        (None, 0, None, Condition.STOPPED),
        (None, 0, 1.0, Condition.RUNNING),
        (None, 0, MAX_SILENCE_S + 1, Condition.DIED),
        (RunState.RUNNING, 1.0, None, Condition.RUNNING),
        (RunState.RUNNING, MAX_SILENCE_S + 1, MAX_SILENCE_S + 1, Condition.DIED),
        (RunState.RUNNING, 500.0, 20.0, Condition.RUNNING),
        (RunState.STOPPED, 1.0, None, Condition.STOPPED),
        (RunState.STOPPED, 1.0, 30.0, Condition.RUNNING),
        (RunState.FAILED, 1.0, None, Condition.FAILED),
        (RunState.DONE, 1.0, None, Condition.STOPPED),
    ],
)
def test_condition_of_an_unfinished_run(
    out: str, state: RunState | None, age_s: float, beat_s: float | None, expected: Condition
) -> None:
    if state is not None:
        say(out, state, age_s)
    if beat_s is not None:
        beat(out, beat_s)
    status = read_status(out, NOW_S)
    assert (status.condition, status.num_published, status.num_shards) == (expected, 0, 2)


def test_driver_of_this_machine_whose_process_is_gone_died_at_once(out: str) -> None:
    say(out, RunState.RUNNING, 20.0, host=socket.gethostname())
    assert read_status(out, NOW_S).condition == Condition.DIED
    say(out, RunState.RUNNING, 20.0)
    assert read_status(out, NOW_S).condition == Condition.RUNNING


def test_finished_run_is_finished_whatever_the_last_driver_said(finished: str) -> None:
    for state in (None, RunState.FAILED, RunState.STOPPED):
        if state is not None:
            say(finished, state, 1.0)
        status = read_status(finished, NOW_S)
        assert (status.condition, status.num_published, status.num_shards) == (Condition.FINISHED, 2, 2)
    # Rows of a finished run may be labelled again.
    say(finished, RunState.RUNNING, 1.0)
    assert read_status(finished, NOW_S).condition == Condition.RUNNING


def test_manifests_of_no_shard_of_the_run_do_not_count(finished: str) -> None:
    put_atomic(join_uri(finished, "labels", "stranger.parquet"), b"")
    assert read_status(finished, NOW_S).num_published == 2


@pytest.mark.parametrize(
    ("state", "age_s", "code"),
    [(RunState.RUNNING, 1.0, 0), (RunState.STOPPED, 1.0, 75), (RunState.FAILED, 1.0, 1)],
)
def test_exit_code_tells_the_condition(
    out: str, state: RunState, age_s: float, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW_S)
    say(out, state, age_s)
    assert main([out]) == code
    assert main([out, "--json"]) == code


def test_folder_without_a_run_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ManifestError, match="never begun"):
        read_status(str(tmp_path))
    assert main([str(tmp_path)]) == 2
    assert "neither a labelling run" in capsys.readouterr().err


def test_status_of_a_run_on_s3(label_small_run: Callable[..., Any], s3_folder: str, capsys: Any) -> None:
    label_small_run(join_uri(s3_folder, "out"))
    assert main([join_uri(s3_folder, "out"), "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert (fields["condition"], fields["num_published"], fields["num_shards"]) == ("finished", 2, 2)
    assert fields["next"].startswith("tagmask review --labels s3://")


def test_status_of_an_export(finished: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "export")
    arguments = ["--labels", finished, "--out", out, "--format", "coco", "--cluster", "local"]
    assert export.main([*arguments, "--limit", "1"]) == 0
    status = read_status(out)
    assert (status.kind, status.num_published, status.num_shards) == ("export", 1, 2)
    assert status.condition == Condition.STOPPED
    assert export.main(arguments) == 0
    status = read_status(out)
    assert (status.condition, status.num_published) == (Condition.FINISHED, 2)
    assert status.progress is not None
    assert status.progress.num_rejected == 0
    assert status.progress.left_out_by_reason.keys() == {"rejected"}
    assert main([out]) == 0
    assert "2 of 2 shards are exported" in capsys.readouterr().out


def test_status_is_read_without_ray_and_torch(out: str) -> None:
    program = (
        "import sys\n"
        "from jobs.status import main\n"
        f"assert main([{out!r}]) == 75\n"
        "assert not {'torch', 'ray', 'timm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """The command line of a labelling job of a few shards, with a hostile name for its output."""
    for shard in range(3):
        samples = {
            f"p{shard}-{index}": {
                "jpg": make_photo(10 * shard + index),
                "json": json.dumps({"tags": ["cat" if index else "sunset"]}).encode(),
            }
            for index in range(4)
        }
        make_tar(tmp_path / f"a-{shard}.tar", samples)
    (tmp_path / "vocabulary.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    save_small_model(str(tmp_path / "model"))
    return [
        *("-m", "jobs.label", "--shards", f"{tmp_path}/a-*.tar", "--vocabulary", f"{tmp_path}/vocabulary.json"),
        *("--model", f"{tmp_path}/model", "--out", f"{tmp_path}/o'ut é", "--views.num-patches", "16"),
        *("--cluster", "local", "--gpus-per-worker", "0", "--inputs.max-chunk-samples", "1", "--log-format", "json"),
    ]


@pytest.mark.timeout(300)
def test_killed_driver_died_and_the_next_one_finishes(arguments: list[str], tmp_path: Path) -> None:
    out = f"{tmp_path}/o'ut é"
    driver = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while (record := read_progress(out)) is None:
        assert driver.poll() is None
        time.sleep(0.05)
    assert (record.state, record.pid, record.command) == ("running", driver.pid, "label")
    assert read_status(out).condition == Condition.RUNNING
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    # The heartbeat is there, too; a moment later the missing process tells.
    assert read_status(out, time.time() + 30).condition == Condition.DIED
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    assert all({"time", "level", "event", "message"} <= set(entry) for entry in entries)
    assert [entry["event"] for entry in entries].count("progress") >= 1
    assert json.loads(done.stdout.splitlines()[-1])["message"].startswith("next: tagmask review --labels ")
    status = read_status(out)
    assert (status.condition, status.num_published) == (Condition.FINISHED, 3)
    assert status.progress is not None
    assert status.progress.state == "done"
