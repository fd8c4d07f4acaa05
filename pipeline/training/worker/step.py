"""One step of training: from a batch to new weights.

vary, normalise, erase -> forward -> weighted loss -> backward -> mean gradient of all workers -> clip -> update weights

This module does not import Ray: a worker of the cluster and a plain loop call the same `TrainingStep.update`.
"""

import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, NamedTuple

import torch
import torch.distributed
from jaxtyping import Float, UInt8
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.losses import ScoreTags, SeedTerm, compute_loss
from models.mctformer import MCTformer, Variant
from models.output import MCTformerOutput
from pipeline.images.frames import normalise
from pipeline.training.config import Precision, TrainConfig
from pipeline.training.data.prefetch import TrainingBatch
from pipeline.training.worker.image_operations import apply_operations
from pipeline.training.worker.schedule import make_optimizer, update_average


class Fault(StrEnum):
    """The non-finite value of a step."""

    OWN_LOSS = "own_loss"
    """The loss of this worker's images."""
    OTHER_LOSS = "other_loss"
    """The loss of the images of another worker."""
    GRADIENT = "gradient"
    """The gradient, which is equal on all workers: its images are not known."""


class StepResult(NamedTuple):
    """Figures of a step over all workers."""

    losses: dict[str, float]
    """Means over the images: the total, and its parts."""
    num_images: float
    grad_norm: float
    """Before clipping; NaN after a fault."""
    fault: Fault | None = None
    """None after a valid step. After a fault the weights are those before the step."""


class TrainingStep:
    """One worker's network, optimiser and averaged weights."""

    def __init__(
        self,
        network: MCTformer,
        config: TrainConfig,
        *,
        input_mean: tuple[float, float, float],
        input_std: tuple[float, float, float],
        device: torch.device,
        wrap: Callable[[MCTformer], nn.Module] = lambda network: network,
        num_workers: int = 1,
    ) -> None:
        """Move the network to its device.

        Args:
            network: Trained in place.
            config: Of the run.
            input_mean: Mean of each channel, for pixels in [0, 1].
            input_std: Standard deviation of each channel.
            device: Of the network and its batches.
            wrap: Returns the module that runs forward and backward: one that averages gradients over the workers, or a
                compiled one. It may move the network.
            num_workers: More than one need a process group of `torch.distributed`, and a `wrap` that averages
                gradients.
        """
        self.network = network.to(device)
        self._config = config
        self._mean, self._std = input_mean, input_std
        self._device = device
        self._num_workers = num_workers
        self._module: Any = wrap(self.network)
        self.average = self._make_average()
        self.optimizer = make_optimizer(self.network, config.optimizer)
        self._erase = RandomErasing(config.augment.random_erasing, mode="pixel", device=device)
        self._use_bf16 = config.precision == Precision.BF16 or (
            config.precision == Precision.AUTO and device.type == "cuda"
        )

    def update(self, batch: TrainingBatch, score_tags: ScoreTags, seed_term: SeedTerm | None) -> StepResult:
        """Update the weights with a batch, unless its loss or gradient is not finite.

        Args:
            batch: Equally many images on every worker; padding has weight 0.
            score_tags: Computes the loss of class scores and tags.
            seed_term: Term of the class-map seeds; None: without it.
        """
        self._module.train()
        num_images = self._sum_over_workers(batch.weights.sum().view(1)).item()
        sums = self._accumulate_gradients(batch, num_images, score_tags, seed_term)
        own = torch.stack(list(sums.values()))
        losses = dict(zip(sums, self._sum_over_workers(own.clone()).tolist(), strict=True))
        if not all(math.isfinite(value) for value in losses.values()):
            fault = Fault.OTHER_LOSS if own.isfinite().all() else Fault.OWN_LOSS
            return StepResult(losses, num_images, math.nan, fault)
        limit = self._config.optimizer.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(self.network.parameters(), math.inf if limit is None else limit)
        if not grad_norm.isfinite():
            return StepResult(losses, num_images, math.nan, Fault.GRADIENT)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return StepResult(losses, num_images, grad_norm.item())

    def _accumulate_gradients(
        self, batch: TrainingBatch, num_images: float, score_tags: ScoreTags, seed_term: SeedTerm | None
    ) -> dict[str, Float[Tensor, ""]]:
        """Run forward and backward over the passes of a batch.

        Returns:
            This worker's part of each mean loss; their sum over the workers is the mean over all images.
        """
        self.optimizer.zero_grad(set_to_none=True)
        num_passes = min(self._config.optimizer.accumulation, len(batch.weights))
        sums: dict[str, Tensor] = {}
        bounds = [len(batch.weights) * number // num_passes for number in range(num_passes + 1)]
        for places in itertools.starmap(slice, itertools.pairwise(bounds)):
            weights = batch.weights[places].to(self._device)
            images = self._erase(self._normalise(self._vary(batch, places)))
            with self._limit_sync(places.stop == len(batch.weights)):
                parts = compute_loss(
                    self._run_network(self._module, images),
                    batch.image_labels[places].to(self._device),
                    Variant(self._config.model.variant),
                    contrast_weight=self._config.model.contrast_weight,
                    seed_term=seed_term,
                    seed_source=self._run_seed_source(images, seed_term),
                    sample_weights=weights,
                    score_tags=score_tags,
                )
                # DistributedDataParallel averages over workers. The factor turns this into the mean over images:
                # workers have unequal numbers of them if some could not be decoded.
                share = weights.sum() / max(num_images, 1.0)
                (parts.total * share * self._num_workers).backward()
            for name, value in parts._asdict().items():
                if value is not None:
                    sums[name] = sums.get(name, torch.zeros((), device=self._device)) + value.detach().float() * share
        return sums

    @torch.inference_mode()
    def predict(self, images: UInt8[Tensor, "b 3 s s"]) -> MCTformerOutput:
        """Run the averaged network, or the network if there is no average, in evaluation mode.

        The network runs without `wrap`: workers may validate unequal numbers of batches, so none waits for another.
        """
        network: nn.Module = self.average.module if self.average is not None else self.network
        return self._run_network(network.eval(), self._normalise(images))

    def _vary(self, batch: TrainingBatch, places: slice) -> UInt8[Tensor, "n 3 s s"]:
        """Copy some images of a batch to the device and apply their operations."""
        images = batch.images[places].to(self._device, non_blocking=True)
        return images if batch.operations is None else apply_operations(images, batch.operations[places])

    def _normalise(self, images: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        return normalise(images.to(self._device, non_blocking=True), self._mean, self._std)

    def _run_network(self, module: nn.Module, images: Float[Tensor, "b 3 s s"]) -> MCTformerOutput:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._use_bf16):
            output: MCTformerOutput = module(images)
        return output

    def _run_seed_source(self, images: Float[Tensor, "b 3 s s"], seed_term: SeedTerm | None) -> MCTformerOutput | None:
        """Run the averaged network without gradient if seeds are made of its class maps; else return None."""
        if self.average is None or not self._config.loss.seed_from_average or not (seed_term and seed_term.weight):
            return None
        with torch.no_grad():
            return self._run_network(self.average.module.eval(), images)

    def _sum_over_workers(self, values: Tensor) -> Tensor:
        """Sum values over all workers, in place."""
        if self._num_workers > 1:
            on_device = values.to(self._device)
            torch.distributed.all_reduce(on_device)
            return on_device
        return values

    def _make_average(self) -> AveragedModel | None:
        decay = self._config.optimizer.ema_decay
        if not decay:
            return None

        def update(averages: Any, current: Any, num_averaged: Any) -> None:
            update_average(list(averages), list(current), num_averaged, decay=decay)

        return AveragedModel(self.network, multi_avg_fn=update)

    def _limit_sync(self, is_last: bool) -> AbstractContextManager[object]:
        """Context of a pass: workers exchange gradients in the last pass of a step only."""
        if is_last or self._num_workers == 1:
            return torch.enable_grad()
        no_sync: AbstractContextManager[object] = self._module.no_sync()
        return no_sync
