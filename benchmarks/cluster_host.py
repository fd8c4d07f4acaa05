"""A Ray cluster of several nodes on this machine, held by a separate process.

Ray ends every process that has joined a cluster one minute after that cluster is gone. A caller that ends clusters and
has to survive them therefore keeps them in another process.
"""

import multiprocessing
import os
import random
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster


class ClusterHost:
    """A cluster with a head, and nodes that join and die."""

    def __init__(self, folder: str, variables: Mapping[str, str], **head: Any) -> None:
        """Start the head.

        Args:
            folder: Ray's files go to its folder `ray`; a short path, because paths of sockets are limited.
            variables: Added to the environment of all processes of the cluster.
            **head: Resources and settings of the head, as for `ray start`.
        """
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        quiet = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        sessions = Path(folder) / "ray"
        sessions.mkdir(exist_ok=True)
        head = {"include_dashboard": False, "temp_dir": str(sessions), **head}
        self.address: str = self._process.submit(_start, {**quiet, **variables}, head).result()

    def add_node(self, **node: Any) -> None:
        """Start a node that joins the cluster."""
        self._process.submit(_add_node, node).result()

    def kill_node(self) -> None:
        """Kill a random node other than the head, with all its workers."""
        self._process.submit(_kill_node).result()

    def stop(self) -> None:
        """Kill all nodes."""
        self._process.submit(_stop).result()
        self._process.shutdown()


_clusters: list[Cluster] = []
"""The cluster of this process, in the process that holds it; empty elsewhere."""


def _start(variables: Mapping[str, str], head: dict[str, Any]) -> str:
    os.environ.update(variables)
    _clusters.append(Cluster(initialize_head=True, head_node_args=head))
    return str(_clusters[0].address)


def _add_node(node: dict[str, Any]) -> None:
    _clusters[0].add_node(wait=False, **node)


def _kill_node() -> None:
    (cluster,) = _clusters
    cluster.remove_node(random.choice(list(cluster.worker_nodes)), allow_graceful=False)


def _stop() -> None:
    (cluster,) = _clusters
    for node in [*cluster.worker_nodes, cluster.head_node]:
        cluster.remove_node(node, allow_graceful=False)
