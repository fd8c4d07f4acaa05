"""Number and GPUs of the labelling actors: what the user asks for, or what the cluster holds or may grow to."""

import math
from dataclasses import dataclass

import ray
from ray._private.state import state

from jobs.command_line.shared_options import Gpus
from pipeline.errors import LabellingError


@dataclass(frozen=True, kw_only=True)
class ClusterSize:
    """CPUs and GPUs of a cluster, now and after autoscaling."""

    num_cpus: float
    num_gpus: float
    most_gpus: float
    """GPUs with those that the autoscaler may add; equal to `num_gpus` if the autoscaler does not publish a limit."""


def measure_cluster() -> ClusterSize:
    """Measure the cluster that this process is connected to."""
    resources = ray.cluster_resources()
    num_gpus = resources.get("GPU", 0.0)
    published = state.get_max_resources_from_cluster_config() or {}
    return ClusterSize(
        num_cpus=resources.get("CPU", 0.0),
        num_gpus=num_gpus,
        most_gpus=max(num_gpus, float(published.get("GPU", 0.0))),
    )


def choose_gpus(wanted: Gpus, size: ClusterSize, num_workers: int = 1, *, may_grow: bool = False) -> float:
    """Choose the GPUs of a worker.

    Args:
            wanted: The option. auto: one GPU if the cluster has one for each worker, or may grow to it; else none.
        size: Size of the cluster.
        num_workers: Smallest number of workers that need a GPU.
        may_grow: GPUs may join a cluster that has none and publishes no limit.
    """
    return wanted if wanted != "auto" else float(may_grow or size.most_gpus >= num_workers)


def choose_num_actors(wanted: int | None, gpus_per_actor: float, cpus_per_actor: float, size: ClusterSize) -> int:
    """Choose the number of actors. Each starts when its resources join the cluster.

    Args:
        wanted: The user's choice; None: as many as the cluster holds.
        gpus_per_actor: GPUs of an actor; 0: CPUs only.
        cpus_per_actor: CPUs of an actor.
        size: Size of the cluster.

    Raises:
        LabellingError: The user does not choose, and the cluster has too few GPUs for one actor.
    """
    if wanted is not None:
        return wanted
    if gpus_per_actor == 0:
        # One CPU stays free for reading and sealing; without it no chunk reaches the actors.
        return max(1, math.floor((size.num_cpus - 1) / cpus_per_actor))
    if size.most_gpus < gpus_per_actor:
        raise LabellingError(
            f"the cluster has {size.num_gpus:g} GPUs and a worker wants {gpus_per_actor:g}; "
            "give --gpus-per-worker 0 to label on CPUs, or --workers to wait for GPUs to join"
        )
    return math.floor(size.most_gpus / gpus_per_actor)


def describe_wait(num_actors: int, gpus_per_actor: float, size: ClusterSize) -> str | None:
    """Notice that actors wait for GPUs that the cluster does not have yet; None if none waits."""
    num_wanted = num_actors * gpus_per_actor
    if size.num_gpus >= num_wanted:
        return None
    return (
        f"the cluster has {size.num_gpus:g} GPUs now, {num_actors} workers want {num_wanted:g}: each starts when its "
        "GPU has joined"
    )
