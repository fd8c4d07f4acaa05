"""Configuration of a training run: frozen dataclasses, checked at construction. No PyTorch, no timm."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pipeline.run.config import ADDED_LATER, InputConfig, describe_fields
from pipeline.training.operations import RandAugment


class TagLoss(StrEnum):
    """Tag loss, by the errors that are expected in the tags."""

    SOFT_MARGIN = "soft_margin"
    """Binary cross entropy of every class, as the authors train: tags are right and complete."""
    ASYMMETRIC = "asymmetric"
    """Easy negatives have low weights (Ridnik et al., ICCV 2021): tags may be missing."""
    LARGE_LOSS = "large_loss"
    """Untagged classes with the largest losses are excluded, more of them each epoch (LL-R of Kim et al., CVPR 2022):
    tags are missing."""


class Precision(StrEnum):
    """Number format of the forward pass; weights, losses and the optimiser stay float32."""

    AUTO = "auto"
    """bf16 on a GPU, fp32 on a CPU."""
    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Network that is trained, and its initial weights."""

    variant: Literal["v1", "v2", "plus"] = "v2"
    """Class tokens alone (v1), with a patch head (v2), or with contrast over the layers (plus)."""
    image_size: int = 224
    """Side of the square training crops, in pixels; a multiple of the patch size."""
    backbone: str = ""
    """timm name of a plain ViT, such as vit_tiny_patch16_224 or deit_small_patch16_224; empty: the sizes below."""
    backbone_weights: str = "pretrained"
    """Of the named backbone: a .safetensors or .pth file, `pretrained` to download timm's, `none` for random ones."""
    backbone_key: str = field(default="", metadata=ADDED_LATER)
    """Which weights of the file to take where it has several, such as teacher; empty: plain ones before averaged
    ones."""
    patch_size: int = 16
    """Side of a patch, in pixels. This and the next four sizes are used without a named backbone only."""
    width: int = 192
    """Channels of a token."""
    depth: int = 12
    """Number of transformer blocks."""
    num_heads: int = 3
    """Attention heads of a block; they divide the width."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP, relative to the width."""
    drop_path: float = 0.1
    """Fraction of residual branches dropped in the last block; rises linearly from 0 in the first."""
    rank_decay: float = 0.996
    """Decay of the weight from one patch to the next in the pooling of patch scores; smaller for fewer patches. Used by
    plus."""
    contrast_weight: float = 1.0
    """Weight of the class-token contrast loss; used by plus."""
    token_spread: float = 0.0
    """Standard deviation of random offsets of the initial class tokens, relative to that of the copied token."""

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
        for name in ("contrast_weight", "token_spread"):
            if getattr(self, name) < 0:
                raise ValueError(f"need {name} >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of a training image."""

    min_crop_fraction: float = 0.08
    """Smallest fraction of the image's area that a random crop keeps."""
    flip: float = 0.5
    """Probability of mirroring."""
    color_jitter: float = 0.4
    """Strength of brightness, contrast and saturation jitter; used without rand_augment only."""
    rand_augment: str = "rand-m9-mstd0.5-mmax9-inc1"
    """timm's name of a RandAugment policy, without weighted choices (t); empty: colour jitter."""
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
        if self.rand_augment:
            RandAugment.parse(self.rand_augment)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Loss of training."""

    tag_loss: TagLoss = TagLoss.SOFT_MARGIN
    """Loss of scores and tags: soft_margin for complete tags, asymmetric and large_loss for missing ones."""
    focus_negative: float = 4.0
    """Exponent that lowers the weight of easy negatives; used by asymmetric."""
    focus_positive: float = 0.0
    """Exponent that lowers the weight of easy positives; used by asymmetric."""
    negative_margin: float = 0.05
    """Probability below which the loss of a negative is 0; used by asymmetric."""
    rejected_per_epoch: float = 0.002
    """Fraction of the untagged labels that is excluded in epoch 2, twice as many in epoch 3, and so on; used by
    large_loss."""
    class_balance: float = 0.0
    """Weight of a class's positives: (median frequency / its own frequency) to this power; 0: 1 for all classes."""
    seed_weight: float = 0.0
    """Weight of the seed loss, which trains the patch CAM on the network's own refined class maps; 0: none, as the
    authors."""
    seed_attention_share: float = 0.0
    """Weight of the loss that trains class tokens to attend evenly to the seeds, relative to that of the patch CAM; 0:
    none."""
    seed_affinity_steps: int = 1
    """Multiplications of the class maps by the patch affinity before seeds are made; more steps make larger maps, which
    need higher thresholds."""
    seed_from_average: bool = False
    """Make seeds of the class maps of the averaged network (`ema_decay`) instead of the trained one, whose drop_path
    adds noise; needs another forward pass per step."""
    seed_start_epochs: float = 1.0
    """Epochs without the seed loss, fewer than the run has; its weight then rises to seed_weight over one epoch."""
    seed_background_threshold: float = 0.3
    """A patch is absent for a class whose map is below this; above 0. Maps are in [0, 1]."""
    seed_foreground_threshold: float = 0.5
    """A patch is foreground of the class with the highest map if that is above this. A map between the thresholds, or
    above both but not the highest, has no loss."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed_background_threshold <= self.seed_foreground_threshold <= 1:
            raise ValueError(
                "need 0 <= seed_background_threshold <= seed_foreground_threshold <= 1, "
                f"got {self.seed_background_threshold} and {self.seed_foreground_threshold}"
            )
        if self.seed_weight and not self.seed_background_threshold:
            raise ValueError(
                f"need seed_background_threshold > 0 for a seed_weight of {self.seed_weight}, got 0, so no patch would "
                "be absent for any class; give a larger one, such as 0.4, or set seed_weight to 0"
            )
        for name in (
            "focus_negative",
            "focus_positive",
            "rejected_per_epoch",
            "class_balance",
            "seed_weight",
            "seed_attention_share",
            "seed_affinity_steps",
            "seed_start_epochs",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"need {name} >= 0, got {getattr(self, name)}")
        if not 0 <= self.negative_margin < 1:
            raise ValueError(f"need 0 <= negative_margin < 1, got {self.negative_margin}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a linear warm-up and a cosine decay."""

    epochs: int = 60
    """Passes over the training images."""
    batch_size: int = 64
    """Largest number of images of one step, over all workers."""
    accumulation: int = 1
    """Passes into which a worker's share of a batch is divided to save memory; the step stays the same."""
    base_lr: float = 5e-4
    """Learning rate of a batch of 512; scales linearly with the batch size. This, `min_lr` and `warmup_lr` are those of
    the backbone; class tokens and patch head have multiples of them."""
    min_lr: float = 1e-5
    """Learning rate at the end of the cosine."""
    warmup_lr: float = 1e-6
    """Learning rate at the first step of the warm-up."""
    warmup_epochs: float = 5.0
    """Length of the warm-up, in epochs."""
    weight_decay: float = 0.05
    """Decay of weight matrices; vectors, tokens and position embeddings have none."""
    clip_norm: float | None = None
    """Largest norm of the gradient; None: no limit."""
    token_lr_factor: float = 1.0
    """Learning rate of the class tokens, relative to that of the backbone."""
    head_lr_factor: float = 1.0
    """Learning rate of the patch head, which starts from random weights, relative to that of the backbone; used by v2
    and plus."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights, which is validated and saved, such as 0.999; 0: none."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"need 0 <= warmup_epochs < epochs, got {self.warmup_epochs} and {self.epochs}; "
                "set a shorter warm-up for a short run"
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
        for name in ("token_lr_factor", "head_lr_factor"):
            if getattr(self, name) <= 0:
                raise ValueError(f"need {name} > 0, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"need 0 <= ema_decay < 1, got {self.ema_decay}")

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of the warm-up, for this batch size."""
        return self.base_lr * self.batch_size / 512


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the result of a training run, except its images and its vocabulary."""

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    inputs: InputConfig = field(default_factory=InputConfig)
    precision: Precision = Precision.AUTO
    """Number format of the forward pass: fp32, bf16, or auto (bf16 on a GPU, fp32 on a CPU)."""
    shuffle_window: int = 2048
    """Size of the shuffle window, in encoded images."""
    validate_every: int = 1
    """Epochs between two validations; the last epoch always has one."""
    rng_seed: int = 0
    """Random seed of initial weights, order and augmentation."""

    def __post_init__(self) -> None:
        for name in ("shuffle_window", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if self.loss.seed_weight and self.model.variant == "v1":
            raise ValueError(
                f"need variant v2 or plus for a seed_weight of {self.loss.seed_weight}, got v1, which has no patch "
                "head; set seed_weight to 0"
            )
        if self.loss.seed_weight and self.loss.seed_from_average and not self.optimizer.ema_decay:
            raise ValueError(
                f"need ema_decay > 0 for seed_from_average, got {self.optimizer.ema_decay}, so there is no averaged "
                "network; give ema_decay, such as 0.98, or set seed_from_average to false"
            )
        if self.loss.seed_weight and self.loss.seed_start_epochs >= self.optimizer.epochs:
            raise ValueError(
                f"need seed_start_epochs < epochs for a seed_weight of {self.loss.seed_weight}, got "
                f"{self.loss.seed_start_epochs} and {self.optimizer.epochs}, so the seed loss would never start; give "
                "more epochs or a smaller seed_start_epochs, or set seed_weight to 0"
            )


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How workers run, and how often they record and save. May change between the attempts of one run."""

    cpus_per_worker: float = 1.0
    """CPU slots of a worker. The other slots of the cluster read and decode."""
    max_failures: int = 3
    """Failures of workers before the run fails. The count restarts if a checkpoint was added since the last start."""
    resize_interval_s: float = 60.0
    """Seconds between checks for new nodes, if the number of workers is a range. A run that adds workers restarts from
    its last checkpoint."""
    checkpoint_steps: int = 500
    """Steps between two checkpoints within an epoch; each epoch also ends with one."""
    log_steps: int = 10
    """Steps between two lines of metrics.jsonl."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps on a GPU."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_steps", "log_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if self.cpus_per_worker <= 0:
            raise ValueError(f"need cpus_per_worker > 0, got {self.cpus_per_worker}")
        for name in ("max_failures", "resize_interval_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"need {name} >= 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig(ExecutionConfig):
    """Number of workers and their GPUs. May change between the attempts of one run."""

    num_workers: int = 1
    """Training processes; each has a copy of the model and an equal share of every batch."""
    min_workers: int | None = None
    """Smallest number of workers with which the run continues while nodes are missing; None: it waits for all."""
    gpus_per_worker: float = 0.0
    """GPUs of a worker; 0 trains on the CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_workers < 1:
            raise ValueError(f"need num_workers >= 1, got {self.num_workers}")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(f"need 1 <= min_workers <= num_workers, got {self.min_workers} and {self.num_workers}")
        if self.gpus_per_worker < 0:
            raise ValueError(f"need gpus_per_worker >= 0, got {self.gpus_per_worker}")


def describe_train_config(config: TrainConfig) -> dict[str, Any]:
    """Convert a configuration to plain values for JSON."""
    return describe_fields(config)
