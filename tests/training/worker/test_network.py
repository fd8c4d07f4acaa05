from dataclasses import replace

import pytest
import torch

from pipeline.training.config import ModelConfig
from pipeline.training.worker.network import build_initial_model

TINY = ModelConfig(image_size=32, patch_size=16, width=48, depth=2, num_heads=3)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (
        build_initial_model(TINY, ("cat", "dog"), rng_seed).network.cls_token for rng_seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_initial_class_tokens_differ_by_the_given_spread() -> None:
    weights = ModelConfig(backbone="vit_tiny_patch16_224", backbone_weights="none", image_size=32)
    plain, spread = (
        build_initial_model(replace(weights, token_spread=value), ("cat", "dog"), 0).network for value in (0.0, 1.0)
    )
    before, after = plain.cls_token.detach(), spread.cls_token.detach()
    assert float((after - before).std() / before.std()) == pytest.approx(1.0, abs=0.1)
    assert torch.equal(spread.pos_embed, plain.pos_embed)


def test_initial_model_of_a_timm_name_takes_its_sizes_and_inputs() -> None:
    config = ModelConfig(backbone="vit_tiny_patch16_224", backbone_weights="none", image_size=64)
    network, mean, std, _ = build_initial_model(config, ("cat", "dog"), rng_seed=0)
    assert (network.config.width, network.config.num_heads, network.config.num_classes) == (192, 3, 2)
    assert (mean, std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
