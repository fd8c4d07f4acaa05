"""`python -m jobs.label` while its store is away or its disk is full, and while its workers are silent."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from jobs.qualities import balanced
from pipeline.bundles import load_bundle
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.run.config import InputConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import load_vocabulary
from tests.e2e.test_label_job import ROOT
from tests.factories import make_photo, make_tar, save_small_model
from tests.fakes import SerialCluster

pytestmark = pytest.mark.ray

NUM_SHARDS = 4
NUM_PER_SHARD = 12
SMALL = "160k"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of three chunks each, whose masks together do not fit into a disk of `SMALL`."""
    folder = tmp_path_factory.mktemp("inputs")
    for shard in range(NUM_SHARDS):
        samples = {
            f"s{shard}-{i:03d}": {"jpg": make_photo(100 * shard + i), "json": json.dumps({"tags": ["cat"]}).encode()}
            for i in range(NUM_PER_SHARD)
        }
        make_tar(folder / f"photos-{shard}.tar", samples)
    (folder / "vocabulary.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    save_small_model(str(folder / "model"))
    return folder


def make_command(inputs: Path, out: Path | str, *flags: Any, folder: Any = None, cluster: str = "ray") -> list[str]:
    folder = folder or inputs
    return [
        *(sys.executable, "-m", "jobs.label", "--shards", f"{folder}/photos-*.tar"),
        *("--vocabulary", f"{folder}/vocabulary.json", "--model", f"{folder}/model", "--out", str(out)),
        *("--gpus-per-worker", "0", "--views.num-patches", "16", "--inputs.max-chunk-samples", "4"),
        *("--cluster", cluster, *flags),
    ]


class Running:
    """A job in a process of its own, whose lines are read as they come."""

    def __init__(self, command: Any, **environment: Any) -> None:
        self.lines = []
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self._reader.start()

    @property
    def printed(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, limit_s: float = 450.0) -> None:
        end_s = time.monotonic() + limit_s
        while not re.search(pattern, self.printed):
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < end_s, f"no '{pattern}' in:\n{self.printed}"
            time.sleep(0.05)

    def finish(self, limit_s: float = 450.0) -> Any:
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"still running after {limit_s} s:\n{self.printed}")
        self._reader.join(10)
        return code


@contextmanager
def small_disk(path: Path) -> Iterator[Callable[..., Any]]:
    """A disk in memory; a function makes it larger."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", path], check=False).returncode:
        pytest.skip("needs the right to mount a disk")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=20m", path], check=True)
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def read_manifests(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "labels").glob("*.parquet"))}


@pytest.fixture(scope="module")
def expected(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What an undisturbed run publishes, without a cluster."""
    out, model = tmp_path_factory.mktemp("calm") / "out", str(inputs / "model")
    run = open_run(
        out_uri=str(out),
        model_uri=model,
        model_digest=load_bundle(model)[2],
        vocabulary=load_vocabulary(str(inputs / "vocabulary.json")),
        config=replace(balanced(), inputs=InputConfig(max_chunk_samples=4), views=ViewConfig(num_patches=16)),
        shards=list_shards([f"{inputs}/photos-*.tar"]),
    )
    label_run(run, LabelOptions(gpus_per_actor=0.0), cluster=SerialCluster())
    return read_manifests(out)


@pytest.mark.parametrize("cluster", ["ray", "local"])
def test_full_disk_is_waited_for_and_then_the_run_goes_on(
    inputs: Path, expected: Any, tmp_path: Path, cluster: str
) -> None:
    with small_disk(tmp_path / "disk") as enlarge:
        running = Running(make_command(inputs, tmp_path / "disk" / "out", "--workers", "1", cluster=cluster))
        running.wait_for(r"waiting: .*[Nn]o space left on device.* free")
        enlarge()
        assert running.finish() == 0, running.printed
        assert "ended early" not in running.printed
        assert f"labelled {NUM_SHARDS * NUM_PER_SHARD} and rejected 0" in running.printed
        assert read_manifests(tmp_path / "disk" / "out") == expected
        assert not list((tmp_path / "disk").rglob(".tmp*"))


def test_wave_that_fails_leaves_its_cpus_to_the_next_one(inputs: Path, expected: Any, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as enlarge:
        # Nobody waits for space, so the wave fails; the cluster has just the CPUs that one pool and its readers need.
        running = Running(make_command(inputs, tmp_path / "disk" / "out", "--store-outage-s", "0"))
        running.wait_for(r"this wave ended early")
        enlarge()
        assert running.finish() == 0, running.printed
        assert read_manifests(tmp_path / "disk" / "out") == expected


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Callable[..., Any], Any]]:
    """A pretended S3 that can be stopped and started again at its address, with what it holds."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
        monkeypatch.setenv(name, value)
    servers = [server]

    def start() -> None:
        servers.append(ThreadedMotoServer(ip_address=host, port=port, verbose=False))
        servers[-1].start()

    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield lambda: servers[-1].stop(), start
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    servers[-1].stop()


@pytest.mark.parametrize("cluster", ["ray", "local"])
def test_store_that_is_away_for_a_while_is_waited_for(
    inputs: Path, expected: Any, s3_server: tuple[Callable[..., Any], Any], cluster: str
) -> None:
    # One of its own: the pretended S3 keeps its buckets for as long as this process lives.
    bucket, (stop_server, start_server) = f"photos-{cluster}", s3_server
    store = fsspec.filesystem("s3", use_listings_cache=False)
    store.mkdir(bucket)
    store.put(str(inputs), f"{bucket}/in", recursive=True)
    command = make_command(inputs, f"s3://{bucket}/out", "--workers", "1", folder=f"s3://{bucket}/in", cluster=cluster)
    running = Running(command)
    end_s = time.monotonic() + 450
    while not store.find(f"{bucket}/out/parts") and time.monotonic() < end_s:
        time.sleep(0.05)
    stop_server()
    running.wait_for(rf"waiting: \d workers wait for a store: 's3://{bucket}/.* cannot be reached")
    start_server()
    assert running.finish() == 0, running.printed
    assert "resumed after a wait of" in running.printed
    assert "ended early" not in running.printed
    found = {name.rpartition("/")[2]: store.cat_file(name) for name in store.find(f"{bucket}/out/labels")}
    # A driver that starts while the store is away waits for it, too.
    stop_server()
    again = Running(command)
    again.wait_for(rf"waiting: .*s3://{bucket}/in/vocabulary.json' cannot be reached")
    start_server()
    assert again.finish() == 0, again.printed
    assert "nothing to do: every shard is published" in again.printed
    # Footers and rows name other shards, as those lie elsewhere.
    assert {name: read_rows(payload) for name, payload in found.items()} == {
        name: read_rows(payload) for name, payload in expected.items()
    }


def read_rows(payload: bytes) -> list[dict[str, Any]]:
    table = pq.read_table(io.BytesIO(payload))
    shards = [Path(uri).name for uri in table["shard"].to_pylist()]
    return table.set_column(table.column_names.index("shard"), "shard", [shards]).to_pylist()


def list_workers(mark: bytes) -> list[Any]:
    """List the labelling actors of the job whose environment holds a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"ray::MapWorker" in (folder / "cmdline").read_bytes() and mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def test_wave_whose_workers_are_frozen_is_ended_by_force_and_taken_up_again(
    inputs: Path, expected: Any, tmp_path: Path
) -> None:
    out, mark = tmp_path / "out", str(tmp_path)
    flags = ("--workers", "1", "--no-progress-timeout-s", "8")
    running = Running(make_command(inputs, out, *flags), TAGMASK_TEST_JOB=mark)
    end_s = time.monotonic() + 450
    while not list((out / "parts").rglob("*.parquet")) and time.monotonic() < end_s:
        time.sleep(0.01)
    frozen = list_workers(mark.encode())
    assert frozen
    for process in frozen:
        os.kill(process, signal.SIGSTOP)
    running.wait_for(
        r"this wave ended early.*no chunk and no report of a worker for \d+ s: \d of 1 labelling actors alive"
    )
    assert running.finish() == 0, running.printed
    assert not set(frozen) & set(list_workers(mark.encode()))
    # What Ray's processes say of the dead workers, and the frames of what they raised, stay in its logs.
    assert not re.search(r"\(raylet|Traceback|\.cc:\d+ +\S*::", running.printed)
    assert read_manifests(out) == expected


def test_gpus_that_are_not_there_yet_are_waited_for(inputs: Path, tmp_path: Path) -> None:
    flags = ("--gpus-per-worker", "1", "--workers", "1", "--no-progress-timeout-s", "1")
    running = Running(make_command(inputs, tmp_path / "out", *flags))
    running.wait_for(r"waiting: no worker can start: it asks for 1 GPU, and no node of the cluster has more than 0")
    running.process.send_signal(signal.SIGTERM)
    assert running.finish() == 75, running.printed
    assert "ended early" not in running.printed


def test_job_whose_cluster_dies_says_what_stays(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = {"RAY_gcs_rpc_server_reconnect_timeout_s": "8", "TAGMASK_TEST_JOB": str(tmp_path)}
    flags = ("--gpus-per-worker", "1", "--workers", "1")
    running = Running(make_command(inputs, out, *flags), **environment)
    running.wait_for(r"waiting: no worker can start")
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_head = b"gcs_server" in (folder / "cmdline").read_bytes().split(b"\0")[0]
            if is_head and str(tmp_path).encode() in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
    assert running.finish() == 1, running.printed
    assert re.search(
        r"error: the head of the cluster .* has been gone for 6 s; 0 of 4 shards are published", running.printed
    )
    assert running.printed.rstrip().endswith(
        "what is committed stays, run the same command again once there is a cluster"
    )
