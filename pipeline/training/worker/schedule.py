"""Schedules of a run's configuration: learning rates, parameter groups, averaging of weights, choice of the loss."""

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.losses import (
    ScoreTags,
    SeedTerm,
    score_asymmetric,
    score_soft_margin,
    score_without_large_losses,
    weigh_positives,
)
from pipeline.training.config import LossConfig, OptimizerConfig, TagLoss

EMA_WARMUP_STEPS = 10
"""Warm-up of the averaged weights: after n steps their decay is at most (1 + n) / (10 + n)."""


def compute_learning_rate(position: float, config: OptimizerConfig) -> float:
    """Compute the learning rate at a position of the run, in epochs.

    Linear from `warmup_lr` to the peak, then a half cosine to `min_lr` at the end of the last epoch.
    """
    if position < config.warmup_epochs:
        return config.warmup_lr + (config.peak_lr - config.warmup_lr) * position / config.warmup_epochs
    fraction = min(1.0, (position - config.warmup_epochs) / (config.epochs - config.warmup_epochs))
    return config.min_lr + (config.peak_lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * fraction))


def make_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Build AdamW with groups of parameters.

    Vectors, tokens and position tables have no weight decay. Class tokens and patch head have the factors
    `token_lr_factor` and `head_lr_factor` of the learning rate, stored as `lr_factor` of their groups.
    """
    # The backbone is the first group: `read_learning_rate` reads its rate.
    members: dict[tuple[float, float], list[nn.Parameter]] = {(config.weight_decay, 1.0): [], (0.0, 1.0): []}
    for name, parameter in network.named_parameters():
        is_token = name in ("cls_token", "pos_embed_cls")
        is_free = is_token or parameter.ndim <= 1 or "pos_embed" in name
        lr_factor = 1.0
        if is_token:
            lr_factor = config.token_lr_factor
        elif name.startswith("head."):
            lr_factor = config.head_lr_factor
        members.setdefault((0.0 if is_free else config.weight_decay, lr_factor), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (decay, factor), parameters in members.items()
    ]
    return torch.optim.AdamW(groups, lr=config.warmup_lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group: that of the backbone times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]


def read_learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Learning rate of the backbone."""
    group = optimizer.param_groups[0]
    return float(group["lr"] / group["lr_factor"])


def choose_tag_loss(config: LossConfig, class_weights: Float[Tensor, " c"], epoch: int) -> ScoreTags:
    """Choose the loss of scores and tags for an epoch, from 0."""
    score: ScoreTags
    if config.tag_loss == TagLoss.ASYMMETRIC:
        score = partial(
            score_asymmetric,
            focus_negative=config.focus_negative,
            focus_positive=config.focus_positive,
            margin=config.negative_margin,
        )
    elif config.tag_loss == TagLoss.LARGE_LOSS:
        score = partial(score_without_large_losses, rejected_share=min(1.0, config.rejected_per_epoch * epoch))
    else:
        score = score_soft_margin
    return weigh_positives(score, class_weights) if config.class_balance else score


def choose_seed_term(config: LossConfig, position: float) -> SeedTerm | None:
    """Choose the term of the class-map seeds at a position of the run, in epochs; None: the run has no such term."""
    if not config.seed_weight:
        return None
    share = min(1.0, max(0.0, position - config.seed_start_epochs))
    return SeedTerm(
        weight=config.seed_weight * share,
        background_threshold=config.seed_background_threshold,
        foreground_threshold=config.seed_foreground_threshold,
        attention_share=config.seed_attention_share,
        affinity_steps=config.seed_affinity_steps,
    )


def update_average(averages: list[Tensor], current: list[Tensor], num_averaged: Tensor | int, *, decay: float) -> None:
    """Move averaged weights towards the current ones, in place; see `EMA_WARMUP_STEPS`."""
    num_steps = int(num_averaged)
    follow = 1 - min(decay, (1 + num_steps) / (EMA_WARMUP_STEPS + num_steps))
    torch._foreach_lerp_(averages, current, follow)
