"""A Ray cluster of several nodes on this machine, held by a process of its own.

Ray ends a process that has known a cluster a minute after that cluster is gone, whatever else the process does. So
whoever ends clusters, and wants to live on, lets another process know them.
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
    """A cluster of a head, and of nodes that join and die."""

    def __init__(self, folder: str, variables: Mapping[str, str], **head: Any) -> None:
        """Start the head.

        Args:
            folder: For Ray's files, below `ray`; its path is short, as that of a socket has to be.
            variables: Added to the environment of all that the cluster starts.
            **head: What the head has, as for `ray start`.
        """
        self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        quiet = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        sessions = Path(folder) / "ray"
        sessions.mkdir(exist_ok=True)
        head = {"include_dashboard": False, "temp_dir": str(sessions), **head}
        self.address: str = self._process.submit(_start, {**quiet, **variables}, head).result()

    def add_node(self, **node: Any) -> None:
        """Let a node join."""
        self._process.submit(_add_node, node).result()

    def kill_node(self) -> None:
        """Kill a node, not the head, with all its workers."""
        self._process.submit(_kill_node).result()

    def stop(self) -> None:
        """Kill all nodes."""
        self._process.submit(_stop).result()
        self._process.shutdown()


def _start(variables: Mapping[str, str], head: dict[str, Any]) -> str:
    global _cluster
    os.environ.update(variables)
    _cluster = Cluster(initialize_head=True, head_node_args=head)
    return str(_cluster.address)


def _add_node(node: dict[str, Any]) -> None:
    _cluster.add_node(wait=False, **node)


def _kill_node() -> None:
    _cluster.remove_node(random.choice(list(_cluster.worker_nodes)), allow_graceful=False)


def _stop() -> None:
    for node in [*_cluster.worker_nodes, _cluster.head_node]:
        _cluster.remove_node(node, allow_graceful=False)
