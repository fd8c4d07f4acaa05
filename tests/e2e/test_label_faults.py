"""`python -m jobs.label` where things go wrong: images that kill, signals, a job server."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from pipeline.label import CALLS_PER_ACTOR
from tests.e2e.test_label_job import ROOT, inputs, list_arguments, read_rows, run_label  # noqa: F401 (fixtures)
from tests.factories import make_photo, make_tar

pytestmark = pytest.mark.ray

HOSTILE_DECODER = """
import os, signal, time
import PIL.Image

open_image = PIL.Image.open

def open_hostile_image(source, *arguments, **options):
    payload = bytes(source.getbuffer()) if hasattr(source, "getbuffer") else b""
    if payload.endswith(b"POISON"):
        # Of this thread: a signal to the process may reach another one later, and the image would be labelled.
        signal.raise_signal(signal.SIGSEGV)
    if payload.endswith(b"STUCK"):
        time.sleep(1000)
    if payload.endswith(b"SLOW"):
        time.sleep(0.3)
    return open_image(source, *arguments, **options)

PIL.Image.open = open_hostile_image
"""
"""What Python runs when it starts: a decoder that really kills its process, as a damaged codec library does."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of processes, and of all that they start, whose decoder is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "sitecustomize.py").write_text(HOSTILE_DECODER)
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "RAY_AUTH_MODE": "disabled"}


def find_free_ports(number: int) -> list[Any]:
    sockets = [socket.socket() for _ in range(number)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


@dataclass(frozen=True)
class Head:
    """A Ray whose workers decode images by the hostile decoder."""

    address: str
    environment: dict[str, str]
    job_server: JobSubmissionClient


@pytest.fixture(scope="module")
def head(environment: dict[str, str]) -> Iterator[Any]:
    """A Ray head of the module's own with a job server."""
    session = tempfile.mkdtemp(prefix="rj", dir="/tmp")
    port, dashboard_port, agent_port = find_free_ports(3)
    # The job server starts drivers by the name `python`.
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment = environment | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [
            *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}"),
            # Its agent's usual port may still be held by that of a Ray that was killed a moment ago.
            *(f"--dashboard-port={dashboard_port}", f"--dashboard-agent-listen-port={agent_port}"),
            *("--num-cpus=4", f"--temp-dir={session}"),
        ],
        cwd=session,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = None
    end_s = time.monotonic() + 360
    while client is None and time.monotonic() < end_s and process.poll() is None:
        try:
            client = JobSubmissionClient(f"http://127.0.0.1:{dashboard_port}")
        except (ConnectionError, RuntimeError):
            time.sleep(0.5)
    assert client is not None, "the job server does not answer"
    yield Head(f"127.0.0.1:{port}", environment, client)
    process.terminate()
    process.wait(timeout=60)
    shutil.rmtree(session, ignore_errors=True)


def make_shard(path: Path, endings: Any) -> Path:
    samples = {
        f"photo{i:03d}": {"jpg": make_photo(i) + ending, "json": json.dumps({"tags": ["cat"]}).encode()}
        for i, ending in enumerate(endings)
    }
    return make_tar(path, samples)


def make_command(inputs: Path, out: Path, shards: Any, *flags: Any) -> list[str]:  # noqa: F811
    return [sys.executable, "-m", "jobs.label", *list_arguments(inputs, out, "--shards", str(shards), *flags)]


def test_images_that_kill_or_hang_their_worker_are_rejected_and_the_rest_is_labelled(
    inputs: Any,  # noqa: F811
    head: Any,
    tmp_path: Path,
) -> None:
    endings = [b""] * 10
    endings[5], endings[9] = b"POISON", b"STUCK"
    shard = make_shard(tmp_path / "photos.tar", endings)
    command = make_command(inputs, tmp_path / "out", shard, "--stall-timeout-s", "5", "--address", head.address)
    done = subprocess.run(
        command, cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=840, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(tmp_path / "out")
    assert [row["key"] for row in rows] == [f"photo{i:03d}" for i in range(10)]
    assert {row["key"]: row["reason"] for row in rows if row["status"] == "rejected"} == {
        "photo005": "crashed",
        "photo009": "crashed",
    }
    assert "rejected, crashed: 2" in done.stdout


@pytest.mark.parametrize("cluster", ["ray", "local"])
def test_run_told_to_stop_says_how_to_go_on_and_goes_on(
    inputs: Any,  # noqa: F811
    environment: dict[str, str],
    run_label: Any,  # noqa: F811
    tmp_path: Path,
    cluster: str,
) -> None:
    shard = make_shard(tmp_path / "photos.tar", [b"SLOW"] * 60)
    # One actor, so that no machine has enough cores to be done within the time of grace.
    command = make_command(inputs, tmp_path / "out", shard, "--cluster", cluster)
    running = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    parts = tmp_path / "out" / "parts" / "photos"
    wait_until(lambda: (parts.is_dir() and len(list(parts.glob("*.parquet"))) >= 2) or running.poll() is not None)
    running.send_signal(signal.SIGTERM)
    asked_s = time.monotonic()
    printed, _ = running.communicate(timeout=360)
    assert running.returncode == 75, printed
    assert "run the same command again" in printed
    # The wait for Ray's own end is not the job's; the time of grace is 2 s.
    assert time.monotonic() - asked_s < 60
    num_kept = len(list(parts.glob("*.parquet")))
    assert 2 <= num_kept < 15
    again = run_label(tmp_path / "out", "--shards", str(shard))
    # The actor may have committed the chunks in its hand between the end of its driver and its own.
    num_labelled = int(re.search(r"labelled (\d+) and rejected 0", again)[1])
    assert 60 - 4 * (num_kept + CALLS_PER_ACTOR) <= num_labelled <= 60 - 4 * num_kept
    assert [row["key"] for row in read_rows(tmp_path / "out")] == [f"photo{i:03d}" for i in range(60)]
    assert not list(parts.glob("*.parquet"))


def wait_until(condition: Any, limit_s: float = 720.0) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def submit(job_server: Any, words: list[str], runtime_env: Any) -> Any:
    """Submit a job; the server may answer before its node can take one."""
    end_s = time.monotonic() + 360
    while True:
        try:
            return job_server.submit_job(entrypoint=shlex.join(words), runtime_env=runtime_env)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > end_s:
                raise
            time.sleep(1.0)


def test_same_commands_run_under_a_job_server_and_stop_with_its_jobs(
    inputs: Any,  # noqa: F811
    head: Any,
    tmp_path: Path,
) -> None:
    """Submitted, stopped, and submitted again."""
    job_server = head.job_server
    shard = make_shard(tmp_path / "photos.tar", [b"SLOW"] * 40)
    # Absolute paths: the job runs in a copy of the working folder.
    words = ["python", *make_command(inputs, tmp_path / "out", shard)[1:]]
    runtime_env = {"working_dir": str(ROOT), "excludes": [".venv", ".git", ".work", "demo"]}
    runtime_env["env_vars"] = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}
    job = submit(job_server, words, runtime_env)
    parts = tmp_path / "out" / "parts" / "photos"
    has_ended = {JobStatus.FAILED, JobStatus.SUCCEEDED, JobStatus.STOPPED}
    wait_until(lambda: (parts.is_dir() and list(parts.iterdir())) or job_server.get_job_status(job) in has_ended)
    assert parts.is_dir(), job_server.get_job_logs(job)
    job_server.stop_job(job)
    wait_until(lambda: job_server.get_job_status(job) in has_ended)
    assert job_server.get_job_status(job) == JobStatus.STOPPED
    assert "run the same command again" in job_server.get_job_logs(job)
    again = submit(job_server, words, runtime_env)
    wait_until(lambda: job_server.get_job_status(again) in has_ended)
    assert job_server.get_job_status(again) == JobStatus.SUCCEEDED, job_server.get_job_logs(again)
    assert [row["key"] for row in read_rows(tmp_path / "out")] == [f"photo{i:03d}" for i in range(40)]
