"""`python -m jobs.train` with shards, vocabulary and output on S3 over HTTP."""

import json
import subprocess
import sys
from typing import Any

import pytest

from jobs.train import main
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.e2e.test_label_s3 import make_environment, run_job
from tests.e2e.test_train_job import NUM_DECODABLE, ROOT, inputs, make_command, wait_for_place  # noqa: F401 (a fixture)
from tests.faulty_network import FaultyNetwork

pytestmark = pytest.mark.ray


def test_training_on_s3_goes_on_after_its_driver_died_and_leaves_all_there(
    inputs: Any,  # noqa: F811
    s3_folder: str,
    s3_endpoint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in inputs.iterdir():
        put_atomic(join_uri(s3_folder, path.name), path.read_bytes())
    # Nothing on the way may take a key for a URI, or refuse to upload what it cannot measure.
    out = join_uri(s3_folder, "my model #1?", "50% +ü")
    with FaultyNetwork(s3_endpoint) as network:
        train_twice(s3_folder, out, network.url, capsys)
        assert network.num_without_length == 0


def train_twice(s3_folder: Any, out: str, endpoint: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*make_command(s3_folder, out), "--epochs", "2", "--workers", "1", "--endpoint-url", endpoint]
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.train", *command],
        cwd=ROOT,
        env=make_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as driver:
        was_seen = wait_for_place(out, 1, lambda: driver.poll() is not None)
        driver.kill()
        assert was_seen, driver.stdout.read()
    done = run_job("train", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after epoch 1" in done.stdout
    objects = {item.uri.removeprefix(f"{out}/") for item in list_objects(out)}
    assert {"train.json", "survey.json", "metrics.jsonl", "training.html", "bundle/model.safetensors"} <= objects
    assert "checkpoints/epoch-0002/state.pt" in objects
    history = json.loads(read_bytes(join_uri(out, "bundle", "model.json")))["metrics"]["history"]
    assert [(record["epoch"], record["num_images"]) for record in history] == [(1, NUM_DECODABLE), (2, NUM_DECODABLE)]
    assert not [item.uri for item in list_objects(out) if b"hush-hush" in read_bytes(item.uri)]

    assert main(command) == 0
    assert "nothing to do: this run is finished after 2 epochs" in capsys.readouterr().out


def test_training_into_a_bucket_that_is_not_there_names_it(
    inputs: Any,  # noqa: F811
    s3_folder: str,
    s3_endpoint: str,
) -> None:
    done = run_job("train", *make_command(inputs, "s3://nobody-has-this/model"), "--endpoint-url", s3_endpoint)
    assert done.returncode == 2
    assert done.stderr.startswith("error: bucket 'nobody-has-this' of 's3://nobody-has-this/model")
