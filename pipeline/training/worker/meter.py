"""Speed of the steps of an epoch, and the time that they wait for images."""

import time

from pipeline.training.data.feed import TrainingFeed
from pipeline.training.events import StepRecord
from pipeline.training.worker.state import Means, Progress


class StepMeter:
    """Timer of the steps of an epoch."""

    def __init__(self, progress: Progress, feed: TrainingFeed, num_samples: int) -> None:
        """Start the clock for an epoch that starts or resumes.

        Args:
            progress: Takes the times.
            feed: Counts the seconds waited for batches.
            num_samples: Images of an epoch.
        """
        self._progress = progress
        self._feed = feed
        self._num_samples = num_samples
        self._waited_s = self._counted_waited_s = feed.waited_s
        self._started_s = self._counted_s = time.monotonic()

    def count(self) -> None:
        """Add the time since the last call to the times of the epoch."""
        now, waited_s = time.monotonic(), self._feed.waited_s
        self._progress.train_s += now - self._counted_s
        self._progress.waited_s += waited_s - self._counted_waited_s
        self._counted_s, self._counted_waited_s = now, waited_s

    def read(self, learning_rate: float) -> StepRecord:
        """Make the record of the steps since the last call."""
        means, plan, step = self._progress.recent_means, self._progress.plan, self._progress.next_step
        now, waited_s = time.monotonic(), self._feed.waited_s
        elapsed_s = max(now - self._started_s, 1e-9)
        record = StepRecord(
            kind="step",
            epoch=plan.epoch + 1,
            step=step,
            num_steps=plan.num_steps,
            position=plan.epoch + plan.count_seen(step) / self._num_samples,
            losses=means.losses,
            learning_rate=learning_rate,
            grad_norm=means.mean_grad_norm,
            images_per_s=means.num_images / elapsed_s,
            wait_share=(waited_s - self._waited_s) / elapsed_s,
        )
        self._progress.recent_means = Means()
        self._started_s, self._waited_s = now, waited_s
        return record
