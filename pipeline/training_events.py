"""What training tells the driver: progress, finished epochs, dropped images.

Nothing here imports PyTorch: the box is a process of its own and should start at once.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import ray
from ray.actor import ActorHandle

POLL_PERIOD_S = 0.5


class EpochRecord(TypedDict):
    """What an epoch came to; plain values, kept in the checkpoint and in the bundle."""

    epoch: int
    """From 1."""
    losses: dict[str, float]
    """Means over the epoch: total, and the parts that the variant has."""
    learning_rate: float
    """At the last step."""
    num_images: int
    train_s: float
    """Seconds of training, without validation."""
    validation: dict[str, Any] | None
    """Ranking metrics of the class scores; None in epochs without validation."""
    patch_validation: dict[str, Any] | None
    """Ranking metrics of the patch scores; None without them."""


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """Where a worker stands within an epoch."""

    epoch: int
    """From 1."""
    step: int
    num_steps: int
    loss: float
    images_per_s: float
    """Over all workers, since the epoch's first batch."""


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


def start_event_box() -> ActorHandle:
    """Start a box in a process of its own, on no CPU slot."""
    actor_class: Any = ray.remote(EventBox)
    return actor_class.options(num_cpus=0).remote()


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
