"""The events of a training run: figures go to the log, a non-finite loss is kept."""

from collections.abc import Callable

from pipeline.training.driver.log import MetricLog
from pipeline.training.events import Event, NonFiniteLoss, Resumed

MOST_NAMED_KEYS = 8
"""Images that a message names."""


class EventRecorder:
    """Receiver of a run's events: logs the records, keeps the failure, forwards all of them."""

    def __init__(self, log: MetricLog, on_event: Callable[[Event], None]) -> None:
        """Write records to `log`; forward each event to `on_event`."""
        self.log = log
        self.failure: NonFiniteLoss | None = None
        self._on_event = on_event

    def __call__(self, event: Event) -> None:
        """Record and forward an event."""
        if isinstance(event, dict):
            self.log.add(event)
        elif isinstance(event, NonFiniteLoss):
            self.failure = event
        elif isinstance(event, Resumed):
            self.log.go_back(event.position, event.records)
        self._on_event(event)


def describe_failure(failure: NonFiniteLoss) -> str:
    """Describe a non-finite loss, the images of its batch, and what to do."""
    named = ", ".join(f"'{key}'" for key in failure.keys[:MOST_NAMED_KEYS])
    more = f" and {len(failure.keys) - MOST_NAMED_KEYS} more" if len(failure.keys) > MOST_NAMED_KEYS else ""
    what = "gradient of the loss" if failure.is_gradient else "loss"
    return (
        f"the {what} is not finite in epoch {failure.epoch}, step {failure.step}; images of the batch: {named}{more}; "
        "lower base_lr or set clip_norm, and use another --out"
    )
