"""How many labelling actors a cluster gets: as many as it holds, or may grow to, or as many as the user says."""

import math
from dataclasses import dataclass

import ray
from ray._private.state import state

from jobs.command_line.shared_options import Gpus
from pipeline.errors import LabellingError


@dataclass(frozen=True, kw_only=True)
class ClusterSize:
    """What a cluster has, and what it may come to have."""

    num_cpus: float
    num_gpus: float
    most_gpus: float
    """What its autoscaler may add, too. Not every autoscaler publishes that: then what there is."""


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


def choose_gpus(wanted: Gpus, size: ClusterSize, num_workers: int = 1) -> float:
    """Choose the GPUs of a worker.

    Args:
        wanted: What the user says; auto: a GPU, if the cluster has or may come to have one for each worker.
        size: Of the cluster.
        num_workers: Fewest workers that have to have one.
    """
    return wanted if wanted != "auto" else float(size.most_gpus >= num_workers)


def choose_num_actors(wanted: int | None, gpus_per_actor: float, cpus_per_actor: float, size: ClusterSize) -> int:
    """Choose the number of actors; they start as their resources join.

    Args:
        wanted: What the user says; None: as many as the cluster holds.
        gpus_per_actor: GPUs of an actor; 0: it takes CPUs only.
        cpus_per_actor: CPUs of an actor.
        size: Of the cluster.

    Raises:
        LabellingError: Nobody says how many, and the cluster has no GPU for one.
    """
    if wanted is not None:
        return wanted
    if gpus_per_actor == 0:
        # One CPU stays free for reading and sealing, or nothing would ever reach the actors.
        return max(1, math.floor((size.num_cpus - 1) / cpus_per_actor))
    if size.most_gpus < gpus_per_actor:
        raise LabellingError(
            f"the cluster has {size.num_gpus:g} GPUs and a worker wants {gpus_per_actor:g}; "
            "give --gpus-per-worker 0 to label on CPUs, or --workers to wait for GPUs to join"
        )
    return math.floor(size.most_gpus / gpus_per_actor)


def describe_wait(num_actors: int, gpus_per_actor: float, size: ClusterSize) -> str | None:
    """Say that actors wait for GPUs which the cluster does not have yet; None if none does."""
    num_wanted = num_actors * gpus_per_actor
    if size.num_gpus >= num_wanted:
        return None
    return (
        f"the cluster has {size.num_gpus:g} GPUs now, {num_actors} workers want {num_wanted:g}: each starts when its "
        "GPU has joined"
    )
