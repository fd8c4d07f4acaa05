"""What a checkpoint holds: weights, optimiser, history, and the place in the data, to the step.

Everything random in a step (dropped paths, erased rectangles) is seeded by (rng_seed, epoch, place of the step in the
epoch, rank). So a checkpoint needs no random state: a step draws the same numbers whether or not the run was
interrupted before it.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
from torch import Tensor

from pipeline.training.data.epoch_order import EpochPlan
from pipeline.training.events import EpochRecord, StepRecord

STATE_FILE = "state.pt"


@dataclass
class Means:
    """Sums over steps from which means are made. All workers hold the same."""

    sums: dict[str, float] = field(default_factory=dict)
    """Of the losses, each weighted by its images."""
    num_images: float = 0.0
    grad_norm: float = 0.0
    num_steps: int = 0

    def add(self, losses: Mapping[str, float], num_images: float, grad_norm: float) -> None:
        """Count a step in, with the mean losses of its images."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * num_images
        self.num_images += num_images
        self.grad_norm += grad_norm
        self.num_steps += 1

    @property
    def losses(self) -> dict[str, float]:
        """Means over images."""
        return {name: value / max(self.num_images, 1.0) for name, value in self.sums.items()}

    @property
    def mean_grad_norm(self) -> float:
        """Mean over steps."""
        return self.grad_norm / max(self.num_steps, 1)


@dataclass
class Progress:
    """Where a run stands: what is done, and how the epoch that it is in is divided."""

    plan: EpochPlan
    next_step: int = 0
    epoch_means: Means = field(default_factory=Means)
    """Over this epoch."""
    recent_means: Means = field(default_factory=Means)
    """Since the last line of metrics.jsonl."""
    train_s: float = 0.0
    """Of this epoch."""
    waited_s: float = 0.0
    """Of this epoch."""
    history: list[EpochRecord] = field(default_factory=list)
    step_records: list[StepRecord] = field(default_factory=list)
    """Of this epoch and of the one before."""

    def describe(self) -> dict[str, Any]:
        """Give plain values."""
        return vars(self) | {
            "plan": self.plan.describe(),
            "epoch_means": dict(vars(self.epoch_means)),
            "recent_means": dict(vars(self.recent_means)),
        }

    @classmethod
    def restore(cls, fields: Mapping[str, Any]) -> "Progress":
        """Make it of what `describe` gave."""
        return cls(
            **{
                **fields,
                "plan": EpochPlan.restore(fields["plan"]),
                "epoch_means": Means(**fields["epoch_means"]),
                "recent_means": Means(**fields["recent_means"]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """The content of a checkpoint."""

    network: dict[str, Tensor]
    average: dict[str, Tensor] | None
    """The network with averaged weights; None without them."""
    num_averaged: int
    optimizer: dict[str, Any]
    progress: Progress

    @property
    def best_weights(self) -> dict[str, Tensor]:
        """The weights that are validated and saved."""
        return self.network if self.average is None else self.average


@contextmanager
def write_state(state: TrainingState) -> Iterator[ray.train.Checkpoint]:
    """Write a state into a folder that lives as long as the block."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(vars(state) | {"progress": state.progress.describe()}, Path(folder) / STATE_FILE)
        yield ray.train.Checkpoint.from_directory(folder)


def load_state(checkpoint: ray.train.Checkpoint, device: torch.device | str) -> TrainingState:
    """Load what `write_state` wrote."""
    with checkpoint.as_directory() as folder:
        fields = torch.load(Path(folder) / STATE_FILE, map_location=device, weights_only=True)
    return TrainingState(**fields | {"progress": Progress.restore(fields["progress"])})
