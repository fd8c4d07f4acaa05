"""Events of training on their way to the driver: records, resumption, rejected images, a non-finite loss.

This module does not import PyTorch: the event box is a process of its own and has to start at once.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

POLL_PERIOD_S = 0.5


class ValidationRecord(TypedDict):
    """Ranking metrics of one kind of scores on the validation images."""

    mean_average_precision: float | None
    """Mean over the classes that some image shows; None when there is no such class."""
    average_precision: dict[str, float]
    """By class name."""
    without_positives: list[str]
    """Classes that no image shows."""
    num_images: int
    losses: NotRequired[dict[str, float]]
    """Means over the images; with the class scores only."""


class EpochRecord(TypedDict):
    """Figures of an epoch as plain values; part of the checkpoint, metrics.jsonl and the bundle."""

    kind: Literal["epoch"]
    epoch: int
    """From 1."""
    losses: dict[str, float]
    """Means over the epoch: the total, and the parts that the variant has."""
    learning_rate: float
    """At the last step."""
    grad_norm: float
    """Mean over the steps, before clipping."""
    num_images: int
    """Images that were decoded."""
    num_dropped: int
    """Images that could not be decoded."""
    num_workers: int
    """At the end of the epoch."""
    train_s: float
    """Seconds of training, without validation."""
    wait_share: float
    """Fraction of `train_s` in which rank 0 waited for images."""
    validation: ValidationRecord | None
    """Of the class scores; None in epochs without validation."""
    patch_validation: ValidationRecord | None
    """Of the patch scores; None without them."""
    score: float
    """The best epoch has the highest; see `compute_score`."""


class StepRecord(TypedDict):
    """Figures within an epoch, a line of metrics.jsonl; means are over the steps since the last record."""

    kind: Literal["step"]
    epoch: int
    """From 1."""
    step: int
    """Steps done in this epoch since it was last sharded."""
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
    """Steps of the epoch that are done."""
    num_workers: int
    was_resharded: bool
    """Whether the rest of the epoch was divided among another number of workers."""
    position: float
    """In epochs, from the start of the run."""
    records: tuple[EpochRecord | StepRecord, ...]
    """Of all epochs so far, and of the steps of the last two: a driver that died may not have written them."""


@dataclass(frozen=True, kw_only=True)
class NonFiniteLoss:
    """A non-finite loss or gradient; training has stopped."""

    epoch: int
    """From 1."""
    step: int
    keys: tuple[str, ...]
    """Images of the batches with a non-finite loss; for a gradient, of all batches of the step."""
    is_gradient: bool = False
    """Whether the loss itself is finite."""


@dataclass(frozen=True, kw_only=True)
class RejectedImage:
    """A sample that was dropped because its image could not be decoded."""

    key: str
    error: str


Event = StepRecord | EpochRecord | Resumed | NonFiniteLoss | RejectedImage
"""An event that the driver receives."""


class EventBox:
    """Queue of events from workers and data tasks to the driver; a rejected sample is queued once."""

    def __init__(self) -> None:
        """Start empty."""
        self._events: list[Event] = []
        self._rejected_keys: set[str] = set()

    def post(self, event: Event) -> None:
        """Append an event."""
        if isinstance(event, RejectedImage):
            if event.key in self._rejected_keys:
                return
            self._rejected_keys.add(event.key)
        self._events.append(event)

    def drain(self) -> list[Event]:
        """Remove and return all events, in the order of their arrival."""
        events, self._events = self._events, []
        return events


def compute_score(validation: ValidationRecord | None, patch_validation: ValidationRecord | None, epoch: int) -> float:
    """Compute the score of an epoch: the mean of its mean average precisions.

    Without validation the later epoch is better, and each is worse than any epoch with validation.

    Args:
        validation: Of the class scores.
        patch_validation: Of the patch scores.
        epoch: From 1.

    Returns:
        In [0, 1] with validation; else `epoch` - 1e9, which only orders.
    """
    means = [record["mean_average_precision"] for record in (validation, patch_validation) if record]
    known = [mean for mean in means if mean is not None]
    return sum(known) / len(known) if known else epoch - 1e9


def start_event_box() -> ActorHandle:
    """Start the event box in a process of its own on the driver's node; it takes no CPU slot.

    On another node it could die while the driver lives.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class: Any = ray.remote(EventBox)
    return actor_class.options(num_cpus=0, scheduling_strategy=here).remote()


def post_event(box: ActorHandle, event: Event) -> None:
    """Send an event; do not wait."""
    box.post.remote(event)


def post_rejection(box: ActorHandle, key: str, error: str) -> None:
    """Send the rejection of a sample; do not wait."""
    box.post.remote(RejectedImage(key=key, error=error))


@contextmanager
def relay_events(box: ActorHandle, on_event: Callable[[Event], None]) -> Iterator[None]:
    """Call `on_event` with the events of a box while the block runs, and with the remaining ones at its end."""
    is_over = threading.Event()

    def relay() -> None:
        while True:
            was_over = is_over.wait(POLL_PERIOD_S)
            events: list[Event] = ray.get(box.drain.remote())
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
