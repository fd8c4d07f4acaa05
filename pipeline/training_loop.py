"""What each training worker runs: epochs over its share of the images, validation, a checkpoint after each epoch.

Everything random in an epoch (dropped paths, erased rectangles) is seeded by (rng_seed, epoch, rank) when the
epoch starts. So a checkpoint needs no random state: epoch 8 draws the same numbers whether or not the run was
interrupted before it.
"""

import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from jaxtyping import Bool, Float, UInt8
from ray.data import DataIterator
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn

from models.losses import compute_loss
from models.mctformer import MCTformer, MCTformerConfig, MCTformerOutput, Variant
from pipeline.metrics import compute_ranking_metrics
from pipeline.training_config import OptimizerConfig, Precision, TrainConfig
from pipeline.training_events import EpochRecord, StepProgress
from pipeline.training_run import name_checkpoint
from pipeline.training_seeds import derive_seed

STATE_FILE = "state.pt"
PROGRESS_PERIOD_S = 5.0
PREFETCHED_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What a worker needs to know."""

    config: TrainConfig
    network: MCTformerConfig
    class_names: tuple[str, ...]
    input_mean: tuple[float, float, float]
    input_std: tuple[float, float, float]
    num_images: int
    """Usable training images."""
    has_validation: bool
    initial_state: ray.ObjectRef
    """State dict of the network before the first step."""
    post: Callable[[object], None]
    """Sends a StepProgress or an EpochRecord to the driver."""


def share_batch(batch_size: int, num_workers: int) -> int:
    """Count the images of a batch that one worker gets.

    Raises:
        ValueError: The batch cannot be divided among the workers.
    """
    if batch_size % num_workers:
        raise ValueError(f"need a batch_size divisible by num_workers, got {batch_size} and {num_workers}")
    return batch_size // num_workers


def count_steps(num_images: int, batch_size: int, num_workers: int) -> int:
    """Count the steps of an epoch: every worker gets the same number of images, and whole batches only.

    Raises:
        ValueError: The batch cannot be divided among the workers, or is larger than the epoch.
    """
    num_steps = (num_images // num_workers) // share_batch(batch_size, num_workers)
    if num_steps == 0:
        raise ValueError(
            f"{num_images} usable training images do not fill one batch of {batch_size}; give a smaller one"
        )
    return num_steps


def compute_learning_rate(position: float, config: OptimizerConfig) -> float:
    """Compute the learning rate at a position of the run, in epochs.

    Linear from `warmup_lr` to the peak, then a half cosine to `min_lr` at the end of the last epoch.
    """
    if position < config.warmup_epochs:
        return config.warmup_lr + (config.peak_lr - config.warmup_lr) * position / config.warmup_epochs
    fraction = min(1.0, (position - config.warmup_epochs) / (config.epochs - config.warmup_epochs))
    return config.min_lr + (config.peak_lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * fraction))


def make_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Build AdamW; vectors, class tokens and position tables are not decayed."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_free = parameter.ndim <= 1 or "pos_embed" in name or "cls_token" in name
        (free if is_free else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.warmup_lr)


def normalise(
    images: UInt8[Tensor, "b 3 h w"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Tensor, "b 3 h w"]:
    """Scale pixels to [0, 1], then to the mean and spread that the network expects."""
    offset = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - offset) / spread


def train_on_worker(loop_config: dict[str, LoopSettings]) -> None:
    """Train until the last epoch is done; Ray Train runs this on every worker.

    Resumes from the checkpoint that Ray Train hands out. All workers report equally often: once an epoch.
    """
    worker = TrainingWorker(loop_config["settings"])
    worker.restore(ray.train.get_checkpoint())
    while worker.next_epoch < worker.config.optimizer.epochs:
        record = worker.run_epoch(worker.next_epoch)
        if not math.isfinite(record["losses"]["total"]):
            # No checkpoint: the loss is the mean over all workers, so that all of them stop here.
            worker.post(record)
            return
        worker.history.append(record)
        worker.next_epoch += 1
        worker.save()
        worker.post(record)


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
        self.parallel = ray.train.torch.prepare_model(self.network)
        self.optimizer = make_optimizer(self.network, self.config.optimizer)
        self.erase = RandomErasing(self.config.augment.random_erasing, mode="pixel", device=self.device)
        self.use_bf16 = self.config.precision == Precision.BF16 or (
            self.config.precision == Precision.AUTO and self.device.type == "cuda"
        )
        self.num_steps = count_steps(settings.num_images, self.config.optimizer.batch_size, self.num_workers)
        self.history: list[EpochRecord] = []
        self.next_epoch = 0

    def restore(self, checkpoint: ray.train.Checkpoint | None) -> None:
        """Take up weights, optimiser, epoch and history of a checkpoint, if there is one."""
        if checkpoint is None:
            return
        state = load_state(checkpoint, self.device)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]
        self.next_epoch = state["next_epoch"]

    def save(self) -> None:
        """Hand the state to Ray Train. Rank 0 writes it; the others only report."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self.rank == 0:
                state = {
                    "network": self.network.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "history": self.history,
                    "next_epoch": self.next_epoch,
                }
                torch.save(state, Path(folder) / STATE_FILE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(
                {"epoch": self.next_epoch},
                checkpoint=checkpoint,
                checkpoint_dir_name=name_checkpoint(self.next_epoch),
            )

    def post(self, event: object) -> None:
        """Tell the driver; only rank 0 does."""
        if self.rank == 0:
            self.settings.post(event)

    def run_epoch(self, epoch: int) -> EpochRecord:
        """Train for an epoch, then validate if it is due."""
        started_s = time.monotonic()
        losses, num_steps, learning_rate = self.train_epoch(epoch)
        train_s = time.monotonic() - started_s
        is_last = epoch + 1 == self.config.optimizer.epochs
        is_due = self.settings.has_validation and (is_last or (epoch + 1) % self.config.validate_every == 0)
        validation, patch_validation = self.validate() if is_due else (None, None)
        return EpochRecord(
            epoch=epoch + 1,
            losses=losses,
            learning_rate=learning_rate,
            num_images=num_steps * self.config.optimizer.batch_size,
            train_s=train_s,
            validation=validation,
            patch_validation=patch_validation,
        )

    def train_epoch(self, epoch: int) -> tuple[dict[str, float], int, float]:
        """Take the steps of an epoch; return mean losses over all workers, number of steps, last learning rate."""
        seed_everything(derive_seed(self.config.rng_seed, epoch, f"worker/{self.rank}"))
        self.parallel.train()
        sums: dict[str, Tensor] = {}
        num_steps, learning_rate, reporter = 0, 0.0, ProgressReporter(self, epoch)
        for batch in self.iterate_batches("train", drop_last=True):
            # Images that could not be decoded make the epoch a little shorter than planned, never longer.
            position = epoch + min(num_steps / self.num_steps, 1.0)
            learning_rate = compute_learning_rate(position, self.config.optimizer)
            for name, value in self.take_step(batch, learning_rate).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value
            num_steps += 1
            reporter.advance(num_steps, sums)
        return self.average_losses(sums, num_steps), num_steps, learning_rate

    def take_step(self, batch: dict[str, Tensor], learning_rate: float) -> dict[str, Tensor]:
        """Update the weights with a batch; return its losses."""
        images = self.erase(normalise(batch["image"], self.settings.input_mean, self.settings.input_std))
        model = self.config.model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bf16):
            output = self.parallel(images)
        parts = compute_loss(output, batch["image_labels"], Variant(model.variant), model.contrast_weight)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        parts.total.backward()
        if self.config.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        return {name: value.detach().float() for name, value in parts._asdict().items() if value is not None}

    def iterate_batches(self, split: str, *, drop_last: bool) -> Iterator[dict[str, Tensor]]:
        """Give this worker's batches of an epoch, on its device."""
        iterator: DataIterator = ray.train.get_dataset_shard(split)
        yield from iterator.iter_torch_batches(
            batch_size=self.config.optimizer.batch_size // self.num_workers,
            drop_last=drop_last,
            prefetch_batches=PREFETCHED_BATCHES,
        )

    def average_losses(self, sums: dict[str, Tensor], num_steps: int) -> dict[str, float]:
        """Average the losses of an epoch over steps and workers.

        Raises:
            RuntimeError: There was no step: all images were dropped.
        """
        if num_steps == 0:
            raise RuntimeError("no training image could be decoded; look at the first rejections")
        means = torch.stack([sums[name] for name in sums]) / num_steps
        if self.num_workers > 1:
            torch.distributed.all_reduce(means)
            means /= self.num_workers
        return dict(zip(sums, means.tolist(), strict=True))

    @torch.inference_mode()
    def validate(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Rank every validation image once, over all workers; metrics of the class scores and of the patch scores."""
        self.network.eval()
        class_scores, patch_scores, labels = [], [], []
        # The bare network: the workers have unequal numbers of batches, so they must not wait for each other.
        for batch in self.iterate_batches("validation", drop_last=False):
            images = normalise(batch["image"], self.settings.input_mean, self.settings.input_std)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.use_bf16):
                output: MCTformerOutput = self.network(images)
            class_scores.append(output.class_logits.float().cpu().numpy())
            if output.patch_logits is not None:
                patch_scores.append(output.patch_logits.float().cpu().numpy())
            labels.append(batch["image_labels"].cpu().numpy())
        gathered = self.gather_rows(labels), self.gather_rows(class_scores), self.gather_rows(patch_scores)
        image_labels = np.concatenate(gathered[0]).astype(bool)
        return (
            describe_ranking(gathered[1], image_labels, self.settings.class_names),
            describe_ranking(gathered[2], image_labels, self.settings.class_names) if gathered[2] else None,
        )

    def gather_rows(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        """Collect the arrays of all workers, in the order of their ranks."""
        if self.num_workers == 1:
            return rows
        gathered: list[Any] = [None] * self.num_workers
        torch.distributed.all_gather_object(gathered, rows)
        return [array for share in gathered for array in share]


class ProgressReporter:
    """Posts the state of an epoch every few seconds."""

    def __init__(self, worker: TrainingWorker, epoch: int) -> None:
        """Report for a worker that starts an epoch."""
        self._worker = worker
        self._epoch = epoch
        self._first_s: float | None = None
        self._last_s = time.monotonic()

    def advance(self, step: int, sums: dict[str, Tensor]) -> None:
        """Note that a step is done; post if it is time."""
        now = time.monotonic()
        # Speed counts from the first batch on: before it, the stream of images starts.
        self._first_s = self._first_s or now
        if step == 1 or now - self._last_s < PROGRESS_PERIOD_S:
            return
        self._last_s = now
        num_images = (step - 1) * self._worker.config.optimizer.batch_size
        self._worker.post(
            StepProgress(
                epoch=self._epoch + 1,
                step=step,
                num_steps=self._worker.num_steps,
                loss=sums["total"].item() / step,
                images_per_s=num_images / (now - self._first_s),
            )
        )


def describe_ranking(
    scores: list[Float[np.ndarray, "_ c"]], image_labels: Bool[np.ndarray, "n c"], class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Compute the ranking metrics of gathered scores as plain values."""
    return compute_ranking_metrics(np.concatenate(scores), image_labels, class_names).describe()


def seed_everything(seed: int) -> None:
    """Seed all generators that PyTorch and timm draw from in this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def load_state(checkpoint: ray.train.Checkpoint, device: torch.device | str) -> dict[str, Any]:
    """Load what `TrainingWorker.save` wrote."""
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / STATE_FILE, map_location=device, weights_only=True)
