"""The training loop of a worker: steps over its share of the images, validation, checkpoints.

batch -> step -> record -> checkpoint; at the end of an epoch: validation -> record -> checkpoint
"""

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.actor import ActorHandle
from torch import nn

from models.losses import balance_classes
from models.mctformer import MCTformer, MCTformerConfig
from pipeline.run.vocabulary import Vocabulary
from pipeline.training.config import TrainConfig, WorkerConfig
from pipeline.training.data.feed import SampleSet, TrainingFeed, is_validation_due
from pipeline.training.data.prefetch import TrainingBatch
from pipeline.training.events import (
    EpochRecord,
    Event,
    NonFiniteLoss,
    Resumed,
    ValidationRecord,
    compute_score,
)
from pipeline.training.seeds import derive_seed
from pipeline.training.worker.meter import StepMeter
from pipeline.training.worker.schedule import (
    choose_seed_term,
    choose_tag_loss,
    compute_learning_rate,
    read_learning_rate,
    set_learning_rate,
)
from pipeline.training.worker.state import Progress, TrainingState, load_state, name_checkpoint, write_state
from pipeline.training.worker.step import Fault, TrainingStep
from pipeline.training.worker.validation import ValidationScores, merge_scores

Item = TypeVar("Item")
MOST_KEYS = 64
"""Images that the event of a non-finite loss names at most."""
WITHIN_EPOCH_SCORE = -2e9
"""Score of a checkpoint within an epoch, below that of any epoch: training resumes from it, it is never the best."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Settings of the training loop, equal on all workers."""

    config: TrainConfig
    workers: WorkerConfig
    network: MCTformerConfig
    vocabulary: Vocabulary
    input_mean: tuple[float, float, float]
    input_std: tuple[float, float, float]
    images_per_class: tuple[int, ...]
    """Training images that are tagged with each class, in the order of the classes."""
    splits: ray.ObjectRef
    """A SampleSet by split: "train", and "validation" if there is one."""
    initial_state: ray.ObjectRef
    """State dict of the network before the first step."""
    box: ActorHandle
    """Event box that receives the rejected images."""
    post: Callable[[Event], None]
    """Sends an event to the driver."""


def train_on_worker(loop_config: dict[str, LoopSettings]) -> None:
    """Train to the last epoch; Ray Train calls this on every worker.

    Resumes from Ray Train's checkpoint. All workers report the same number of times, as Ray Train requires.
    """
    worker = TrainingWorker(loop_config["settings"])
    try:
        worker.restore(ray.train.get_checkpoint())
        worker.train()
    finally:
        worker.feed.close()


class TrainingWorker:
    """One worker's network, position and stream of batches."""

    def __init__(self, settings: LoopSettings) -> None:
        """Build the network with its initial weights on this worker's device."""
        context = ray.train.get_context()
        self.settings = settings
        self.config = settings.config
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
        network = MCTformer(settings.network)
        network.load_state_dict(ray.get(settings.initial_state))
        self.step = TrainingStep(
            network,
            self.config,
            input_mean=settings.input_mean,
            input_std=settings.input_std,
            device=self.device,
            wrap=self._wrap_network,
            num_workers=self.num_workers,
        )
        counts = torch.tensor(settings.images_per_class, dtype=torch.float32)
        self.class_weights = balance_classes(counts, self.config.loss.class_balance)
        splits: Mapping[str, SampleSet] = ray.get(settings.splits)
        self.num_samples = splits["train"].num_samples
        self.feed = TrainingFeed(
            splits,
            settings.vocabulary,
            self.config,
            settings.box,
            rank=self.rank,
            num_workers=self.num_workers,
            is_pinned=self.device.type == "cuda",
        )
        self.progress = Progress(self.feed.plan(0))

    def restore(self, checkpoint: ray.train.Checkpoint | None) -> None:
        """Restore a checkpoint, if there is one; reshard the rest of its epoch if the number of workers changed."""
        if checkpoint is None:
            return
        state = load_state(checkpoint, self.device)
        self.step.network.load_state_dict(state.network)
        if self.step.average is not None and state.average is not None:
            self.step.average.module.load_state_dict(state.average)
            self.step.average.n_averaged.fill_(state.num_averaged)
        self.step.optimizer.load_state_dict(state.optimizer)
        progress = self.progress = state.progress
        step, is_resharded = progress.next_step, len(progress.plan.shares) != self.num_workers
        if is_resharded:
            progress.plan, progress.next_step = self.feed.plan_rest(progress.plan, step), 0
        self.post(
            Resumed(
                epoch=progress.plan.epoch + 1,
                step=step,
                num_workers=self.num_workers,
                was_resharded=is_resharded and step > 0,
                position=progress.plan.epoch + progress.plan.count_seen(progress.next_step) / self.num_samples,
                records=(*progress.history, *progress.step_records),
            )
        )

    def train(self) -> None:
        """Train to the last epoch, or to a non-finite loss."""
        while self.progress.plan.epoch < self.config.optimizer.epochs:
            self.feed.open(self.progress.plan, self.progress.next_step)
            if not self.train_epoch():
                return
            self.finish_epoch()

    def train_epoch(self) -> bool:
        """Take the remaining steps of the current epoch; return False if the loss is not finite."""
        progress, workers = self.progress, self.settings.workers
        plan = progress.plan
        score_tags = choose_tag_loss(self.config.loss, self.class_weights, plan.epoch)
        meter = StepMeter(progress, self.feed, self.num_samples)
        while progress.next_step < plan.num_steps:
            step = progress.next_step
            position = plan.epoch + plan.count_seen(step) / self.num_samples
            learning_rate = compute_learning_rate(position, self.config.optimizer)
            set_learning_rate(self.step.optimizer, learning_rate)
            # The random seed depends on the position in the epoch: resharding does not change that of later steps.
            set_rng_seed(derive_seed(self.config.rng_seed, plan.epoch, f"step/{plan.count_seen(step)}/{self.rank}"))
            batch = self.feed.take()
            result = self.step.update(batch, score_tags, choose_seed_term(self.config.loss, position))
            if result.fault is not None:
                self.report_non_finite(result.fault, batch)
                return False
            progress.epoch_means.add(result.losses, result.num_images, result.grad_norm)
            progress.recent_means.add(result.losses, result.num_images, result.grad_norm)
            progress.next_step += 1
            is_last = progress.next_step == plan.num_steps
            if is_last or progress.next_step % workers.log_steps == 0:
                progress.step_records.append(meter.read(learning_rate))
                self.post(progress.step_records[-1])
            meter.count()
            if not is_last and progress.next_step % workers.checkpoint_steps == 0:
                self.save()
        return True

    def finish_epoch(self) -> None:
        """Validate if it is due, record the epoch, and save a checkpoint."""
        progress = self.progress
        epoch = progress.plan.epoch
        validation = patch_validation = None
        if self.feed.has_validation and is_validation_due(epoch, self.config):
            validation, patch_validation = self.validate()
        num_images = round(progress.epoch_means.num_images)
        record = EpochRecord(
            kind="epoch",
            epoch=epoch + 1,
            losses=progress.epoch_means.losses,
            learning_rate=read_learning_rate(self.step.optimizer),
            grad_norm=progress.epoch_means.mean_grad_norm,
            num_images=num_images,
            num_dropped=self.num_samples - num_images,
            num_workers=self.num_workers,
            train_s=progress.train_s,
            wait_share=progress.waited_s / max(progress.train_s, 1e-9),
            validation=validation,
            patch_validation=patch_validation,
            score=compute_score(validation, patch_validation, epoch + 1),
        )
        self.progress = Progress(
            self.feed.plan(epoch + 1),
            history=[*progress.history, record],
            step_records=[kept for kept in progress.step_records if kept["epoch"] == epoch + 1],
        )
        self.save()
        self.post(record)

    def validate(self) -> tuple[ValidationRecord, ValidationRecord | None]:
        """Compute the metrics of the class scores and of the patch scores on all validation images of all workers."""
        scores = ValidationScores(self.config.model)
        for _ in self.feed.list_validation_sizes():
            batch = self.feed.take()
            scores.add(self.step.predict(batch.images), batch)
        everywhere = merge_scores(self.gather([scores]))
        return everywhere.describe(tuple(self.settings.vocabulary.classes))

    def save(self) -> None:
        """Report a checkpoint to Ray Train. Rank 0 writes it; the others only report."""
        epoch, step = self.progress.plan.epoch, self.progress.next_step
        score = self.progress.history[-1]["score"] if step == 0 else WITHIN_EPOCH_SCORE
        report = {"epoch": epoch, "step": step, "score": score}
        name = name_checkpoint(epoch, self.progress.plan.count_seen(step))
        if self.rank > 0:
            ray.train.report(report, checkpoint_dir_name=name)
            return
        average = self.step.average
        state = TrainingState(
            network=self.step.network.state_dict(),
            average=None if average is None else average.module.state_dict(),
            num_averaged=0 if average is None else int(average.n_averaged),
            optimizer=self.step.optimizer.state_dict(),
            progress=self.progress,
        )
        with write_state(state) as checkpoint:
            ray.train.report(report, checkpoint=checkpoint, checkpoint_dir_name=name)

    def post(self, event: Event) -> None:
        """Send an event to the driver, from rank 0 only."""
        if self.rank == 0:
            self.settings.post(event)

    def report_non_finite(self, fault: Fault, batch: TrainingBatch) -> None:
        """Send the driver the images of all workers with a non-finite loss."""
        keys = self.gather([] if fault == Fault.OTHER_LOSS else list(batch.keys))
        progress = self.progress
        self.post(
            NonFiniteLoss(
                epoch=progress.plan.epoch + 1,
                step=progress.next_step + 1,
                keys=tuple(keys[:MOST_KEYS]),
                is_gradient=fault == Fault.GRADIENT,
            )
        )

    def gather(self, items: list[Item]) -> list[Item]:
        """Collect the items of all workers, in the order of their ranks."""
        if self.num_workers == 1:
            return items
        gathered: list[list[Item]] = [[] for _ in range(self.num_workers)]
        torch.distributed.all_gather_object(gathered, items)
        return [item for share in gathered for item in share]

    def _wrap_network(self, network: MCTformer) -> nn.Module:
        module: Any = ray.train.torch.prepare_model(network)
        return cast(nn.Module, torch.compile(module) if self.settings.workers.compile else module)


def set_rng_seed(rng_seed: int) -> None:
    """Seed all random generators of this process that PyTorch and timm use."""
    random.seed(rng_seed)
    np.random.seed(rng_seed)
    torch.manual_seed(rng_seed)
