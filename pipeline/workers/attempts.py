"""How often a chunk was begun and not finished: tells one that kills its workers from one that had bad luck."""

from collections import Counter
from typing import Any, Protocol, runtime_checkable

import ray

MAX_DEATHS = 3
"""After so many workers died with a chunk in hand it is labelled in a child process."""

MAX_DEATHS_IN_ALL = 10 * MAX_DEATHS
"""After so many workers died with a chunk in hand its shard fails. Far more than `MAX_DEATHS`: an innocent chunk dies
with each of those that share its worker, three times for each of them that kills."""

ANSWER_TIMEOUT_S = 30.0


@runtime_checkable
class Attempts(Protocol):
    """Counts the attempts at chunks."""

    def begin(self, chunk: str) -> int:
        """Note that a chunk is begun; give how often it was begun before and not finished."""

    def finish(self, chunk: str) -> None:
        """Note that a chunk is finished."""


class AttemptCounter:
    """Counts in the memory of one process."""

    def __init__(self) -> None:
        """Start from nothing."""
        self._begun: Counter[str] = Counter()

    def begin(self, chunk: str) -> int:
        """Note that a chunk is begun; give how often it was begun before and not finished."""
        before = self._begun[chunk]
        self._begun[chunk] += 1
        return before

    def finish(self, chunk: str) -> None:
        """Note that a chunk is finished. Only chunks in flight take memory."""
        self._begun.pop(chunk, None)


class SharedAttempts:
    """Counts for all workers of a driver, in a small Ray actor beside it.

    The counts end with the wave: a chunk that kills every worker costs `MAX_DEATHS` of them in each.
    """

    def __init__(self) -> None:
        """Start the actor on the node of the driver, which lives as long as the wave does."""
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        remote_counter: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=2)(AttemptCounter)
        self._counter = remote_counter.options(scheduling_strategy=here).remote()

    @property
    def actor_id(self) -> str:
        """The id of the actor, in hexadecimal."""
        return str(self._counter._actor_id.hex())

    def begin(self, chunk: str) -> int:
        """Note that a chunk is begun; give how often it was begun before and not finished."""
        return self._ask("begin", chunk) or 0

    def finish(self, chunk: str) -> None:
        """Note that a chunk is finished."""
        self._ask("finish", chunk)

    def _ask(self, method: str, chunk: str) -> int | None:
        try:
            return ray.get(getattr(self._counter, method).remote(chunk), timeout=ANSWER_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            # Without counts a chunk is merely tried more often.
            return None
