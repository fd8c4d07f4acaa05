"""Training steps a second of each recipe, with and without compilation, and their share of the peak."""

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.gpu_parts.machine import NUM_CLASSES, count_flops, make_model, time_median
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


def measure_steps(device: torch.device, report: Any, peak: float, is_small: bool) -> None:
    """Steps of each recipe on a batch in memory, with DeiT-S."""
    for name, make_config in RECIPES.items():
        config = make_config()
        side = config.model.image_size
        num_images = 2 if is_small else 64 if side > 224 else 256
        for is_compiled in (False,) if is_small else (False, True):
            network = make_model(
                "ViT-Tiny" if is_small else "DeiT-S", image_size=side, variant=Variant(config.model.variant)
            )

            def wrap(module: MCTformer, is_compiled: bool = is_compiled) -> nn.Module:
                return torch.compile(module) if is_compiled else module  # type: ignore[return-value]

            step = TrainingStep(
                network.train(), config, input_mean=(0.5,) * 3, input_std=(0.5,) * 3, device=device, wrap=wrap
            )
            batch = make_batch(num_images, config)
            score_tags = choose_tag_loss(config.loss, torch.ones(NUM_CLASSES, device=device), epoch=1)
            seed_term = choose_seed_term(config.loss, float(config.optimizer.epochs))

            def update(step: Any = step, batch: Any = batch, scores: Any = score_tags, term: Any = seed_term) -> None:
                step.update(batch, scores, term)

            num_flops = 0 if is_compiled else count_flops(update)
            step_s = time_median(update, device, repeats=3 if is_small else 7, warm_up=1 if is_small else 3)
            figures = {} if is_compiled else {"share_of_peak": num_flops / step_s / peak}
            report.add(
                "training step",
                recipe=name,
                side=side,
                batch=num_images,
                compiled=is_compiled,
                steps_s=1 / step_s,
                images_s=num_images / step_s,
                **figures,
            )


PARTS = {"training step": measure_steps}
