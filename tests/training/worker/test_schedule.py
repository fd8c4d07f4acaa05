import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.training.config import OptimizerConfig
from pipeline.training.worker.schedule import (
    compute_learning_rate,
    make_optimizer,
    read_learning_rate,
    set_learning_rate,
    update_average,
)

OPTIMIZER = OptimizerConfig(epochs=10, batch_size=64, warmup_epochs=2.0)


def test_learning_rate_warms_up_linearly_and_ends_at_its_minimum() -> None:
    rates = [compute_learning_rate(position, OPTIMIZER) for position in (0.0, 1.0, 2.0, 6.0, 10.0)]
    peak = OPTIMIZER.peak_lr
    assert rates == pytest.approx([1e-6, (1e-6 + peak) / 2, peak, (peak + 1e-5) / 2, 1e-5])


@given(st.floats(2, 12), st.floats(2, 12))
def test_learning_rate_never_rises_after_the_warm_up(first: float, second: float) -> None:
    first, second = sorted((first, second))
    assert compute_learning_rate(first, OPTIMIZER) >= compute_learning_rate(second, OPTIMIZER) >= OPTIMIZER.min_lr


def make_small_network(variant: Any) -> Any:
    return MCTformer(
        MCTformerConfig(variant=variant, num_classes=2, image_size=32, patch_size=16, width=48, depth=1, num_heads=3)
    )


@pytest.mark.parametrize("variant", Variant)
def test_optimizer_decays_matrices_but_no_vectors_tokens_or_positions(variant: Any) -> None:
    network = make_small_network(variant)
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = make_optimizer(network, replace(OPTIMIZER, token_lr_factor=3.0, head_lr_factor=2.0)).param_groups
    decays = {names[parameter]: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decays.keys() == set(names.values())
    assert sum(len(group["params"]) for group in groups) == len(names)
    free = {name for name, decay in decays.items() if decay == 0}
    decayed = {name for name, decay in decays.items() if decay == OPTIMIZER.weight_decay}
    assert free | decayed == decays.keys()
    assert {"cls_token", "blocks.0.norm1.weight"} <= free
    assert {name for name in decays if "pos_embed" in name} <= free
    assert {"blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= decayed
    if variant != Variant.V1:
        assert ("head.bias" in free, "head.weight" in decayed) == (True, True)


@pytest.mark.parametrize("variant", Variant)
def test_class_tokens_and_patch_head_have_learning_rates_of_their_own(variant: Any) -> None:
    network = make_small_network(variant)
    optimizer = make_optimizer(network, replace(OPTIMIZER, token_lr_factor=10.0, head_lr_factor=4.0))
    set_learning_rate(optimizer, 0.5)
    names = {parameter: name for name, parameter in network.named_parameters()}
    rates = {names[parameter]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    tokens = {"cls_token", "pos_embed_cls"} if variant == Variant.PLUS else {"cls_token"}
    head = set() if variant == Variant.V1 else {"head.bias", "head.weight"}
    assert {name for name, rate in rates.items() if rate == 5.0} == tokens
    assert {name for name, rate in rates.items() if rate == 2.0} == head
    assert {name for name, rate in rates.items() if rate == 0.5} == rates.keys() - tokens - head
    assert read_learning_rate(optimizer) == 0.5


def test_average_follows_the_weights_closely_at_first_and_slowly_later() -> None:
    average = torch.zeros(1)
    update_average([average], [torch.ones(1)], 1, decay=0.99)
    assert float(average) == pytest.approx(1 - 2 / 11)
    average = torch.zeros(1)
    update_average([average], [torch.ones(1)], 10_000, decay=0.99)
    assert float(average) == pytest.approx(0.01)


def test_learning_rate_is_finite_without_warm_up() -> None:
    rate = compute_learning_rate(0.0, OptimizerConfig(epochs=1, warmup_epochs=0.0))
    assert math.isfinite(rate)
    assert np.isclose(rate, 6.25e-5)
