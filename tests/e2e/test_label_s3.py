"""`python -m jobs.label` and `jobs.verify` with shards, model and output on S3 over HTTP."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jobs.label import main as label
from jobs.verify import main as verify
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.e2e.test_label_job import NUM_PER_SHARD, ROOT, inputs  # noqa: F401 (a fixture)
from tests.faulty_network import FaultyNetwork

pytestmark = pytest.mark.ray

SECRET = "hush-hush"
NUM_SHARDS = 3
CHUNKS_PER_SHARD = -(-NUM_PER_SHARD // 4)


def make_environment() -> Any:
    """Make the environment of a user without an endpoint in it."""
    environment = {key: value for key, value in os.environ.items() if key != "AWS_ENDPOINT_URL"}
    return environment | {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "RAY_AUTH_MODE": "disabled",
    }


def run_job(name: str, *arguments: Any, **variables: Any) -> Any:
    """Run a job as a user does. The endpoint comes by the flag, the credentials from the environment."""
    command = [sys.executable, "-m", f"jobs.{name}", *arguments]
    environment = make_environment() | variables
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=840, check=False)
    assert SECRET not in done.stdout + done.stderr
    return done


@pytest.fixture
def ray_folder() -> Iterator[Any]:
    """Where Ray keeps its sockets, which want short paths, and the logs of its processes."""
    folder = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def find_secret(folder: Path) -> list[Any]:
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_everything_on_s3_costs_one_put_a_chunk_and_one_a_shard(
    inputs: Any,  # noqa: F811
    s3_folder: str,
    s3_endpoint: str,
    ray_folder: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in sorted(inputs.rglob("*")):
        if path.is_file():
            put_atomic(join_uri(s3_folder, path.relative_to(inputs).as_posix()), path.read_bytes())
    out = join_uri(s3_folder, "masks")
    arguments = [
        *("--shards", join_uri(s3_folder, "photos-{00000..00002}.tar"), "--out", out, "--gpus-per-worker", "0"),
        *("--vocabulary", join_uri(s3_folder, "vocabulary.json"), "--model", join_uri(s3_folder, "model")),
        *("--views.num-patches", "16", "--inputs.max-chunk-samples", "4", "--workers", "1"),
        *("--cluster", "ray"),
    ]
    with FaultyNetwork(s3_endpoint) as network:
        done = run_job("label", *arguments, "--endpoint-url", network.url, RAY_TMPDIR=str(ray_folder))
        assert done.returncode == 0, done.stdout + done.stderr
        kinds = Counter(request.kind for request in network.requests)
        puts = Counter(
            request.path.split("/run/masks/")[-1].split("/")[0] for request in network.requests if request.kind == "put"
        )
        reads = Counter(
            (request.kind, request.path.split("/run/")[-1].split("?")[0].rpartition("/")[0])
            for request in network.requests
            if request.kind in ("get", "head") and "driver.json" not in request.path
        )
        # A shard is read once, besides its first bytes and the first look at the tags of one shard. It is looked at
        # when it is listed, before it is read and when it is opened; a part is read once, when its shard is sealed.
        # An image costs no request.
        assert reads.pop(("get", "")) <= 2 * NUM_SHARDS + 2
        assert reads.pop(("head", "")) <= 3 * NUM_SHARDS + 2
        assert sum(number for (kind, place), number in reads.items() if place.startswith("masks/parts/")) == (
            NUM_SHARDS * CHUNKS_PER_SHARD
        )
        others = {place for _, place in reads if not place.startswith("masks/parts/")}
        assert others <= {"model", "masks"}
        assert sum(number for (_, place), number in reads.items() if place in others) <= 10
        # The heartbeat is written once a minute.
        assert puts.pop("driver.json") >= 1
        # The progress is written every few seconds, and at the end.
        assert puts.pop("progress.json") >= 1
        assert puts == {"run.json": 1, "parts": NUM_SHARDS * CHUNKS_PER_SHARD, "labels": NUM_SHARDS}
        # For each of three plans one of labels/ and one of parts/, and two more to see that a folder is not there; and
        # one to see that the run is new.
        assert kinds["list"] <= 3 * 4 + 1
        # One for the parts of each shard, and one for the heartbeat.
        assert kinds["delete"] == NUM_SHARDS + 1
        network.requests.clear()
        # Another client, as it looks for its endpoint once.
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        assert label([*arguments, "--endpoint-url", network.url]) == 0
        assert "nothing to do" in capsys.readouterr().out
        assert network.requests
        assert not [
            request
            for request in network.requests
            if request.kind in ("put", "delete") and "run.json" not in request.path
        ]
        assert verify(["--labels", out, "--endpoint-url", network.url]) == 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert list(ray_folder.rglob("worker-*.err"))
    assert find_secret(ray_folder) == []
    assert not [item.uri for item in list_objects(s3_folder) if SECRET.encode() in read_bytes(item.uri)]
    names = [item.uri.removeprefix(out) for item in list_objects(out)]
    assert names == [
        *(f"/labels/photos-0000{shard}.parquet" for shard in range(NUM_SHARDS)),
        "/progress.json",
        "/run.json",
    ]
