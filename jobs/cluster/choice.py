"""Choice between Ray and child processes: little work is done before a Ray has started."""

import os
import sys
from pathlib import Path

from jobs.cluster.settings import find_address
from jobs.command_line.shared_options import ClusterOptions
from pipeline.commit.plan import Plan
from pipeline.driver.cluster import Cluster

MAX_SHARDS = 16
"""Shards to do up to which `auto` does without Ray."""
MAX_BYTES = 64 * 2**20
"""Bytes to do up to which `auto` does without Ray: some hundreds of photos."""
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
"""Device files that a machine with a GPU has. PyTorch would tell, too, after seconds of import."""


def check_cluster(options: ClusterOptions, *, wants_gpu: bool | None) -> None:
    """Check that the options fit each other, before anything is written.

    Args:
        options: Options of the command.
        wants_gpu: Whether workers use GPUs; None: if there are any.

    Raises:
        ValueError: Child processes are wanted, and the address of a cluster or GPUs, too.
    """
    if options.cluster != "local":
        return
    if options.address is not None:
        raise ValueError("--cluster local does without Ray, so leave --address out, or give --cluster ray")
    if wants_gpu:
        raise ValueError("--cluster local labels on CPUs; give --gpus-per-worker 0, or --cluster ray")


def uses_ray(options: ClusterOptions, plan: Plan, *, wants_gpu: bool | None) -> bool:
    """Choose between Ray and child processes.

    Args:
        options: Options of the command, which `check_cluster` has passed.
        plan: What remains to do.
        wants_gpu: Whether workers use GPUs; None: if there are any.
    """
    if options.cluster == "local":
        return False
    if options.cluster == "ray" or find_address(options.address) != "local" or _is_connected():
        return True
    if wants_gpu or (wants_gpu is None and any(map(Path.exists, GPU_DEVICES))):
        return True
    num_bytes = sum(item.shard.size_bytes - item.num_bytes_done for item in plan.work)
    return len(plan.work) > MAX_SHARDS or num_bytes > MAX_BYTES


def share_cpus(wanted: int | None, plan: Plan) -> tuple[int, int]:
    """Number of child processes, and CPUs of each: one process for each shard while there are CPUs.

    Args:
        wanted: Number of processes that the user wants; None: no choice.
        plan: What remains to do.
    """
    num_cpus = len(os.sched_getaffinity(0))
    num_workers = wanted or max(1, min(num_cpus, len(plan.work)))
    return num_workers, max(1, num_cpus // num_workers)


def make_local_cluster(num_workers: int) -> Cluster:
    """Make a cluster of child processes.

    Their threads of PyTorch that wait for each other sleep, unless the environment says otherwise. By default they
    spin: where other programs, or our own threads that decode photos, want the cores, a dozen photos took 77 s instead
    of 5 s. OpenMP reads the variable when a child loads it; in this process it may be loaded already.
    """
    from pipeline.local_cluster.cluster import LocalCluster

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return LocalCluster(num_workers)


def open_cluster(options: ClusterOptions, plan: Plan, doing: str) -> tuple[Cluster, bool]:
    """Open what runs the steps of a command that needs no GPU, and tell whether it is Ray.

    Args:
        options: Options of the command, which `check_cluster` has passed.
        plan: What remains to do.
        doing: What the command does, for its line: making masks, exporting.

    Raises:
        ClusterError: Ray cannot be started or reached.
    """
    if uses_ray(options, plan, wants_gpu=False):
        from jobs.cluster.connection import connect
        from pipeline.driver.ray_cluster import RayCluster

        connect(options.address, num_cpus=(os.cpu_count() or 1) + 1)
        return RayCluster(), True
    num_workers, _ = share_cpus(None, plan)
    print(f"{doing} without Ray: {num_workers} processes on this machine", flush=True)
    return make_local_cluster(num_workers), False


def _is_connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
