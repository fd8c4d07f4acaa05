"""Batches of a worker from any position of a run to its end: the training steps of each epoch, then its validation.

One stream contains several epochs and their validations, so the network does not wait for a stream to start after each
of them. `pipeline.training.data.epoch_order` divides the samples, `pipeline.training.data.stream` makes their images.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ray.actor import ActorHandle

from pipeline.run.records import InputShard
from pipeline.run.vocabulary import Vocabulary
from pipeline.training.config import TrainConfig
from pipeline.training.data.epoch_order import (
    VALIDATION,
    EpochPlan,
    Piece,
    count_places,
    group_shards,
    list_pieces,
    plan_epoch,
)
from pipeline.training.data.prefetch import BatchFeeder, TrainingBatch, make_batch
from pipeline.training.data.stream import open_stream, rebatch
from pipeline.training.data.survey import Survey

MAX_PIECES = 500
"""A stream ends with the epoch in which it reaches this number of pieces: Ray's scheduler needs memory for each."""
READY_BATCHES = 3
"""Batches prefetched."""


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """Shards of a split, and the number of usable samples of each."""

    shards: tuple[InputShard, ...] = ()
    usable_per_shard: Mapping[str, int]
    """By the shard's name."""

    @property
    def num_samples(self) -> int:
        """Usable samples of all shards."""
        return sum(self.usable_per_shard[shard.name] for shard in self.shards)


def select_samples(shards: Mapping[str, tuple[InputShard, ...]], surveys: Mapping[str, Survey]) -> dict[str, SampleSet]:
    """Make the sample sets of the splits that have usable samples, by split."""
    return {
        split: SampleSet(shards=shards[split], usable_per_shard=survey.usable_per_shard)
        for split, survey in surveys.items()
        if survey.num_usable
    }


def is_validation_due(epoch: int, config: TrainConfig) -> bool:
    """Whether an epoch, from 0, ends with a validation."""
    return epoch + 1 == config.optimizer.epochs or (epoch + 1) % config.validate_every == 0


class TrainingFeed:
    """Source of one worker's batches."""

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
        """Start without a stream; see `open`.

        Args:
            splits: "train", and "validation" if there is one.
            vocabulary: Maps tags to classes.
            config: Of the run.
            box: Event box that receives the rejected images.
            rank: Of the worker.
            num_workers: Of the run.
            is_pinned: Whether images are in page-locked memory, from which a GPU copies while the CPU goes on.
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
        """Seconds that the network has waited for batches in total."""
        return self._waited_s + (self._feeder.waited_s if self._feeder else 0.0)

    def plan(self, epoch: int) -> EpochPlan:
        """Shard an epoch among the current workers."""
        return self._plan_epoch(epoch, [(0, self._splits["train"].num_samples)])

    def plan_rest(self, plan: EpochPlan, step: int) -> EpochPlan:
        """Reshard the samples from `step` of an earlier plan on among the current workers."""
        left = plan.list_left(step)
        num_seen = plan.num_seen + plan.num_samples - count_places(left)
        return self._plan_epoch(plan.epoch, left, num_seen=num_seen)

    def open(self, plan: EpochPlan, step: int) -> None:
        """Start the stream at `step` of an epoch, unless the current stream contains the epoch."""
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
        """Remove and return the next batch: of the next training step, or of validation after an epoch's steps."""
        assert self._feeder is not None
        return self._feeder.take()

    def close(self) -> None:
        """Stop the stream; drop its prefetched batches."""
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
        """Images of a batch of one worker, padding included."""
        return max(1, self._config.optimizer.batch_size // self._num_workers)

    def list_validation_sizes(self) -> list[int]:
        """List the sizes of this worker's validation batches; workers may have unequal numbers of batches."""
        num_left = count_places(self._validation_share)
        return [min(self.batch_size, num_left - start) for start in range(0, num_left, self.batch_size)]

    @property
    def _validation_share(self) -> Sequence[tuple[int, int]]:
        plan = self._plan_epoch(VALIDATION, [(0, self._splits["validation"].num_samples)])
        return plan.shares[self._rank]

    def _plan_epoch(self, epoch: int, left: Sequence[tuple[int, int]], num_seen: int = 0) -> EpochPlan:
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
        for blocks in rebatch(rows, sizes):
            yield make_batch(
                blocks,
                batch_size=self.batch_size,
                image_size=self._config.model.image_size,
                num_classes=len(self._vocabulary.classes),
                is_pinned=self._is_pinned,
            )
