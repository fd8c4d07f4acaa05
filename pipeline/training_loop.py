"""What each training worker runs: steps over its share of the images, validation, checkpoints.

take a batch -> normalise and erase -> forward -> weighted loss -> backward -> agree with all workers -> step
"""

import math
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from jaxtyping import Float, UInt8
from ray.actor import ActorHandle
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.losses import ScoreTags, SeedTerm, balance_classes, compute_loss
from models.mctformer import MCTformer, MCTformerConfig, MCTformerOutput, Variant
from pipeline.batch_feeder import TrainingBatch
from pipeline.training_config import Precision, TrainConfig, WorkerConfig
from pipeline.training_events import EpochRecord, NonFiniteLoss, Resumed, compute_score
from pipeline.training_feed import SampleSet, TrainingFeed, is_validation_due
from pipeline.training_meter import StepMeter
from pipeline.training_run import name_checkpoint
from pipeline.training_schedule import (
    choose_seed_term,
    choose_tag_loss,
    compute_learning_rate,
    make_optimizer,
    set_learning_rate,
    update_average,
)
from pipeline.training_seeds import derive_seed
from pipeline.training_state import Progress, TrainingState, load_state, write_state
from pipeline.training_validation import ValidationScores, merge_scores
from pipeline.vocabulary import Vocabulary

MOST_KEYS = 64
"""A message names at most so many images."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What a worker needs to know."""

    config: TrainConfig
    workers: WorkerConfig
    network: MCTformerConfig
    vocabulary: Vocabulary
    input_mean: tuple[float, float, float]
    input_std: tuple[float, float, float]
    images_per_class: tuple[int, ...]
    """Of the training images, in the order of the classes."""
    splits: ray.ObjectRef
    """A SampleSet by split: "train", and "validation" if there is one."""
    initial_state: ray.ObjectRef
    """State dict of the network before the first step."""
    box: ActorHandle
    """Where images that cannot be decoded are reported."""
    post: Callable[[object], None]
    """Sends an event to the driver."""


class StepResult(NamedTuple):
    """What a step came to, over all workers."""

    losses: dict[str, float]
    num_images: float
    grad_norm: float
    is_finite: bool


def normalise(
    images: UInt8[Tensor, "b 3 h w"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Tensor, "b 3 h w"]:
    """Scale pixels to [0, 1], then to the mean and spread that the network expects."""
    offset = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - offset) / spread


def train_on_worker(loop_config: dict[str, LoopSettings]) -> None:
    """Train until the last epoch is done; Ray Train runs this on every worker.

    Resumes from the checkpoint that Ray Train hands out. All workers report equally often.
    """
    worker = TrainingWorker(loop_config["settings"])
    try:
        worker.restore(ray.train.get_checkpoint())
        worker.train()
    finally:
        worker.feed.close()


class TrainingWorker:
    """Network, optimiser and data of one worker."""

    def __init__(self, settings: LoopSettings) -> None:
        """Build the network with its initial weights on this worker's device."""
        context = ray.train.get_context()
        self.settings = settings
        self.config = settings.config
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
        self.network = MCTformer(settings.network)
        self.network.load_state_dict(ray.get(settings.initial_state))
        self.parallel: Any = ray.train.torch.prepare_model(self.network)
        if settings.workers.compile:
            self.parallel = torch.compile(self.parallel)
        self.average = self._make_average()
        self.optimizer = make_optimizer(self.network, self.config.optimizer)
        self.erase = RandomErasing(self.config.augment.random_erasing, mode="pixel", device=self.device)
        self.use_bf16 = self.config.precision == Precision.BF16 or (
            self.config.precision == Precision.AUTO and self.device.type == "cuda"
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
        """Take up a checkpoint, if there is one; the rest of its epoch is divided among the workers of now."""
        if checkpoint is None:
            return
        state = load_state(checkpoint, self.device)
        self.network.load_state_dict(state.network)
        if self.average is not None and state.average is not None:
            self.average.module.load_state_dict(state.average)
            self.average.n_averaged.fill_(state.num_averaged)
        self.optimizer.load_state_dict(state.optimizer)
        progress = self.progress = state.progress
        step, is_divided_anew = progress.next_step, len(progress.plan.shares) != self.num_workers
        if is_divided_anew:
            progress.plan, progress.next_step = self.feed.plan_rest(progress.plan, step), 0
        self.post(
            Resumed(
                epoch=progress.plan.epoch + 1,
                step=step,
                num_workers=self.num_workers,
                is_divided_anew=is_divided_anew and step > 0,
                position=progress.plan.epoch + progress.plan.count_seen(progress.next_step) / self.num_samples,
                records=(*progress.history, *progress.step_records),
            )
        )

    def train(self) -> None:
        """Train to the end, or to a loss that is no number."""
        while self.progress.plan.epoch < self.config.optimizer.epochs:
            self.feed.open(self.progress.plan, self.progress.next_step)
            if not self.train_epoch():
                return
            self.finish_epoch()

    def train_epoch(self) -> bool:
        """Take the steps that are left of an epoch; False if the loss is no longer a number."""
        progress, workers = self.progress, self.settings.workers
        plan = progress.plan
        self.parallel.train()
        score_tags = choose_tag_loss(self.config.loss, self.class_weights, plan.epoch)
        meter = StepMeter(progress, self.feed, self.num_samples)
        while progress.next_step < plan.num_steps:
            step = progress.next_step
            position = plan.epoch + plan.count_seen(step) / self.num_samples
            learning_rate = compute_learning_rate(position, self.config.optimizer)
            set_learning_rate(self.optimizer, learning_rate)
            # The random seed names the place in the epoch: a step has the same one however often the epoch was divided.
            set_rng_seed(derive_seed(self.config.rng_seed, plan.epoch, f"step/{plan.count_seen(step)}/{self.rank}"))
            batch = self.feed.take()
            result = self.take_step(batch, score_tags, choose_seed_term(self.config.loss, position))
            if not result.is_finite:
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

    def take_step(self, batch: TrainingBatch, score_tags: ScoreTags, seed_term: SeedTerm | None) -> StepResult:
        """Update the weights with a batch, unless its loss is no number."""
        num_images = self.add_up(batch.weights.sum().view(1)).item()
        self.optimizer.zero_grad(set_to_none=True)
        num_passes = min(self.config.optimizer.accumulation, len(batch.weights))
        sums: dict[str, Tensor] = {}
        for number, places in enumerate(torch.arange(len(batch.weights)).tensor_split(num_passes)):
            weights = batch.weights[places].to(self.device)
            images = batch.images[places].to(self.device, non_blocking=True)
            images = self.erase(normalise(images, self.settings.input_mean, self.settings.input_std))
            with self._sync_if(number == num_passes - 1):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bf16):
                    output = self.parallel(images)
                parts = compute_loss(
                    output,
                    batch.image_labels[places].to(self.device),
                    Variant(self.config.model.variant),
                    contrast_weight=self.config.model.contrast_weight,
                    seed_term=seed_term,
                    sample_weights=weights,
                    score_tags=score_tags,
                )
                # DistributedDataParallel averages over workers. This makes it the mean over images: workers may
                # have unequal numbers of them, as some cannot be decoded.
                share = weights.sum() / max(num_images, 1.0)
                (parts.total * share * self.num_workers).backward()
            for name, value in parts._asdict().items():
                if value is not None:
                    sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach().float() * share
        own = torch.stack(list(sums.values()))
        losses = dict(zip(sums, self.add_up(own.clone()).tolist(), strict=True))
        if not all(math.isfinite(value) for value in losses.values()):
            self.tell_non_finite(batch if not own.isfinite().all() else None)
            return StepResult(losses, num_images, math.nan, is_finite=False)
        limit = self.config.optimizer.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(self.network.parameters(), math.inf if limit is None else limit)
        if not grad_norm.isfinite():
            # All workers have the same gradient: it cannot be said whose images it comes from.
            self.tell_non_finite(batch, is_gradient=True)
            return StepResult(losses, num_images, math.nan, is_finite=False)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return StepResult(losses, num_images, grad_norm.item(), is_finite=True)

    def finish_epoch(self) -> None:
        """Validate if it is due, write the record of the epoch, and a checkpoint."""
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
            learning_rate=self.optimizer.param_groups[0]["lr"],
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

    @torch.inference_mode()
    def validate(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Rank every validation image once, over all workers; metrics of the class scores and of the patch scores."""
        # The bare network: workers have unequal numbers of batches, so they must not wait for each other.
        network: nn.Module = self.average.module if self.average is not None else self.network
        network.eval()
        scores = ValidationScores(self.config.model)
        for _ in self.feed.list_validation_sizes():
            batch = self.feed.take()
            images = batch.images.to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bf16):
                output: MCTformerOutput = network(normalise(images, self.settings.input_mean, self.settings.input_std))
            scores.add(output, batch)
        everywhere = merge_scores(self.gather([scores]))
        return everywhere.describe(tuple(self.settings.vocabulary.classes))

    def save(self) -> None:
        """Hand the state to Ray Train. Rank 0 writes it; the others only report."""
        epoch, step = self.progress.plan.epoch, self.progress.next_step
        # A checkpoint within an epoch is only to go on from: it never is the best.
        score = self.progress.history[-1]["score"] if step == 0 else -2e9
        report = {"epoch": epoch, "step": step, "score": score}
        name = name_checkpoint(epoch, self.progress.plan.count_seen(step))
        if self.rank > 0:
            ray.train.report(report, checkpoint_dir_name=name)
            return
        state = TrainingState(
            network=self.network.state_dict(),
            average=None if self.average is None else self.average.module.state_dict(),
            num_averaged=0 if self.average is None else int(self.average.n_averaged),
            optimizer=self.optimizer.state_dict(),
            progress=self.progress,
        )
        with write_state(state) as checkpoint:
            ray.train.report(report, checkpoint=checkpoint, checkpoint_dir_name=name)

    def post(self, event: object) -> None:
        """Tell the driver; only rank 0 does."""
        if self.rank == 0:
            self.settings.post(event)

    def tell_non_finite(self, batch: TrainingBatch | None, *, is_gradient: bool = False) -> None:
        """Name the images of all workers whose loss is no number; None: the batch of this worker is not to blame."""
        keys = self.gather(list(batch.keys) if batch else [])
        progress = self.progress
        self.post(
            NonFiniteLoss(
                epoch=progress.plan.epoch + 1,
                step=progress.next_step + 1,
                keys=tuple(keys[:MOST_KEYS]),
                is_gradient=is_gradient,
            )
        )

    def add_up(self, values: Tensor) -> Tensor:
        """Add values up over all workers, in place."""
        if self.num_workers > 1:
            on_device = values.to(self.device)
            torch.distributed.all_reduce(on_device)
            return on_device
        return values

    def gather(self, items: list[Any]) -> list[Any]:
        """Collect the items of all workers, in the order of their ranks."""
        if self.num_workers == 1:
            return items
        gathered: list[Any] = [None] * self.num_workers
        torch.distributed.all_gather_object(gathered, items)
        return [item for share in gathered for item in share]

    def _make_average(self) -> AveragedModel | None:
        decay = self.config.optimizer.ema_decay
        if not decay:
            return None

        def update(averages: Any, current: Any, num_averaged: Any) -> None:
            update_average(list(averages), list(current), num_averaged, decay=decay)

        return AveragedModel(self.network, multi_avg_fn=update)

    def _sync_if(self, is_last: bool) -> Any:
        """Let workers exchange gradients in the last pass of a step only."""
        if is_last or self.num_workers == 1:
            return torch.enable_grad()
        return self.parallel.no_sync()


def set_rng_seed(rng_seed: int) -> None:
    """Seed all generators that PyTorch and timm draw from in this process."""
    random.seed(rng_seed)
    np.random.seed(rng_seed)
    torch.manual_seed(rng_seed)
