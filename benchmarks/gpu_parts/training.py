"""Training steps a second of each recipe, with and without compilation, and their share of the peak."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.gpu_parts.machine import NUM_CLASSES, Bench, count_flops, make_model, time_median
from benchmarks.gpu_parts.report import Case
from jobs.recipes import RECIPES
from models.mctformer import MCTformer, Variant
from pipeline.training.config import TrainConfig
from pipeline.training.data.augmentation import make_variation
from pipeline.training.data.prefetch import TrainingBatch
from pipeline.training.worker.schedule import choose_seed_term, choose_tag_loss
from pipeline.training.worker.step import TrainingStep


def make_batch(num_images: int, config: TrainConfig) -> TrainingBatch:
    """Random images with one tag each, and with operations as training draws them."""
    side = config.model.image_size
    variation = make_variation(side, config.augment)
    rng = torch.Generator().manual_seed(0)
    labels = torch.zeros(num_images, NUM_CLASSES, dtype=torch.bool)
    labels[torch.arange(num_images), torch.randint(0, NUM_CLASSES, (num_images,), generator=rng)] = True
    return TrainingBatch(
        keys=tuple(str(number) for number in range(num_images)),
        images=torch.randint(0, 256, (num_images, 3, side, side), dtype=torch.uint8, generator=rng),
        image_labels=labels,
        weights=torch.ones(num_images),
        operations=np.stack([variation.draw_operations(np.random.default_rng(seed)) for seed in range(num_images)]),
    )


def list_cases(is_small: bool, *, is_compiled: bool) -> list[Case]:
    """Each recipe."""
    if is_small and is_compiled:
        return []
    cases = []
    for name, make_config in RECIPES.items():
        side = make_config().model.image_size
        batch = 2 if is_small else 64 if side > 224 else 256
        cases.append(
            Case(
                part="training step",
                settings={"recipe": name, "side": side, "batch": batch, "compiled": is_compiled},
                measure=partial(_measure_steps, name, batch, is_compiled),
                needs_s=60 if is_compiled else 8,
            )
        )
    return cases


def _measure_steps(name: str, num_images: int, is_compiled: bool, bench: Bench) -> dict[str, Any]:
    """Steps of a recipe on a batch in memory, with DeiT-S."""
    config, device = RECIPES[name](), bench.device
    network = make_model(
        "ViT-Tiny" if bench.is_small else "DeiT-S",
        image_size=config.model.image_size,
        variant=Variant(config.model.variant),
    )
    step = TrainingStep(
        network.train(),
        config,
        input_mean=(0.5,) * 3,
        input_std=(0.5,) * 3,
        device=device,
        wrap=_compile if is_compiled else _keep,
    )
    batch = make_batch(num_images, config)
    score_tags = choose_tag_loss(config.loss, torch.ones(NUM_CLASSES, device=device), epoch=1)
    seed_term = choose_seed_term(config.loss, float(config.optimizer.epochs))
    update = partial(step.update, batch, score_tags, seed_term)
    step_s = time_median(update, bench)
    # Operations are counted one by one, which compiled ones cannot be.
    share = {} if is_compiled else {"share_of_peak": count_flops(update) / step_s / bench.peak}
    torch.compiler.reset()
    return {"steps_s": 1 / step_s, "images_s": num_images / step_s} | share


def _compile(module: MCTformer) -> nn.Module:
    return torch.compile(module)  # type: ignore[return-value]


def _keep(module: MCTformer) -> nn.Module:
    return module
