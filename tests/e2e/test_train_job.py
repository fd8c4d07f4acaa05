"""`python -m jobs.train` as a user runs it, with two workers on a real Ray."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image

from jobs.train import main
from pipeline.bundles import load_bundle
from pipeline.errors import TrainingError
from pipeline.training.driver.checkpoints import read_place
from pipeline.training.driver.log import EVENTS_FILE, read_records
from tests.e2e.conftest import SESSION_MARK
from tests.factories import make_tar

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
COLOURS = {"cat": (200, 30, 30), "dog": (30, 60, 200)}
NUM_EPOCHS = 6
NUM_DECODABLE = 75
"""Of the 78 training images that are usable: three are broken."""


def make_squares(rng: np.random.Generator, class_names: Any) -> bytes:
    pixels = rng.uniform(90, 130, (40, 40, 3))
    for place, name in enumerate(class_names):
        top, left = rng.integers(0, 20, 2)
        left = left // 2 + 20 * place if len(class_names) > 1 else left
        pixels[top : top + 16, left : left + 12] = COLOURS[name]
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for shard in range(4):
        samples = {}
        for place in range(25):
            names = (["cat"], ["dog"], ["cat", "dog"])[place % 3]
            tags = json.dumps({"tags": [*names, "sunset"]}).encode()
            samples[f"s{shard}_{place}"] = {"png": make_squares(rng, names), "json": tags}
        samples[f"broken{shard}"] = {"png": b"not a picture", "json": b'{"tags": ["cat"]}'}
        make_tar(folder / f"train-{shard:05d}.tar", samples)
    (folder / "vocabulary.json").write_text('{"classes": ["cat", "dog"]}')
    return folder


def make_command(inputs: Path, out: Path | str, *flags: Any) -> list[str]:
    return [
        *("--recipe", "demo", "--variant", "v2", "--shards", f"{inputs}/train-{{00000..00002}}.tar"),
        *("--val-shards", f"{inputs}/train-00003.tar", "--vocabulary", f"{inputs}/vocabulary.json"),
        *("--out", str(out), "--workers", "2", "--epochs", str(NUM_EPOCHS), "--warmup-epochs", "1"),
        *("--image-size", "32", "--patch-size", "8", "--width", "48", "--depth", "2", "--num-heads", "3"),
        *("--batch-size", "10", "--base-lr", "0.15", "--min-crop-fraction", "0.7", "--color-jitter", "0"),
        # All this has to be the same after a restart: dropped paths, erased rectangles, averaged weights, their seeds.
        *("--drop-path", "0.1", "--random-erasing", "0.2", "--ema-decay", "0.9", "--accumulation", "2"),
        *("--seed-weight", "0.2", "--seed-from-average", "--seed-start-epochs", "0.5"),
        *("--seed-attention-share", "0.2", "--token-lr-factor", "3", "--head-lr-factor", "2"),
        *("--checkpoint-steps", "3", "--log-steps", "1", *flags),
    ]


def find_train_workers() -> Any:
    """Find the training workers of this test session."""
    mark, found = f"{SESSION_MARK}={os.environ[SESSION_MARK]}".encode(), []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark in (folder / "environ").read_bytes():
                found += [int(folder.name)] * (b"TrainWork" in (folder / "cmdline").read_bytes())
        except OSError:
            continue
    return found


def wait_for_place(out: Path, num_epochs: int, is_over: Any) -> bool:
    """Wait until a checkpoint within the epoch after `num_epochs` is registered; return whether it was seen."""
    while not is_over():
        with contextlib.suppress(TrainingError):
            place = read_place(str(out))
            if place[0] >= num_epochs and place[1]:
                return True
        time.sleep(0.02)
    return False


@contextlib.contextmanager
def killing_a_worker(out: Path, num_epochs: int) -> Iterator[Any]:
    """Kill one training worker within the epoch after `num_epochs`; yield the list of killed workers."""
    is_over, killed = threading.Event(), []

    def kill_a_worker() -> None:
        if wait_for_place(out, num_epochs, is_over.is_set):
            killed.extend(find_train_workers()[:1])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    try:
        yield killed
    finally:
        is_over.set()
        thread.join()


def read_curve(out: Path) -> list[dict[str, Any]]:
    """Read what has to be the same in every attempt: all but times."""
    timed = ("time", "images_per_s", "wait_share", "train_s", "num_workers")
    return [{name: value for name, value in record.items() if name not in timed} for record in read_records(str(out))]


@pytest.fixture(scope="module")
def whole_run(inputs: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Path, Any]:
    """A run that nothing disturbed, and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(make_command(inputs, out)) == 0
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def killed_run(inputs: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A run whose driver died by SIGKILL within its second epoch or later."""
    out = tmp_path_factory.mktemp("killed") / "out"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "jobs.train", *make_command(inputs, out)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        was_seen = wait_for_place(out, 1, lambda: driver.poll() is not None)
        driver.send_signal(signal.SIGKILL)
        assert was_seen, driver.stdout.read()
    assert not (out / "bundle" / "model.json").exists()
    return out


def test_train_job_learns_and_says_what_it_did(
    inputs: Path, whole_run: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out, printed = whole_run
    network, bundle, digest = load_bundle(str(out / "bundle"))
    history = bundle.metrics["history"]
    assert digest in printed
    assert "sunset 75" in printed
    assert "dropped 'broken0': undecodable" in printed
    assert bundle.class_names == ("cat", "dog")
    assert network.config.width == 48
    assert {"python", "torch", "ray"} <= bundle.provenance["versions"].keys()
    assert [record["epoch"] for record in history] == list(range(1, NUM_EPOCHS + 1))
    assert all(record["validation"]["num_images"] == 25 for record in history)
    assert all((record["num_images"], record["num_dropped"]) == (NUM_DECODABLE, 3) for record in history)
    assert "3 training images could not be decoded and were dropped in each epoch" in printed
    assert bundle.provenance["data"]["train"] == {"num_samples": 78, "num_usable": 78}
    assert bundle.recipe["optimizer"]["epochs"] == NUM_EPOCHS
    assert history[-1]["losses"]["total"] < 0.8 * history[0]["losses"]["total"]
    best = bundle.metrics["best"]
    assert {path.name for path in (out / "checkpoints").glob("epoch-*")} == {
        f"epoch-{best['epoch']:04d}",
        f"epoch-{NUM_EPOCHS:04d}",
    }
    assert best["score"] == max(record["score"] for record in history) > 0.9
    assert f"saved epoch {best['epoch']} ({bundle.metrics['rule']})" in printed

    assert main(make_command(inputs, out)) == 0
    assert f"nothing to do: this run is finished after {NUM_EPOCHS} epochs" in capsys.readouterr().out


def test_figures_of_a_run_are_lines_events_and_a_page(whole_run: tuple[Path, Any]) -> None:
    out, _ = whole_run
    records = read_records(str(out))
    steps = [record for record in records if record["kind"] == "step"]
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert len(epochs) == NUM_EPOCHS
    assert [record["step"] for record in steps[:3]] == [1, 2, 3]
    assert len(steps) == NUM_EPOCHS * steps[0]["num_steps"]
    assert [record["position"] for record in steps] == sorted({record["position"] for record in steps})
    last_steps = [record for record in steps if record["step"] == record["num_steps"]]
    rates = [pytest.approx(record["learning_rate"]) for record in last_steps]
    assert [record["learning_rate"] for record in epochs] == rates
    assert all(0 <= record["wait_share"] <= 1 and record["images_per_s"] > 0 for record in steps)
    assert "<svg" in (out / "training.html").read_text()
    assert (out / EVENTS_FILE).stat().st_size > 1000


def test_run_whose_driver_and_then_a_worker_were_killed_ends_as_if_nothing_had_happened(
    inputs: Path, whole_run: tuple[Path, Any], killed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(killed_run, out)
    num_done, num_seen = read_place(str(out))
    # What a driver leaves that dies while it writes: it looks newer than all others, and is registered nowhere.
    (out / "checkpoints" / "epoch-0099").mkdir()
    (out / "checkpoints" / "epoch-0099" / "state.pt").write_bytes(b"PK\x03\x04 and no more")
    # The count of failures restarts after each checkpoint, so a limit of none in a row suffices.
    with killing_a_worker(out, num_done + 1) as killed:
        assert main(make_command(inputs, out, "--max-failures", "0")) == 0
    assert len(killed) == 1
    printed = capsys.readouterr().out
    within = f" and {num_seen} images of the next" if num_seen else ""
    assert f"resuming after epoch {num_done}{within}: " in printed
    assert printed.count("going on in epoch") == 2
    assert read_curve(out) == read_curve(whole_run[0])
    weights, expected = ((folder / "bundle" / "model.safetensors").read_bytes() for folder in (out, whole_run[0]))
    assert weights == expected


def test_run_goes_on_with_fewer_workers_and_sees_every_image_once(
    inputs: Path, killed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(killed_run, out)
    _, num_seen = read_place(str(out))
    assert main(make_command(inputs, out, "--workers", "1")) == 0
    printed = capsys.readouterr().out
    assert "1 workers" in printed
    assert ("the rest of the epoch is resharded" in printed) == (num_seen > 0)
    history = load_bundle(str(out / "bundle"))[1].metrics["history"]
    assert [record["num_images"] for record in history] == [NUM_DECODABLE] * NUM_EPOCHS
    assert {record["num_workers"] for record in history} == {1, 2}


def test_non_finite_loss_stops_the_run_with_the_images_of_the_batch(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--base-lr", "1e30", "--clip-norm", "None", "--warmup-epochs", "0")
    flags += ("--ema-decay", "0", "--seed-weight", "0", "--workers", "1")
    assert main(make_command(inputs, tmp_path / "out", *flags)) == 1
    errors = capsys.readouterr().err
    assert re.search(r"the loss is not finite in epoch 1, step \d+; images of the batch: 's\d_\d+'", errors)
    assert "same command" not in errors


def test_train_job_without_a_common_tag_says_which_tags_there_are_and_leaves_no_output(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vocabulary.json").write_text('{"classes": ["zebra"]}')
    command = make_command(inputs, tmp_path / "out", "--vocabulary", str(tmp_path / "vocabulary.json"))
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert "none of the 78 training samples can be used (no_known_tag 78)" in errors
    assert "sunset" in errors
    assert not (tmp_path / "out").exists()


def test_train_job_under_the_output_of_another_run_is_refused_in_one_line(
    inputs: Path, whole_run: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(make_command(inputs, whole_run[0], "--rng-seed", "7")) == 2
    errors = capsys.readouterr().err
    assert "config.rng_seed was 0, is 7" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--shards", "{inputs}/none-*.tar"), "none-*.tar"),
        (("--vocabulary", "{inputs}/none.json"), "none.json"),
        (("--backbone", "nosuch"), "timm has no model 'nosuch'"),
        (("--backbone", "vit_tiny_patch16_244"), "vit_tiny_patch16_224"),
        (("--val-shards", "{inputs}/train-00000.tar"), "is among the training and the validation shards"),
    ],
)
def test_train_job_with_a_wrong_command_says_so_in_one_line_and_leaves_no_output(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, str], complaint: str
) -> None:
    out = tmp_path / "out"
    assert main(make_command(inputs, out, *(flag.format(inputs=inputs) for flag in flags))) == 2
    errors = capsys.readouterr().err
    assert complaint in errors
    assert errors.count("\n") == 1
    assert not out.exists()
