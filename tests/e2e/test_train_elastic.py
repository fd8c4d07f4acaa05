"""Nodes come and go while `python -m jobs.train` runs on a real Ray cluster of three."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster_host import ClusterHost
from pipeline.training.driver.log import read_records
from tests.e2e.test_train_job import NUM_DECODABLE, ROOT, inputs, make_command  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]

NODE_CPUS = 3
"""Two for a worker, so that a node has room for one, and one to read and decode."""
LIMIT_S = 600.0
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""So that the head notices in three seconds that a node is gone, and not in twenty."""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without room for a worker, and two nodes with room for one each."""
    folder = tempfile.mkdtemp(prefix="re", dir="/tmp")
    cluster = ClusterHost(folder, QUICK, num_cpus=1)
    for _ in range(2):
        cluster.add_node(num_cpus=NODE_CPUS)
    yield cluster
    cluster.stop()
    shutil.rmtree(folder, ignore_errors=True)


def read_epochs(out: Path) -> list[Any]:
    return [record for record in read_records(str(out)) if record["kind"] == "epoch"]


def wait_for_epoch(out: Path, num_workers: int, driver: Any) -> None:
    """Wait until an epoch has ended with `num_workers` workers."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and driver.poll() is None:
        epochs = read_epochs(out)
        if epochs and epochs[-1]["num_workers"] == num_workers:
            return
        time.sleep(0.5)
    raise AssertionError(f"no epoch with {num_workers} workers; there are {read_epochs(out)[-1:]}")


def test_run_goes_on_when_a_node_dies_and_takes_in_one_that_joins(
    inputs: Any,  # noqa: F811
    cluster: Any,
    tmp_path: Path,
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    flags = ("--workers", "1:2", "--cpus-per-worker", "2", "--max-failures", "1", "--epochs", "5000")
    flags += ("--resize-interval-s", "2")
    rare = ("--validate-every", "5000", "--checkpoint-steps", "5000", "--log-steps", "5000")
    command = [*make_command(inputs, out, *flags, *rare), "--address", cluster.address]
    # For so long Ray waits for workers on a node of which it does not know yet that it is gone; a minute by itself.
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
    with (
        log.open("w") as printed,
        subprocess.Popen(
            [sys.executable, "-m", "jobs.train", *command],
            cwd=ROOT,
            env=environment,
            stdout=printed,
            stderr=subprocess.STDOUT,
        ) as driver,
    ):
        try:
            wait_for_epoch(out, 2, driver)
            cluster.kill_node()
            wait_for_epoch(out, 1, driver)
            cluster.add_node(num_cpus=NODE_CPUS)
            wait_for_epoch(out, 2, driver)
        except AssertionError as error:
            raise AssertionError(log.read_text()) from error
        finally:
            driver.kill()
    epochs = read_epochs(out)
    assert [record["epoch"] for record in epochs] == list(range(1, len(epochs) + 1))
    assert {record["num_images"] for record in epochs} == {NUM_DECODABLE}
    assert "going on in epoch" in log.read_text()
