import json
from dataclasses import replace
from typing import Any

import pytest

from jobs.recipes import RECIPES
from jobs.train import parse_command
from pipeline.training.config import (
    AugmentConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    WorkerConfig,
    describe_train_config,
)
from pipeline.training.worker.schedule import choose_seed_term


@pytest.mark.parametrize("name", RECIPES)
def test_configuration_of_every_recipe_survives_json(name: Any) -> None:
    described = describe_train_config(RECIPES[name]())
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize(
    ("name", "image_size", "epochs", "batch_size"), [("v1", 224, 60, 64), ("v2", 224, 60, 64), ("plus", 448, 45, 32)]
)
def test_recipes_of_the_authors_have_the_settings_of_their_code(
    name: str, image_size: int, epochs: int, batch_size: int
) -> None:
    config = RECIPES[name]()
    model, optimizer, augment, loss = config.model, config.optimizer, config.augment, config.loss
    assert (model.variant, model.image_size, model.drop_path) == (name, image_size, 0.1)
    assert (optimizer.epochs, optimizer.batch_size, optimizer.warmup_epochs) == (epochs, batch_size, 5.0)
    assert (optimizer.base_lr, optimizer.weight_decay) == (5e-4, 0.05)
    assert (optimizer.token_lr_factor, optimizer.head_lr_factor) == (1.0, 1.0)
    assert augment.rand_augment.startswith("rand-m9-")
    assert (augment.random_erasing, augment.min_crop_fraction) == (0.25, 0.08)
    assert (model.token_spread, loss.seed_weight, loss.class_balance) == (0.0, 0.0, 0.0)
    if name == "plus":
        assert (model.rank_decay, model.contrast_weight) == (0.996, 1.0)


def test_peak_learning_rate_scales_with_the_batch() -> None:
    assert OptimizerConfig(batch_size=64, base_lr=5e-4).peak_lr == pytest.approx(6.25e-5)


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: OptimizerConfig(epochs=5, warmup_epochs=5.0), "0 <= warmup_epochs < epochs, got 5.0 and 5"),
        (lambda: OptimizerConfig(batch_size=0), "batch_size >= 1, got 0"),
        (lambda: OptimizerConfig(base_lr=0.0), "base_lr > 0"),
        (lambda: OptimizerConfig(clip_norm=-1.0), "clip_norm > 0 or None, got -1.0"),
        (lambda: ModelConfig(image_size=100), "divisible by patch_size, got 100 and 16"),
        (lambda: ModelConfig(drop_path=1.0), "0 <= drop_path < 1, got 1.0"),
        (lambda: AugmentConfig(min_crop_fraction=0.0), "0 < min_crop_fraction <= 1, got 0.0"),
        (lambda: ModelConfig(token_spread=-1.0), "token_spread >= 0, got -1.0"),
        (lambda: OptimizerConfig(ema_decay=1.0), "0 <= ema_decay < 1, got 1.0"),
        (lambda: OptimizerConfig(token_lr_factor=0.0), "token_lr_factor > 0, got 0.0"),
        (lambda: OptimizerConfig(head_lr_factor=-1.0), "head_lr_factor > 0, got -1.0"),
        (lambda: LossConfig(negative_margin=1.0), "0 <= negative_margin < 1, got 1.0"),
        (lambda: LossConfig(seed_affinity_steps=-1), "seed_affinity_steps >= 0, got -1"),
        (lambda: WorkerConfig(num_workers=2, min_workers=3), "1 <= min_workers <= num_workers, got 3 and 2"),
        (lambda: WorkerConfig(max_failures=-1), "max_failures >= 0, got -1"),
        (lambda: WorkerConfig(resize_interval_s=-1.0), "resize_interval_s >= 0, got -1.0"),
        (lambda: WorkerConfig(cpus_per_worker=0.0), "cpus_per_worker > 0, got 0.0"),
        (lambda: AugmentConfig(random_erasing=1.5), "0 <= random_erasing <= 1, got 1.5"),
    ],
)
def test_configuration_out_of_range_is_refused_with_its_values(build: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build()


TRAIN = ("--recipe", "v2", "--shards", "a.tar", "--vocabulary", "v.json", "--out", "o")


@pytest.mark.parametrize(
    "words",
    [("--workers", "8:64"), ("--workers=8:64",), ("--min-workers", "8", "--num-workers=64"), ("--num-workers=8:64",)],
)
def test_range_of_workers_is_elastic(words: tuple[str, ...]) -> None:
    assert parse_command([*TRAIN, *words]).count_workers() == (8, 64)


@pytest.mark.parametrize(
    "words", [("--workers", "64"), ("--workers=64",), ("--num-workers", "64"), ("--num_workers=64",)]
)
def test_number_of_workers_is_fixed(words: tuple[str, ...]) -> None:
    assert parse_command([*TRAIN, *words]).count_workers() == (64, 64)


@pytest.mark.parametrize("workers", ["0", "many", "8:", "64:8", "0:8", "1:2:3"])
def test_workers_that_are_neither_number_nor_range_are_refused(workers: str) -> None:
    with pytest.raises(ValueError, match=f"need --workers to be a number .*, got '{workers}'"):
        parse_command([*TRAIN, "--workers", workers])


@pytest.mark.parametrize("words", [("--inputs.tags-field", "caption"), ("--inputs.tags_field=caption",)])
def test_options_of_the_inputs_may_be_written_as_in_labelling(words: tuple[str, ...]) -> None:
    job = parse_command(["--recipe", "v2", "--shards", "a.tar", "--vocabulary", "v.json", "--out", "o", *words])
    assert job.config.inputs.tags_field == "caption"


def test_option_of_another_group_is_refused_under_the_prefix_of_the_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--recipe", "v2", "--shards", "a.tar", "--vocabulary", "v.json", "--out", "o"]
    with pytest.raises(SystemExit):
        parse_command([*command, "--inputs.epochs", "3"])
    assert "--inputs.epochs" in "".join(capsys.readouterr())


def test_seeds_that_would_start_after_the_last_epoch_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--recipe", "seeded", "--shards", "a.tar", "--vocabulary", "v.json", "--out", "o", "--epochs", "1"]
    with pytest.raises(SystemExit, match="2"):
        parse_command(command)
    printed = " ".join(capsys.readouterr().err.split())
    assert "need seed_start_epochs < epochs for a seed_weight of 0.5, got 1.0 and 1" in printed
    assert "give more epochs or a smaller seed_start_epochs, or set seed_weight to 0" in printed
    assert parse_command([*command, "--seed-start-epochs", "0.5"]).config.loss.seed_weight == 0.5
    assert parse_command([*command, "--seed-weight", "0"]).config.optimizer.epochs == 1


def test_seed_loss_without_patch_head_is_refused() -> None:
    with pytest.raises(ValueError, match="v1, which has no patch head"):
        TrainConfig(model=ModelConfig(variant="v1"), loss=LossConfig(seed_weight=0.5))


def test_seeds_of_a_missing_average_are_refused() -> None:
    loss = LossConfig(seed_weight=0.5, seed_from_average=True)
    with pytest.raises(ValueError, match=r"need ema_decay > 0 for seed_from_average, got 0\.0"):
        TrainConfig(loss=loss)
    assert TrainConfig(loss=loss, optimizer=OptimizerConfig(ema_decay=0.9)).loss == loss
    # Without seeds the average is not needed.
    assert TrainConfig(loss=replace(loss, seed_weight=0.0)).optimizer.ema_decay == 0


def test_seed_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0.6 and 0.5"):
        LossConfig(seed_background_threshold=0.6)


def test_seed_loss_without_absent_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="seed_background_threshold > 0 for a seed_weight of 0.5, got 0"):
        LossConfig(seed_weight=0.5, seed_background_threshold=0.0)
    assert LossConfig(seed_background_threshold=0.0).seed_weight == 0


def test_seed_weight_starts_at_zero_and_grows_over_an_epoch() -> None:
    config = LossConfig(seed_weight=0.5, seed_start_epochs=2.0, seed_affinity_steps=2, seed_attention_share=0.3)
    assert choose_seed_term(LossConfig(), 9.0) is None
    weights = [choose_seed_term(config, position).weight for position in (0.0, 2.0, 2.5, 3.0, 9.0)]
    assert weights == [0.0, 0.0, 0.25, 0.5, 0.5]
    term = choose_seed_term(config, 3.0)
    assert (term.affinity_steps, term.attention_share) == (2, 0.3)
