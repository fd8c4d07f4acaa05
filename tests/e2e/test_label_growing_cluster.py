"""`python -m jobs.label` on a cluster whose GPUs are still to come."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import ClusterConfig

from benchmarks.cluster_host import ClusterHost
from tests.e2e.test_label_job import ROOT, inputs  # noqa: F401 (a fixture)

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster() -> Iterator[Any]:
    # Ray's sockets want a short path.
    folder = tempfile.mkdtemp(prefix="rg", dir="/tmp")
    host = ClusterHost(folder, {}, num_cpus=0, num_gpus=0)
    yield host
    host.stop()
    shutil.rmtree(folder, ignore_errors=True)


def publish_growth(address: Any, **resources: Any) -> None:
    """Publish how far a cluster may grow, as some autoscalers do."""
    config = ClusterConfig()
    config.node_group_configs.add(name="gpu_worker", max_count=1, resources=resources)
    GcsClient(address=address).report_cluster_config(config.SerializeToString())


def test_job_on_a_cluster_that_may_grow_waits_for_its_gpus_and_says_so(
    inputs: Any,  # noqa: F811
    cluster: Any,
    tmp_path: Path,
) -> None:
    command = [
        *(sys.executable, "-m", "jobs.label", "--address", cluster.address, "--out", str(tmp_path / "masks")),
        *("--shards", f"{inputs}/photos-00000.tar", "--vocabulary", f"{inputs}/vocabulary.json"),
        *("--model", f"{inputs}/model", "--device", "cpu", "--views.num-patches", "16", "--gpus-per-worker", "1"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    options = {"cwd": ROOT, "env": environment | {"RAY_AUTH_MODE": "disabled"}, "text": True}
    refused = subprocess.run(command, **options, capture_output=True, timeout=600, check=False)
    assert refused.returncode == 2
    assert "the cluster has 0 GPUs and a worker wants 1" in refused.stderr
    publish_growth(cluster.address, CPU=4, GPU=1)
    with subprocess.Popen(command, **options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as job:
        said = ""
        for line in job.stdout:
            said += line
            if "the cluster has 0 GPUs now, 1 workers want 1" in line:
                cluster.add_node(num_cpus=4, num_gpus=1)
                break
        rest = job.communicate(timeout=600)[0]
    assert job.returncode == 0, rest
    # The CPUs that its node will have, less one for reading.
    assert "1 workers of 1 GPUs and 3 CPUs each" in said
    assert len(list((tmp_path / "masks" / "labels").glob("*.parquet"))) == 1
