"""One step of training: what becomes of a batch that is there.

normalise and erase -> forward -> weighted loss -> backward -> agree with all workers -> clip -> update weights

Nothing here knows of Ray: a worker of the cluster calls `TrainingStep.take`, and so does a plain loop.
"""

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
from models.mctformer import MCTformer, MCTformerOutput, Variant
from pipeline.training.config import Precision, TrainConfig
from pipeline.training.data.batch_feeder import TrainingBatch
from pipeline.training.worker.schedule import make_optimizer, update_average


class Fault(StrEnum):
    """What of a step is no number."""

    OWN_LOSS = "own_loss"
    """The loss of this worker's images."""
    OTHER_LOSS = "other_loss"
    """The loss of the images of another worker."""
    GRADIENT = "gradient"
    """The gradient, which is the same on all workers: it cannot be said whose images it comes from."""


class StepResult(NamedTuple):
    """What a step came to, over all workers."""

    losses: dict[str, float]
    num_images: float
    grad_norm: float
    """Before clipping; NaN after a fault."""
    fault: Fault | None = None
    """The weights are as before the step if there is one."""


def normalise(
    images: UInt8[Tensor, "b 3 h w"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Tensor, "b 3 h w"]:
    """Scale pixels to [0, 1], then to the mean and spread that the network expects."""
    offset = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - offset) / spread


class TrainingStep:
    """A network, its optimiser and its average, as one worker holds them."""

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
        """Put the network on its device.

        Args:
            network: Trained in place.
            config: How.
            input_mean: Of each channel of an image, with pixels in [0, 1].
            input_std: Spread of each channel.
            device: Where the network is trained.
            wrap: Gives the module whose forward and backward pass count: one that agrees on gradients with other
                workers, or a compiled one. It may move the network.
            num_workers: With more than one they are joined by `torch.distributed`, and `wrap` averages their gradients.
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

    def take(self, batch: TrainingBatch, score_tags: ScoreTags, seed_term: SeedTerm | None) -> StepResult:
        """Update the weights with a batch, unless its loss is no number.

        Args:
            batch: As many images on every worker; those that do not count have weight 0.
            score_tags: Holds class scores against tags.
            seed_term: What class maps teach; None: nothing.
        """
        self._module.train()
        num_images = self._add_up(batch.weights.sum().view(1)).item()
        self.optimizer.zero_grad(set_to_none=True)
        num_passes = min(self._config.optimizer.accumulation, len(batch.weights))
        sums: dict[str, Tensor] = {}
        for number, places in enumerate(torch.arange(len(batch.weights)).tensor_split(num_passes)):
            weights = batch.weights[places].to(self._device)
            images = self._erase(self._normalise(batch.images[places]))
            with self._sync_if(number == num_passes - 1):
                parts = compute_loss(
                    self._run(self._module, images),
                    batch.image_labels[places].to(self._device),
                    Variant(self._config.model.variant),
                    contrast_weight=self._config.model.contrast_weight,
                    seed_term=seed_term,
                    seed_source=self._find_seed_source(images, seed_term),
                    sample_weights=weights,
                    score_tags=score_tags,
                )
                # DistributedDataParallel averages over workers. This makes it the mean over images: workers may
                # have unequal numbers of them, as some cannot be decoded.
                share = weights.sum() / max(num_images, 1.0)
                (parts.total * share * self._num_workers).backward()
            for name, value in parts._asdict().items():
                if value is not None:
                    sums[name] = sums.get(name, torch.zeros((), device=self._device)) + value.detach().float() * share
        own = torch.stack(list(sums.values()))
        losses = dict(zip(sums, self._add_up(own.clone()).tolist(), strict=True))
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

    @torch.inference_mode()
    def predict(self, images: UInt8[Tensor, "b 3 s s"]) -> MCTformerOutput:
        """Run the averaged network, or the network if there is no average, on images as they are validated.

        It is the bare network: workers may have unequal numbers of batches, so they must not wait for each other.
        """
        network: nn.Module = self.average.module if self.average is not None else self.network
        return self._run(network.eval(), self._normalise(images))

    def _normalise(self, images: UInt8[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
        return normalise(images.to(self._device, non_blocking=True), self._mean, self._std)

    def _run(self, module: nn.Module, images: Float[Tensor, "b 3 s s"]) -> MCTformerOutput:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._use_bf16):
            output: MCTformerOutput = module(images)
        return output

    def _find_seed_source(self, images: Float[Tensor, "b 3 s s"], seed_term: SeedTerm | None) -> MCTformerOutput | None:
        """Let the averaged network look at the images, if it is its class maps that teach; no gradient flows."""
        if self.average is None or not self._config.loss.seed_from_average or not (seed_term and seed_term.weight):
            return None
        with torch.no_grad():
            return self._run(self.average.module.eval(), images)

    def _add_up(self, values: Tensor) -> Tensor:
        """Add values up over all workers, in place."""
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

    def _sync_if(self, is_last: bool) -> AbstractContextManager[object]:
        """Let workers exchange gradients in the last pass of a step only."""
        if is_last or self._num_workers == 1:
            return torch.enable_grad()
        no_sync: AbstractContextManager[object] = self._module.no_sync()
        return no_sync
