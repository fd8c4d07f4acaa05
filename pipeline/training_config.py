"""What a training run is: frozen dataclasses, checked at construction. Imports neither PyTorch nor timm."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pipeline.config import InputConfig


class Precision(StrEnum):
    """The number format of the forward pass; weights, losses and the optimiser stay float32."""

    AUTO = "auto"
    """bf16 on a GPU, fp32 on a CPU."""
    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network is trained, and from which weights."""

    variant: Literal["v1", "v2", "plus"] = "v2"
    """Class tokens alone (v1), with a patch head (v2), or with contrast over the layers (plus)."""
    image_size: int = 224
    """Side of the square training crops, in pixels; a multiple of the patch size."""
    backbone: str = ""
    """timm name of a plain ViT, such as vit_tiny_patch16_224 or deit_small_patch16_224; empty: the sizes below."""
    backbone_weights: str = "pretrained"
    """Of the named backbone: a .safetensors or .pth file, `pretrained` to download timm's, `none` for random ones."""
    patch_size: int = 16
    """Side of a patch, in pixels. Only without a named backbone, as the four sizes that follow."""
    width: int = 192
    """Channels of a token."""
    depth: int = 12
    """Number of transformer blocks."""
    num_heads: int = 3
    """Attention heads of a block; they divide the width."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP, relative to the width."""
    drop_path: float = 0.1
    """Share of residual branches skipped in the last block; rises linearly from 0 in the first."""
    rank_decay: float = 0.996
    """Weight of each next patch when plus pools its patch scores; fewer patches want a smaller one. Used by plus."""
    contrast_weight: float = 1.0
    """Weight of the class-token contrast loss; used by plus."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "width", "depth", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if not self.backbone and self.image_size % self.patch_size:
            raise ValueError(f"need an image_size divisible by patch_size, got {self.image_size} and {self.patch_size}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"need 0 <= drop_path < 1, got {self.drop_path}")
        if not 0 < self.rank_decay <= 1:
            raise ValueError(f"need 0 < rank_decay <= 1, got {self.rank_decay}")
        if self.contrast_weight < 0:
            raise ValueError(f"need contrast_weight >= 0, got {self.contrast_weight}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How a training image is varied."""

    min_crop_fraction: float = 0.08
    """Smallest share of the image's area that a random crop keeps."""
    flip: float = 0.5
    """Probability of mirroring."""
    color_jitter: float = 0.4
    """Strength of brightness, contrast and saturation jitter; unused when rand_augment is given."""
    rand_augment: str = "rand-m9-mstd0.5-mmax9-inc1"
    """timm's name of a RandAugment policy; empty: colour jitter. mmax9 as at 10 timm asks for 0 bits."""
    random_erasing: float = 0.25
    """Probability of erasing a rectangle, filled with noise."""

    def __post_init__(self) -> None:
        if not 0 < self.min_crop_fraction <= 1:
            raise ValueError(f"need 0 < min_crop_fraction <= 1, got {self.min_crop_fraction}")
        for name in ("flip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"need 0 <= {name} <= 1, got {getattr(self, name)}")
        if self.color_jitter < 0:
            raise ValueError(f"need color_jitter >= 0, got {self.color_jitter}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay."""

    epochs: int = 60
    """Passes over the training images."""
    batch_size: int = 64
    """Images of one step, over all workers; divisible by their number."""
    base_lr: float = 5e-4
    """Learning rate of a batch of 512; scales linearly with the batch size."""
    min_lr: float = 1e-5
    """Learning rate at the end of the cosine."""
    warmup_lr: float = 1e-6
    """Learning rate at the first step of the warm-up."""
    warmup_epochs: float = 5.0
    """Length of the warm-up, in epochs."""
    weight_decay: float = 0.05
    """Decay of weight matrices; vectors, tokens and position tables have none."""
    clip_norm: float | None = None
    """Largest norm of the gradient; None: no limit."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"need 0 <= warmup_epochs < epochs, got {self.warmup_epochs} and {self.epochs}; "
                "give a shorter warm-up with a short run"
            )
        if self.base_lr <= 0 or self.min_lr < 0 or self.warmup_lr < 0:
            raise ValueError(
                f"need base_lr > 0, min_lr >= 0 and warmup_lr >= 0, "
                f"got {self.base_lr}, {self.min_lr} and {self.warmup_lr}"
            )
        if self.weight_decay < 0:
            raise ValueError(f"need weight_decay >= 0, got {self.weight_decay}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"need clip_norm > 0 or None, got {self.clip_norm}")

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of the warm-up, for this batch size."""
        return self.base_lr * self.batch_size / 512


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a training run learns, besides its images and its vocabulary."""

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    inputs: InputConfig = field(default_factory=InputConfig)
    precision: Precision = Precision.AUTO
    """Number format of the forward pass: fp32, bf16, or auto (bf16 on a GPU, fp32 on a CPU)."""
    shuffle_window: int = 2048
    """Encoded images among which a reader draws the next one."""
    validate_every: int = 1
    """Epochs between two validations; the last epoch always has one."""
    rng_seed: int = 0
    """Decides initial weights, order and augmentation."""

    def __post_init__(self) -> None:
        for name in ("shuffle_window", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Where a run computes. May change between the attempts of one run."""

    num_workers: int = 1
    """Training processes; each holds a copy of the model and an equal share of every batch."""
    gpus_per_worker: float = 0.0
    """GPUs of a worker; 0 trains on the CPU."""
    max_failures: int = 3
    """How often lost workers are replaced before the run gives up."""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"need num_workers >= 1, got {self.num_workers}")
        if self.gpus_per_worker < 0:
            raise ValueError(f"need gpus_per_worker >= 0, got {self.gpus_per_worker}")


def describe_train_config(config: TrainConfig) -> dict[str, Any]:
    """Turn a configuration into plain values for JSON."""
    return json.loads(json.dumps(asdict(config)))
