"""What training tells the driver: progress, finished epochs, dropped images, why it stopped.

Nothing here imports PyTorch: the box is a process of its own and should start at once.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

POLL_PERIOD_S = 0.5


class EpochRecord(TypedDict):
    """What an epoch came to; plain values, kept in the checkpoint, in metrics.jsonl and in the bundle."""

    kind: Literal["epoch"]
    epoch: int
    """From 1."""
    losses: dict[str, float]
    """Means over the epoch: total, and the parts that the variant has."""
    learning_rate: float
    """At the last step."""
    grad_norm: float
    """Mean over the steps, before clipping."""
    num_images: int
    """That were decoded."""
    num_dropped: int
    """That could not be decoded."""
    num_workers: int
    """At the end of the epoch."""
    train_s: float
    """Seconds of training, without validation."""
    wait_share: float
    """Of these seconds, the share in which rank 0 waited for images."""
    validation: dict[str, Any] | None
    """Ranking metrics of the class scores, and the losses; None in epochs without validation."""
    patch_validation: dict[str, Any] | None
    """Ranking metrics of the patch scores; None without them."""
    score: float
    """By which the best epoch is chosen; see `compute_score`."""


class StepRecord(TypedDict):
    """Where training stands within an epoch; a line of metrics.jsonl. Means are over the steps since the last one."""

    kind: Literal["step"]
    epoch: int
    """From 1."""
    step: int
    """Steps done in this epoch, since it was last divided among the workers."""
    num_steps: int
    position: float
    """In epochs, from the start of the run."""
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float
    images_per_s: float
    """Over all workers."""
    wait_share: float


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Workers started from a checkpoint."""

    epoch: int
    """From 1."""
    step: int
    """Steps of it that are done."""
    num_workers: int
    is_divided_anew: bool
    """Whether the rest of the epoch was divided among another number of workers."""
    position: float
    """In epochs, from the start of the run."""
    records: tuple[Any, ...]
    """Of the epochs until here, and of the steps of the last two: a driver that died may not have written them."""


@dataclass(frozen=True, kw_only=True)
class NonFiniteLoss:
    """A loss, or its gradient, that is no number: training cannot go on."""

    epoch: int
    """From 1."""
    step: int
    keys: tuple[str, ...]
    """Images of the batches with such a loss; with a gradient alone, of all batches of the step."""
    is_gradient: bool = False
    """Whether the loss itself is finite."""


@dataclass(frozen=True, kw_only=True)
class RejectedImage:
    """A sample that was dropped because its image could not be decoded."""

    key: str
    error: str


class EventBox:
    """Carries events from workers and data tasks to the driver. A sample is reported once."""

    def __init__(self) -> None:
        """Start empty."""
        self._events: list[object] = []
        self._rejected_keys: set[str] = set()

    def post(self, event: object) -> None:
        """Put an event in."""
        if isinstance(event, RejectedImage):
            if event.key in self._rejected_keys:
                return
            self._rejected_keys.add(event.key)
        self._events.append(event)

    def drain(self) -> list[object]:
        """Take all events out, in the order in which they came."""
        events, self._events = self._events, []
        return events


def compute_score(validation: dict[str, Any] | None, patch_validation: dict[str, Any] | None, epoch: int) -> float:
    """Compute what the best epoch is chosen by: the mean of the mean average precisions that there are.

    Without any, later is better; an epoch that was not validated is worse than any that was.

    Args:
        validation: Of the class scores.
        patch_validation: Of the patch scores.
        epoch: From 1.

    Returns:
        In [0, 1] with validation; else `epoch` - 1e9, which only orders.
    """
    means = [fields["mean_average_precision"] for fields in (validation, patch_validation) if fields]
    known = [mean for mean in means if mean is not None]
    return sum(known) / len(known) if known else epoch - 1e9


def start_event_box() -> ActorHandle:
    """Start a box in a process of its own, on no CPU slot of the driver's node, and no other: that would die alone."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class: Any = ray.remote(EventBox)
    return actor_class.options(num_cpus=0, scheduling_strategy=here).remote()


def post_event(box: ActorHandle, event: object) -> None:
    """Send an event; does not wait."""
    box.post.remote(event)


def post_rejection(box: ActorHandle, key: str, error: str) -> None:
    """Send word of a dropped sample; does not wait."""
    box.post.remote(RejectedImage(key=key, error=error))


@contextmanager
def relay_events(box: ActorHandle, on_event: Callable[[object], None]) -> Iterator[None]:
    """Call `on_event` with what arrives in a box while the block runs, and with the rest at its end."""
    is_over = threading.Event()

    def relay() -> None:
        while True:
            was_over = is_over.wait(POLL_PERIOD_S)
            events: list[object] = ray.get(box.drain.remote())
            for event in events:
                on_event(event)
            if was_over:
                return

    thread = threading.Thread(target=relay, name="relay-events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
