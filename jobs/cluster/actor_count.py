"""Number, GPUs and CPUs of the labelling actors: what the user asks for, or what the cluster holds or may grow to."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ray
from ray._private.state import state

from jobs.command_line.shared_options import Gpus
from pipeline.driver.ray_cluster import READ_CPUS
from pipeline.errors import LabellingError

RESERVED_CPUS = 1
"""CPUs that stay free for each GPU of a node, for reading and sealing."""
MAX_CPUS = 16
"""Most CPUs that are chosen for a GPU: they prepare more images than most models take."""


@dataclass(frozen=True, kw_only=True)
class ClusterSize:
    """CPUs and GPUs of a cluster, now and after autoscaling."""

    num_cpus: float
    num_gpus: float
    most_gpus: float
    """GPUs with those that the autoscaler may add; equal to `num_gpus` if the autoscaler does not publish a limit."""
    cpus_by_gpu: float | None = None
    """CPUs of a node for each of its GPUs: the least of all nodes, and of the kinds of nodes that may join if the
    autoscaler publishes them. None: no known node has a GPU."""


def measure_cluster() -> ClusterSize:
    """Measure the cluster that this process is connected to."""
    resources = ray.cluster_resources()
    num_gpus = resources.get("GPU", 0.0)
    published = state.get_max_resources_from_cluster_config() or {}
    return ClusterSize(
        num_cpus=resources.get("CPU", 0.0),
        num_gpus=num_gpus,
        most_gpus=max(num_gpus, float(published.get("GPU", 0.0))),
        cpus_by_gpu=_find_cpus_by_gpu(),
    )


def _find_cpus_by_gpu() -> float | None:
    shares = [node.get("CPU", 0.0) / node["GPU"] for node in _list_nodes() if node.get("GPU", 0.0) > 0]
    return min(shares, default=None)


def _list_nodes() -> Iterator[Mapping[str, float]]:
    """Resources of each node, and of each kind of node that may join."""
    for node in ray.nodes():
        if node["Alive"]:
            yield node["Resources"]
    config = state.get_cluster_config()
    if config is not None:
        for group in config.node_group_configs:
            yield dict(group.resources)


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


def choose_cpus(wanted: float | None, gpus_per_actor: float, size: ClusterSize) -> float:
    """Choose the CPUs of an actor.

    Args:
        wanted: The user's choice; None: on CPUs 1, with a GPU what its node has for it, less `RESERVED_CPUS`.
        gpus_per_actor: GPUs of an actor; 0: CPUs only.
        size: Size of the cluster.
    """
    if wanted is not None:
        return wanted
    if gpus_per_actor == 0 or size.cpus_by_gpu is None:
        return 1.0
    by_gpu = min(size.cpus_by_gpu - RESERVED_CPUS, MAX_CPUS)
    return float(max(1, math.floor(by_gpu * gpus_per_actor)))


def describe_no_room(num_actors: int, cpus_per_actor: float, size: ClusterSize) -> str | None:
    """Notice that actors take all CPUs, so that nothing is read and nothing reaches them; None if there is room."""
    num_free = size.num_cpus - READ_CPUS
    if num_actors * cpus_per_actor <= num_free:
        return None
    return (
        f"{num_actors} workers of {cpus_per_actor:g} CPUs each leave nothing of {size.num_cpus:g} CPUs for reading; "
        f"give --workers {max(1, math.floor(num_free / cpus_per_actor))}, or fewer CPUs each by --cpus-per-worker"
    )


def describe_few_cpus(gpus_per_actor: float, cpus_per_actor: float) -> str | None:
    """Notice that one CPU cannot keep a GPU busy; None if the actor has more, or no GPU."""
    if gpus_per_actor == 0 or cpus_per_actor >= 2:
        return None
    return (
        f"a worker has {gpus_per_actor:g} GPUs and {cpus_per_actor:g} CPUs: it decodes a few hundred images a second, "
        "and its GPU waits; give --cpus-per-worker what a node has for each GPU, less one"
    )


def describe_wait(num_actors: int, gpus_per_actor: float, size: ClusterSize) -> str | None:
    """Notice that actors wait for GPUs that the cluster does not have yet; None if none waits."""
    num_wanted = num_actors * gpus_per_actor
    if size.num_gpus >= num_wanted:
        return None
    return (
        f"the cluster has {size.num_gpus:g} GPUs now, {num_actors} workers want {num_wanted:g}: each starts when its "
        "GPU has joined"
    )
