"""Checkpoints: weights, optimiser, history, and the position in the data to the step.

The random numbers of a step (dropped paths, erased rectangles) are seeded by (rng_seed, epoch, position of the step in
the epoch, rank). A checkpoint therefore needs no random state: a step draws the same numbers in a run that was
interrupted before it.

Ray Train's `Checkpoint.as_directory` is not used to read. Workers of one node share its temporary folder: a late one
truncates and rewrites the file that an earlier one is reading.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import ray.train
import torch
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.training.data.epoch_order import EpochPlan
from pipeline.training.events import EpochRecord, StepRecord

CHECKPOINT_FOLDER = "checkpoints"
STATE_FILE = "state.pt"
COPY_BYTES = 1 << 24
"""Bytes that are copied at a time."""


@dataclass
class Means:
    """Sums over steps, and their means; equal on all workers."""

    sums: dict[str, float] = field(default_factory=dict)
    """Of the losses, each weighted by its number of images."""
    num_images: float = 0.0
    grad_norm: float = 0.0
    num_steps: int = 0

    def add(self, losses: Mapping[str, float], num_images: float, grad_norm: float) -> None:
        """Add a step.

        Args:
            losses: Means over its images.
            num_images: Of the step, over all workers.
            grad_norm: Before clipping.
        """
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
    """Position of a run: the finished steps, and the sharding of the current epoch."""

    plan: EpochPlan
    next_step: int = 0
    epoch_means: Means = field(default_factory=Means)
    """Over this epoch."""
    recent_means: Means = field(default_factory=Means)
    """Since the last line of metrics.jsonl."""
    train_s: float = 0.0
    """Seconds of this epoch's training."""
    waited_s: float = 0.0
    """Seconds of this epoch in which rank 0 waited for images."""
    history: list[EpochRecord] = field(default_factory=list)
    """Of all finished epochs."""
    step_records: list[StepRecord] = field(default_factory=list)
    """Of this epoch and of the previous one."""

    def describe(self) -> dict[str, Any]:
        """Convert to plain values."""
        return vars(self) | {
            "plan": self.plan.describe(),
            "epoch_means": dict(vars(self.epoch_means)),
            "recent_means": dict(vars(self.recent_means)),
        }

    @classmethod
    def restore(cls, fields: Mapping[str, Any]) -> "Progress":
        """Convert from the plain values of `describe`."""
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
    """The averaged weights; None without averaging."""
    num_averaged: int
    """Steps in the average."""
    optimizer: dict[str, Any]
    progress: Progress

    @property
    def best_weights(self) -> dict[str, Tensor]:
        """Weights that are validated and saved: the average if there is one."""
        return self.network if self.average is None else self.average


@contextmanager
def write_state(state: TrainingState) -> Iterator[ray.train.Checkpoint]:
    """Write a state as a checkpoint in a temporary folder, which exists while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(vars(state) | {"progress": state.progress.describe()}, Path(folder) / STATE_FILE)
        yield ray.train.Checkpoint.from_directory(folder)


def load_state(checkpoint: ray.train.Checkpoint, device: torch.device | str) -> TrainingState:
    """Load the state of a checkpoint.

    Raises:
        TrainingError: The state file is missing, truncated or altered.
    """
    with tempfile.TemporaryFile() as file:
        if damage := copy_state(checkpoint, file):
            name = PurePosixPath(checkpoint.path).name
            raise TrainingError(f"checkpoint '{name}' is damaged: {damage}; run the same command again to pass it over")
        fields = torch.load(file, map_location=device, weights_only=True)
    return TrainingState(**fields | {"progress": Progress.restore(fields["progress"])})


def copy_state(checkpoint: ray.train.Checkpoint, file: BinaryIO) -> str | None:
    """Copy the state file of a checkpoint to an empty file of the caller, and check it.

    Returns:
        What is wrong with it; None if it is whole.
    """
    assert checkpoint.filesystem is not None, "Ray Train chooses one"
    try:
        with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{STATE_FILE}") as stream:
            shutil.copyfileobj(stream, file, COPY_BYTES)
    except FileNotFoundError:
        return f"{STATE_FILE} is missing"
    file.seek(0)
    damage = _find_damage(file)
    file.seek(0)
    return damage


def _find_damage(file: BinaryIO) -> str | None:
    # PyTorch writes a zip archive with checksums, and does not compare them when it reads. Python compares them, and
    # ignores some fields that PyTorch needs. PyTorch reads no content of an entry with the attributes of a folder.
    try:
        with zipfile.ZipFile(file) as archive:
            entry = archive.testzip() or next(
                (entry.filename for entry in archive.infolist() if entry.external_attr), None
            )
        if entry is not None:
            return f"{STATE_FILE} is altered at {entry}"
        file.seek(0)
        torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # noqa: BLE001 (damage raises BadZipFile, EOFError, OSError, ..., by its position)
        reason = str(error).partition(". ")[0]
        return f"{STATE_FILE} is truncated or altered ({reason})"
    return None


def name_checkpoint(num_epochs: int, num_images: int = 0) -> str:
    """Name the checkpoint after `num_epochs` epochs and `num_images` images of the next one.

    >>> name_checkpoint(7), name_checkpoint(7, 3200)
    ('epoch-0007', 'epoch-0007-003200')
    """
    return f"epoch-{num_epochs:04d}" + (f"-{num_images:06d}" if num_images else "")
