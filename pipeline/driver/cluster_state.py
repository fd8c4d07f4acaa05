"""Actors of this driver and resources of the cluster, from Ray's tables; killing actors by id."""

import time
from collections.abc import Callable, Mapping, Set
from typing import Any

import ray
from ray._private.state import actors as list_all_actors

from pipeline.driver.cluster import Resources

POLL_PERIOD_S = 0.1


def list_actors() -> set[str]:
    """List the ids of the actors of this driver that are not dead: alive, starting or starting again.

    Reads Ray's internal table: the public state API needs a dashboard, which a local Ray does not start. Detached
    actors (those of Ray's libraries) are not listed.
    """
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    table = list_all_actors(job_id=job)
    return {name for name, actor in table.items() if actor["State"] != "DEAD" and not actor["IsDetached"]}


def count_alive(actors: Set[str]) -> int:
    """Count the actors that run and can be called."""
    return sum(list_all_actors(actor_id=name).get("State") == "ALIVE" for name in actors)


def end_actors(find: Callable[[], set[str]], limit_s: float) -> set[str]:
    """Kill actors until Ray lists none of them as alive.

    Kills by id: handles that something still holds, such as the traceback of a failed dataset, do not matter.

    Args:
        find: Lists the ids of the actors that are not dead. Called repeatedly: some may still be starting.
        limit_s: Maximum time in seconds.

    Returns:
        The actors that are still not dead.
    """
    core: Any = ray._private.worker.global_worker.core_worker  # type: ignore[attr-defined]
    deadline_s = time.monotonic() + limit_s
    ended: set[str] = set()
    while (left := find()) and time.monotonic() < deadline_s:
        for name in left - ended:
            core.kill_actor(ray.ActorID.from_hex(name), True)
        ended |= left
        time.sleep(POLL_PERIOD_S)
    return left


def look_at_resources(asked: Mapping[str, float]) -> Resources:
    """Read what the cluster has of the requested resources."""
    available = ray.available_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Resources(
        asked={name: amount for name, amount in asked.items() if amount},
        free={name: available.get(name, 0.0) for name in asked},
        largest={name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in asked},
    )
