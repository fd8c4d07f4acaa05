"""A worker's batches, from any place in a run to its end: the training steps of each epoch, then its validation.

One stream carries several epochs and the validations between them, so that the network does not wait for a stream to
start after each. How the samples are divided is in `pipeline.training.data.epoch_order`, how they become images in
`pipeline.training.data.stream`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ray.actor import ActorHandle

from pipeline.run.records import InputShard
from pipeline.run.vocabulary import Vocabulary
from pipeline.training.config import TrainConfig
from pipeline.training.data.batch_feeder import BatchFeeder, TrainingBatch, make_batch
from pipeline.training.data.epoch_order import (
    VALIDATION,
    EpochPlan,
    Piece,
    count_places,
    group_shards,
    list_pieces,
    plan_epoch,
)
from pipeline.training.data.stream import open_stream, rebatch

MAX_PIECES = 500
"""A stream ends after the epoch in which it has so many pieces: Ray's scheduler needs memory for each."""
READY_BATCHES = 3


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """The shards of a split, and how many of their samples are usable."""

    shards: tuple[InputShard, ...] = ()
    usable_per_shard: Mapping[str, int]
    """By the shard's name."""

    @property
    def num_samples(self) -> int:
        """Usable samples."""
        return sum(self.usable_per_shard[shard.name] for shard in self.shards)


def is_validation_due(epoch: int, config: TrainConfig) -> bool:
    """Tell whether an epoch, from 0, ends with a validation."""
    return epoch + 1 == config.optimizer.epochs or (epoch + 1) % config.validate_every == 0


class TrainingFeed:
    """Gives one worker its batches."""

    def __init__(
        self,
        splits: Mapping[str, SampleSet],
        vocabulary: Vocabulary,
        config: TrainConfig,
        box: ActorHandle,
        *,
        rank: int,
        num_workers: int,
        is_pinned: bool = False,
    ) -> None:
        """Feed worker `rank` of `num_workers`; `splits` has "train", and "validation" if there is one.

        `is_pinned` puts batches where a GPU can fetch them while the CPU goes on.
        """
        self._splits = splits
        self._vocabulary = vocabulary
        self._config = config
        self._box = box
        self._rank = rank
        self._num_workers = num_workers
        self._is_pinned = is_pinned
        self._feeder: BatchFeeder | None = None
        self._stop_epoch = 0
        self._waited_s = 0.0

    @property
    def waited_s(self) -> float:
        """Seconds for which the network has waited for batches, in all."""
        return self._waited_s + (self._feeder.waited_s if self._feeder else 0.0)

    def plan(self, epoch: int) -> EpochPlan:
        """Divide an epoch among the workers that there are now."""
        return self._divide(epoch, [(0, self._splits["train"].num_samples)])

    def plan_rest(self, plan: EpochPlan, step: int) -> EpochPlan:
        """Divide what an earlier plan left before `step` among the workers that there are now."""
        left = plan.list_left(step)
        num_seen = plan.num_seen + plan.num_samples - count_places(left)
        return self._divide(plan.epoch, left, num_seen=num_seen)

    def open(self, plan: EpochPlan, step: int) -> None:
        """Get ready to give the batches of an epoch from `step` on; does nothing if they come next anyway."""
        if self._feeder and plan.epoch < self._stop_epoch:
            return
        self.close()
        pieces: list[Piece] = []
        sizes: list[int] = []
        for epoch in range(plan.epoch, self._config.optimizer.epochs):
            if epoch > plan.epoch and len(pieces) >= MAX_PIECES:
                break
            current, first_step = (plan, step) if epoch == plan.epoch else (self.plan(epoch), 0)
            pieces += self._list_train_pieces(current, first_step)
            sizes += current.list_batch_sizes(self._rank, first_step)
            if self.has_validation and is_validation_due(epoch, self._config):
                pieces += self._list_validation_pieces()
                sizes += self.list_validation_sizes()
            self._stop_epoch = epoch + 1
        self._feeder = BatchFeeder(self._make_batches(pieces, sizes), READY_BATCHES)

    def take(self) -> TrainingBatch:
        """Give the next batch: of the next training step, or of validation once an epoch's steps are over."""
        assert self._feeder is not None
        return self._feeder.take()

    def close(self) -> None:
        """Drop what is ready."""
        if self._feeder:
            self._feeder.close()
            self._waited_s += self._feeder.waited_s
            self._feeder = None

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images."""
        return "validation" in self._splits and self._splits["validation"].num_samples > 0

    @property
    def batch_size(self) -> int:
        """Images of a batch of one worker, those without a say included."""
        return max(1, self._config.optimizer.batch_size // self._num_workers)

    def list_validation_sizes(self) -> list[int]:
        """Give the number of images of each validation batch of this worker; workers may have unequal numbers."""
        num_left = count_places(self._validation_share)
        return [min(self.batch_size, num_left - start) for start in range(0, num_left, self.batch_size)]

    @property
    def _validation_share(self) -> Sequence[tuple[int, int]]:
        plan = self._divide(VALIDATION, [(0, self._splits["validation"].num_samples)])
        return plan.shares[self._rank]

    def _divide(self, epoch: int, left: Sequence[tuple[int, int]], num_seen: int = 0) -> EpochPlan:
        return plan_epoch(
            epoch,
            left,
            num_workers=self._num_workers,
            batch_size=self._config.optimizer.batch_size,
            num_seen=num_seen,
        )

    def _list_train_pieces(self, plan: EpochPlan, step: int) -> list[Piece]:
        num_skipped = plan.count_before(self._rank, step)
        return self._list_pieces("train", plan.shares[self._rank], plan.epoch, num_skipped)

    def _list_validation_pieces(self) -> list[Piece]:
        return self._list_pieces("validation", self._validation_share, VALIDATION)

    def _list_pieces(
        self, split: str, share: Sequence[tuple[int, int]], epoch: int, num_skipped: int = 0
    ) -> list[Piece]:
        samples = self._splits[split]
        groups = group_shards(
            samples.shards,
            samples.usable_per_shard,
            window=self._config.shuffle_window,
            rng_seed=self._config.rng_seed,
            epoch=epoch,
        )
        return list(list_pieces(groups, share, epoch, num_skipped))

    def _make_batches(self, pieces: Sequence[Piece], sizes: Sequence[int]) -> Iterator[TrainingBatch]:
        if not pieces:
            rows: Iterator[dict[str, Any]] = iter(())
        else:
            stream = open_stream(pieces, self._vocabulary, self._config, self._box, num_streams=self._num_workers)
            rows = iter(stream.iter_batches(batch_size=cast(int, None), batch_format="numpy"))
        for columns in rebatch(rows, sizes):
            yield make_batch(
                columns,
                batch_size=self.batch_size,
                image_size=self._config.model.image_size,
                num_classes=len(self._vocabulary.classes),
                is_pinned=self._is_pinned,
            )
