"""`python -m jobs.train` with shards, vocabulary and output on S3 over HTTP."""

import json

import pytest

from pipeline.storage import join_uri, list_objects, put_atomic, read_bytes
from tests.e2e.test_label_s3 import run_job
from tests.e2e.test_train_job import inputs, make_command  # noqa: F401 (a fixture)

pytestmark = pytest.mark.ray


def test_training_on_s3_leaves_model_checkpoints_and_figures_there(inputs, s3_folder, s3_endpoint):  # noqa: F811
    for path in inputs.iterdir():
        put_atomic(join_uri(s3_folder, path.name), path.read_bytes())
    out = join_uri(s3_folder, "model")
    command = [*make_command(s3_folder, out), "--epochs", "2", "--workers", "1", "--endpoint-url", s3_endpoint]
    done = run_job("train", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    objects = {item.uri.removeprefix(f"{out}/") for item in list_objects(out)}
    assert {"train.json", "survey.json", "metrics.jsonl", "training.html", "bundle/model.safetensors"} <= objects
    assert "checkpoints/epoch-0002/state.pt" in objects
    assert json.loads(read_bytes(join_uri(out, "bundle", "model.json")))["metrics"]["history"][-1]["epoch"] == 2
    assert not [item.uri for item in list_objects(out) if b"hush-hush" in read_bytes(item.uri)]

    again = run_job("train", *command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing to do: this run is finished after 2 epochs" in again.stdout
