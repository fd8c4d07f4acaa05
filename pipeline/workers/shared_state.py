"""State that all workers of a wave share: small Ray actors beside the driver."""

from typing import Any

import ray

from pipeline.workers.attempts import AttemptCounter
from pipeline.workers.pulse import Beat, MemoryBoard

BOARD_TIMEOUT_S = 10.0
COUNTER_TIMEOUT_S = 30.0


class SharedBoard:
    """A board for all workers of a wave: a small Ray actor on the node of the driver."""

    def __init__(self) -> None:
        """Start the actor, which lives as long as the wave does."""
        remote_board: Any = ray.remote(num_cpus=0, max_restarts=-1)(MemoryBoard)
        self._board = remote_board.options(scheduling_strategy=_prefer_this_node()).remote()

    @property
    def actor_id(self) -> str:
        """The id of the actor, in hexadecimal."""
        return str(self._board._actor_id.hex())

    def beat(self, worker: str, doing: str, waiting_for: str | None) -> None:
        """Report that a worker is busy. Nobody waits for the answer."""
        self._board.beat.remote(worker, doing, waiting_for)

    def read(self) -> dict[str, Beat]:
        """Read the last report of each worker; none when the board does not answer."""
        try:
            beats: dict[str, Beat] = ray.get(self._board.read.remote(), timeout=BOARD_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return {}
        return beats


class SharedAttempts:
    """Counts for all workers of a driver, in a small Ray actor beside it.

    The counts end with the wave: a chunk that kills every worker costs `MAX_DEATHS` of them in each.
    """

    def __init__(self) -> None:
        """Start the actor on the node of the driver, which lives as long as the wave does."""
        remote_counter: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=2)(AttemptCounter)
        self._counter = remote_counter.options(scheduling_strategy=_prefer_this_node()).remote()

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
            return ray.get(getattr(self._counter, method).remote(chunk), timeout=COUNTER_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            # Without counts a chunk is merely tried more often.
            return None


def _prefer_this_node() -> ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy:
    """Prefer the node of the driver: it is the one that outlives the workers."""
    node_id = ray.get_runtime_context().get_node_id()
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=True)
