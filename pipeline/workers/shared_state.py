"""State shared by all workers of a wave: small Ray actors on the driver's node."""

from typing import Any

import ray

from pipeline.workers.attempts import AttemptCounter
from pipeline.workers.pulse import Beat, MemoryBoard

BOARD_TIMEOUT_S = 10.0
COUNTER_TIMEOUT_S = 30.0


class SharedBoard:
    """A board for all workers of a wave: a small Ray actor on the driver's node."""

    def __init__(self) -> None:
        """Start the actor, which lives as long as the wave."""
        remote_board: Any = ray.remote(num_cpus=0, max_restarts=-1)(MemoryBoard)
        self._board = remote_board.options(scheduling_strategy=_prefer_this_node()).remote()

    @property
    def actor_id(self) -> str:
        """Id of the actor, in hexadecimal."""
        return str(self._board._actor_id.hex())

    def beat(self, worker: str, doing: str, waiting_for: str | None) -> None:
        """Report that a worker is busy, without waiting for the actor."""
        self._board.beat.remote(worker, doing, waiting_for)

    def read(self) -> dict[str, Beat]:
        """Read the last report of each worker; empty if the actor does not respond."""
        try:
            beats: dict[str, Beat] = ray.get(self._board.read.remote(), timeout=BOARD_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return {}
        return beats


class SharedAttempts:
    """Attempts of all workers of a wave, in a small Ray actor on the driver's node.

    The counts end with the wave: a deadly chunk costs `MAX_DEATHS` workers in each wave.
    """

    def __init__(self) -> None:
        """Start the actor, which lives as long as the wave."""
        remote_counter: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=2)(AttemptCounter)
        self._counter = remote_counter.options(scheduling_strategy=_prefer_this_node()).remote()

    @property
    def actor_id(self) -> str:
        """Id of the actor, in hexadecimal."""
        return str(self._counter._actor_id.hex())

    def begin(self, chunk: str) -> int:
        """Record the start of a chunk; return the number of earlier unfinished attempts."""
        return self._call_counter("begin", chunk) or 0

    def finish(self, chunk: str) -> None:
        """Record the end of a chunk."""
        self._call_counter("finish", chunk)

    def _call_counter(self, method: str, chunk: str) -> int | None:
        try:
            return ray.get(getattr(self._counter, method).remote(chunk), timeout=COUNTER_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            # Without counts a chunk is only retried more often.
            return None


def _prefer_this_node() -> ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy:
    """Prefer the driver's node, which outlives the workers."""
    node_id = ray.get_runtime_context().get_node_id()
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=True)
