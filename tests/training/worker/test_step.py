"""A step of training in one process: what it does to the weights, and what it leaves alone."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.losses import SeedTerm, compute_loss, score_soft_margin
from models.mctformer import Variant
from pipeline.images.frames import normalise
from pipeline.training.config import AugmentConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from pipeline.training.data.prefetch import TrainingBatch
from pipeline.training.operations import Operation
from pipeline.training.worker.image_operations import apply_operations
from pipeline.training.worker.network import build_initial_model
from pipeline.training.worker.schedule import make_optimizer, set_learning_rate
from pipeline.training.worker.step import Fault, TrainingStep

MEAN = STD = (0.5, 0.5, 0.5)
CONFIG = TrainConfig(
    model=ModelConfig(image_size=32, patch_size=16, width=48, depth=2, num_heads=3, drop_path=0.0),
    augment=AugmentConfig(random_erasing=0.0),
    optimizer=OptimizerConfig(batch_size=4),
)


def make_batch(num_images: int = 4) -> Any:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (num_images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.rand(num_images, 2, generator=generator) < 0.5
    return TrainingBatch(tuple("abcdefgh"[:num_images]), images, labels, torch.ones(num_images))


@pytest.fixture
def network() -> Any:
    return build_initial_model(CONFIG.model, ("cat", "dog"), 0).network


def make_step(network: Any, config: Any = CONFIG) -> Any:
    step = TrainingStep(copy.deepcopy(network), config, input_mean=MEAN, input_std=STD, device=torch.device("cpu"))
    set_learning_rate(step.optimizer, 1e-2)
    return step


def list_weights(network: Any) -> list[Any]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def assert_close(actual: Any, expected: Any) -> None:
    for one, other in zip(list_weights(actual), list_weights(expected), strict=True):
        # AdamW's first step is as long for a small gradient as for a large one, so rounding shows: a step is 1e-2.
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


def test_step_changes_the_weights_as_a_plain_loop_does(network: Any) -> None:
    batch, step, plain = make_batch(), make_step(network), copy.deepcopy(network).train()
    result = step.update(batch, score_soft_margin, None)
    optimizer = make_optimizer(plain, CONFIG.optimizer)
    set_learning_rate(optimizer, 1e-2)
    loss = compute_loss(plain(normalise(batch.images, MEAN, STD)), batch.image_labels, Variant.V2).total
    loss.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in plain.parameters()]).norm()
    optimizer.step()
    assert_close(step.network, plain)
    assert result.fault is None
    assert result.num_images == 4
    assert result.losses["total"] == pytest.approx(loss.item(), rel=1e-4)
    assert result.grad_norm == pytest.approx(norm.item(), rel=1e-4)


def test_images_of_weight_zero_have_no_effect(network: Any) -> None:
    whole, part = make_step(network), make_step(network)
    four = make_batch()
    five = TrainingBatch(
        four.keys,
        torch.cat([four.images, torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)]),
        torch.cat([four.image_labels, torch.ones(1, 2, dtype=torch.bool)]),
        torch.tensor([1.0, 1, 1, 1, 0]),
    )
    assert whole.update(four, score_soft_margin, None).losses["total"] == pytest.approx(
        part.update(five, score_soft_margin, None).losses["total"], rel=1e-5
    )
    assert_close(whole.network, part.network)


def test_batch_in_passes_gives_the_step_of_the_whole_batch(network: Any) -> None:
    whole = make_step(network)
    passes = make_step(network, replace(CONFIG, optimizer=replace(CONFIG.optimizer, accumulation=3)))
    results = [step.update(make_batch(), score_soft_margin, None) for step in (whole, passes)]
    assert results[0].losses == pytest.approx(results[1].losses, rel=1e-4)
    assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=1e-4)
    assert_close(whole.network, passes.network)


def test_step_applies_the_operations_of_each_image(network: Any) -> None:
    batch = make_batch()
    operations = np.zeros((4, 2, 2), np.float32)
    operations[1, 0] = Operation.INVERT, 0
    operations[2, 1] = Operation.ROTATE, 20
    varied = batch._replace(images=apply_operations(batch.images, operations))
    expected, found, plain = make_step(network), make_step(network), make_step(network)
    losses = expected.update(varied, score_soft_margin, None).losses
    assert found.update(batch._replace(operations=operations), score_soft_margin, None).losses == losses
    assert plain.update(batch, score_soft_margin, None).losses != losses
    passes = make_step(network, replace(CONFIG, optimizer=replace(CONFIG.optimizer, accumulation=3)))
    in_passes = passes.update(batch._replace(operations=operations), score_soft_margin, None).losses
    assert in_passes == pytest.approx(losses, rel=1e-4)


def test_non_finite_loss_leaves_the_weights_unchanged(network: Any) -> None:
    with torch.no_grad():
        network.head.bias.fill_(torch.inf)
    step = make_step(network)
    before = list_weights(step.network)
    assert step.update(make_batch(), score_soft_margin, None).fault == Fault.OWN_LOSS
    assert all(torch.equal(one, other) for one, other in zip(before, list_weights(step.network), strict=True))


def test_non_finite_gradient_leaves_the_weights_unchanged(network: Any) -> None:
    step = make_step(network)
    step.network.head.weight.register_hook(lambda gradient: gradient * torch.nan)
    before = list_weights(step.network)
    assert step.update(make_batch(), score_soft_margin, None).fault == Fault.GRADIENT
    assert all(torch.equal(one, other) for one, other in zip(before, list_weights(step.network), strict=True))


def test_averaged_network_predicts(network: Any) -> None:
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, ema_decay=0.9))
    step = make_step(network, config)
    for _ in range(3):
        step.update(make_batch(), score_soft_margin, None)
    images = make_batch().images
    expected = step.average.module.eval()(normalise(images, MEAN, STD)).class_logits
    assert torch.equal(step.predict(images).class_logits, expected)
    assert not torch.equal(step.network.eval()(normalise(images, MEAN, STD)).class_logits, expected)


@pytest.mark.parametrize("from_average", [True, False])
def test_seeds_are_made_by_the_averaged_network_if_set(from_average: bool) -> None:
    config = replace(
        CONFIG,
        model=replace(CONFIG.model, patch_size=8),
        loss=LossConfig(seed_weight=0.5, seed_from_average=from_average),
        optimizer=replace(CONFIG.optimizer, ema_decay=0.9),
    )
    step, batch = make_step(build_initial_model(config.model, ("cat", "dog"), 0).network, config), make_batch()
    for teacher in (step.average.module, step.network):
        torch.nn.init.normal_(teacher.head.weight, std=0.3)
    images = normalise(batch.images, MEAN, STD)
    term = SeedTerm(weight=0.5, background_threshold=0.3, foreground_threshold=0.5)
    expected = {}
    for name, teacher in (("average", step.average.module), ("own", step.network)):
        output = step.network.train()(images)
        expected[name] = compute_loss(
            output, batch.image_labels, Variant.V2, seed_term=term, seed_source=teacher.eval()(images)
        ).seed_loss.item()
    assert expected["average"] != pytest.approx(expected["own"], rel=1e-3)
    taught = step.update(batch, score_soft_margin, term).losses["seed_loss"]
    assert taught == pytest.approx(expected["average" if from_average else "own"], rel=1e-4)
    assert all(parameter.grad is None for parameter in step.average.module.parameters())


def test_network_that_makes_seeds_drops_no_layers() -> None:
    model = replace(CONFIG.model, drop_path=0.5)
    config = replace(
        CONFIG,
        model=model,
        loss=LossConfig(seed_weight=0.5, seed_from_average=True),
        optimizer=replace(CONFIG.optimizer, ema_decay=0.9),
    )
    step = make_step(build_initial_model(model, ("cat", "dog"), 0).network, config)
    modes = []
    step.average.module.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    step.update(make_batch(), score_soft_margin, SeedTerm(0.5, 0.3, 0.5))
    step.update(make_batch(), score_soft_margin, SeedTerm(0.0, 0.3, 0.5))
    assert modes == [False], "it runs once for each batch with a seed loss, in evaluation mode"
    assert step.network.training


def test_normalised_pixels_have_the_mean_and_spread_of_the_backbone() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 1).view(1, 3, 1, 2)
    assert normalise(images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).tolist() == [[[[-1.0, 1.0]]] * 3]
