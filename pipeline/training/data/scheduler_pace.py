"""A scheduler of Ray Data that rests: at most so many steps a second.

Each step waits for its tasks with `ray.wait`, which returns at once while all of them have outputs that may not be
taken yet. That is the normal state of a stream faster than its reader, and then the scheduler turns over as fast
as it can: 0.7 to 0.9 of a core was seen beside a training worker that had its images ready.
"""

import time
from typing import Any

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

STEP_S = 0.02
"""A step takes all outputs that are ready and starts all tasks that may start, so 50 of them a second are plenty."""


class RestBetweenSteps(ExecutionCallback):
    """Makes a scheduler's step last `STEP_S` at least; Ray Data makes one for each execution."""

    def __init__(self) -> None:
        """Begin with no step behind it."""
        self._last_s = float("-inf")

    def on_execution_step(self, executor: Any) -> None:
        """Rest for what is left of the step."""
        time.sleep(compute_rest_s(self._last_s, time.monotonic()))
        self._last_s = time.monotonic()


def compute_rest_s(last_s: float, now_s: float) -> float:
    """Compute how long a step that began at `last_s` has still to last.

    >>> round(compute_rest_s(10.0, 10.005), 6)
    0.015
    >>> compute_rest_s(10.0, 11.0)
    0.0
    """
    return max(0.0, STEP_S - (now_s - last_s))


def pace_scheduler(context: DataContext) -> None:
    """Make the executions of a context rest."""
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, RestBetweenSteps]
