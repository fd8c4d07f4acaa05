from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from models.weights import CheckpointError
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


def save_backbone(path: Path) -> None:
    """Write plain and averaged weights of a ViT; the averaged ones are not finite."""
    weights = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    averaged = weights | {"blocks.3.attn.proj.bias": torch.full((192,), torch.nan)}
    torch.save({"model": weights, "model_ema": averaged}, path)


def test_backbone_of_a_file_with_several_weights_is_chosen_by_key_and_noted(tmp_path: Path) -> None:
    save_backbone(tmp_path / "a.pth")
    config = ModelConfig(backbone="vit_tiny_patch16_224", backbone_weights=f"{tmp_path}/a.pth", image_size=64)
    initial = build_initial_model(config, ("cat", "dog"), rng_seed=0)
    assert "'model' is taken, not 'model_ema'" in initial.notes[0]
    with pytest.raises(CheckpointError, match=r"a\.pth.*not finite .*blocks.3.attn.proj.bias has 192 of 192"):
        build_initial_model(replace(config, backbone_key="model_ema"), ("cat", "dog"), rng_seed=0)
    with pytest.raises(CheckpointError, match=r"a\.pth' of 'deit_small_patch16_224': the backbone has width 192"):
        build_initial_model(replace(config, backbone="deit_small_patch16_224"), ("cat", "dog"), rng_seed=0)
