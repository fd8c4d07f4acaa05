"""`python -m jobs.train` as a user runs it, with two workers on a real Ray."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from jobs.train import main
from pipeline.bundles import load_bundle
from tests.factories import make_tar

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
COLOURS = {"cat": (200, 30, 30), "dog": (30, 60, 200)}
NUM_EPOCHS = 8


def make_squares(rng, class_names):
    pixels = rng.uniform(90, 130, (40, 40, 3))
    for place, name in enumerate(class_names):
        top, left = rng.integers(0, 20, 2)
        left = left // 2 + 20 * place if len(class_names) > 1 else left
        pixels[top : top + 16, left : left + 12] = COLOURS[name]
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
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


def make_command(inputs, out, *flags):
    return [
        *("--recipe", "demo", "--variant", "v2", "--shards", f"{inputs}/train-{{00000..00002}}.tar"),
        *("--val-shards", f"{inputs}/train-00003.tar", "--vocabulary", f"{inputs}/vocabulary.json"),
        *("--out", str(out), "--num-workers", "2", "--epochs", str(NUM_EPOCHS), "--warmup-epochs", "1"),
        *("--image-size", "32", "--patch-size", "8", "--width", "48", "--depth", "2", "--num-heads", "3"),
        *("--batch-size", "16", "--base-lr", "0.1", "--min-crop-fraction", "0.7", "--color-jitter", "0", *flags),
    ]


@pytest.fixture(scope="module")
def killed_run(inputs, tmp_path_factory, local_ray):
    """A run whose driver died by SIGKILL after its first checkpoint."""
    out = tmp_path_factory.mktemp("run") / "out"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "jobs.train", *make_command(inputs, out)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        printed = []
        for line in driver.stdout:
            printed.append(line)
            # The record of the second epoch comes after the first checkpoint was registered.
            if line.startswith("epoch 2/"):
                break
        driver.send_signal(signal.SIGKILL)
    assert any(line.startswith("epoch 2/") for line in printed), "".join(printed)
    assert not (out / "bundle" / "model.json").exists()
    return out


def test_train_job_learns_resumes_after_a_kill_and_does_nothing_when_finished(inputs, killed_run, capsys):
    assert main(make_command(inputs, killed_run)) == 0
    printed = capsys.readouterr().out
    assert "resuming after epoch" in printed
    assert "sunset 75" in printed

    network, bundle, digest = load_bundle(str(killed_run / "bundle"))
    history = bundle.metrics["history"]
    assert digest in printed
    assert bundle.class_names == ("cat", "dog")
    assert network.config.width == 48
    assert [record["epoch"] for record in history] == list(range(1, NUM_EPOCHS + 1))
    assert all(record["validation"]["num_images"] == 25 for record in history)
    assert all(record["num_images"] == 64 for record in history)
    assert history[-1]["losses"]["total"] < 0.8 * history[0]["losses"]["total"]
    assert history[-1]["validation"]["mean_average_precision"] > 0.9

    assert main(make_command(inputs, killed_run)) == 0
    assert f"nothing to do: this run is finished after {NUM_EPOCHS} epochs" in capsys.readouterr().out


def test_train_job_under_the_output_of_another_run_is_refused_in_one_line(inputs, killed_run, capsys):
    assert main(make_command(inputs, killed_run, "--rng-seed", "7")) == 2
    errors = capsys.readouterr().err
    assert "config.rng_seed was 0, is 7" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--shards", "{inputs}/none-*.tar"), "none-*.tar"),
        (("--vocabulary", "{inputs}/none.json"), "none.json"),
        (("--backbone", "nosuch"), "timm has no model 'nosuch'"),
        (("--batch-size", "15"), "divisible by num_workers, got 15 and 2"),
        (("--val-shards", "{inputs}/train-00000.tar"), "is among the training and the validation shards"),
    ],
)
def test_train_job_with_a_wrong_command_says_so_in_one_line_and_leaves_no_output(
    inputs, tmp_path, capsys, flags, complaint
):
    out = tmp_path / "out"
    assert main(make_command(inputs, out, *(flag.format(inputs=inputs) for flag in flags))) == 2
    errors = capsys.readouterr().err
    assert complaint in errors
    assert errors.count("\n") == 1
    assert not out.exists()
