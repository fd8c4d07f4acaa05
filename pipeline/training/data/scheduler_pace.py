"""Rate limit for the steps of Ray Data's scheduler.

Each step waits for its tasks with `ray.wait`. The call returns at once while all tasks have outputs that backpressure
holds back, the normal state of a stream that is faster than its consumer. The scheduler then polls without pause: it
used 0.7 to 0.9 of a core beside a training worker that had its images ready.
"""

import time
from typing import Any

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

STEP_S = 0.02
"""Shortest step. A step takes all ready outputs and starts all possible tasks, so 50 steps a second are enough."""


class RestBetweenSteps(ExecutionCallback):
    """Callback that extends each scheduler step to `STEP_S`; Ray Data creates one per execution."""

    def __init__(self) -> None:
        """Start before the first step."""
        self._last_s = float("-inf")

    def on_execution_step(self, executor: Any) -> None:
        """Sleep for the rest of the step."""
        time.sleep(compute_rest_s(self._last_s, time.monotonic()))
        self._last_s = time.monotonic()


def compute_rest_s(last_s: float, now_s: float) -> float:
    """Seconds until `STEP_S` after `last_s`; 0 if that has passed.

    >>> round(compute_rest_s(10.0, 10.005), 6)
    0.015
    >>> compute_rest_s(10.0, 11.0)
    0.0
    """
    return max(0.0, STEP_S - (now_s - last_s))


def pace_scheduler(context: DataContext) -> None:
    """Add the rate limit to the executions of a context."""
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, RestBetweenSteps]
