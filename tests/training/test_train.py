import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.recipes import RECIPES
from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.errors import RunConflictError, TrainingError
from pipeline.run.records import InputShard
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.storage import join_uri, put_atomic
from pipeline.train import describe_failure, describe_provenance, describe_rule, find_shortage, is_finished
from pipeline.training.config import ModelConfig, OptimizerConfig, TrainConfig, WorkerConfig
from pipeline.training.data.survey import Survey
from pipeline.training.driver.run import (
    CHECKPOINT_FOLDER,
    SNAPSHOT_FILE,
    TRAIN_FILE,
    claim,
    open_training,
    read_surveys,
    write_surveys,
)
from pipeline.training.events import NonFiniteLoss
from pipeline.training.worker.network import build_initial_model
from pipeline.training.worker.schedule import (
    compute_learning_rate,
    make_optimizer,
    read_learning_rate,
    set_learning_rate,
    update_average,
)
from pipeline.training.worker.step import normalise
from tests.training.driver.test_log import make_epoch

OPTIMIZER = OptimizerConfig(epochs=10, batch_size=64, warmup_epochs=2.0)
TINY = ModelConfig(image_size=32, patch_size=16, width=48, depth=2, num_heads=3)


def test_learning_rate_warms_up_linearly_and_ends_at_its_minimum():
    rates = [compute_learning_rate(position, OPTIMIZER) for position in (0.0, 1.0, 2.0, 6.0, 10.0)]
    peak = OPTIMIZER.peak_lr
    assert rates == pytest.approx([1e-6, (1e-6 + peak) / 2, peak, (peak + 1e-5) / 2, 1e-5])


@given(st.floats(2, 12), st.floats(2, 12))
def test_learning_rate_never_rises_after_the_warm_up(first, second):
    first, second = sorted((first, second))
    assert compute_learning_rate(first, OPTIMIZER) >= compute_learning_rate(second, OPTIMIZER) >= OPTIMIZER.min_lr


def make_small_network(variant):
    return MCTformer(
        MCTformerConfig(variant=variant, num_classes=2, image_size=32, patch_size=16, width=48, depth=1, num_heads=3)
    )


@pytest.mark.parametrize("variant", Variant)
def test_optimizer_decays_matrices_but_no_vectors_tokens_or_positions(variant):
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
def test_class_tokens_and_patch_head_have_learning_rates_of_their_own(variant):
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


def test_average_follows_the_weights_closely_at_first_and_slowly_later():
    average = torch.zeros(1)
    update_average([average], [torch.ones(1)], 1, decay=0.99)
    assert float(average) == pytest.approx(1 - 2 / 11)
    average = torch.zeros(1)
    update_average([average], [torch.ones(1)], 10_000, decay=0.99)
    assert float(average) == pytest.approx(0.01)


def test_normalised_pixels_have_the_mean_and_spread_of_the_backbone():
    images = torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 1).view(1, 3, 1, 2)
    assert normalise(images, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).tolist() == [[[[-1.0, 1.0]]] * 3]


def test_initial_weights_depend_on_the_seed_alone():
    first, again, other = (
        build_initial_model(TINY, ("cat", "dog"), rng_seed).network.cls_token for rng_seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_class_tokens_can_be_told_apart_at_the_start():
    weights = ModelConfig(backbone="vit_tiny_patch16_224", backbone_weights="none", image_size=32)
    plain, spread = (
        build_initial_model(replace(weights, token_spread=value), ("cat", "dog"), 0).network for value in (0.0, 1.0)
    )
    before, after = plain.cls_token.detach(), spread.cls_token.detach()
    assert float((after - before).std() / before.std()) == pytest.approx(1.0, abs=0.1)
    assert torch.equal(spread.pos_embed, plain.pos_embed)


def test_initial_model_of_a_timm_name_takes_its_sizes_and_inputs():
    config = ModelConfig(backbone="vit_tiny_patch16_224", backbone_weights="none", image_size=64)
    network, mean, std = build_initial_model(config, ("cat", "dog"), rng_seed=0)
    assert (network.config.width, network.config.num_heads, network.config.num_classes) == (192, 3, 2)
    assert (mean, std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def make_shard(name, size=10):
    return InputShard(uri=f"/in/{name}.tar", name=name, size_bytes=size, etag="e")


def open_at(out, **changes):
    arguments = {
        "config": TrainConfig(model=TINY),
        "vocabulary": Vocabulary(classes=("cat", "dog")),
        "train_shards": [make_shard("a")],
        "validation_shards": [make_shard("b")],
    }
    return open_training(out_uri=str(out), **(arguments | changes))


def test_training_run_of_the_same_command_is_taken_up_again(tmp_path):
    run = open_at(tmp_path)
    claim(run)
    claim(run)
    assert open_at(tmp_path) == run


def test_opening_a_training_run_leaves_no_trace(tmp_path):
    open_at(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_that_another_run_took_meanwhile_is_refused(tmp_path):
    first, second = open_at(tmp_path), open_at(tmp_path, config=TrainConfig(model=TINY, rng_seed=7))
    claim(first)
    with pytest.raises(RunConflictError, match="config.rng_seed was 0, is 7"):
        claim(second)


def test_training_run_of_another_configuration_is_refused_with_the_fields_that_differ(tmp_path):
    claim(open_at(tmp_path))
    with pytest.raises(RunConflictError, match="config.rng_seed was 0, is 7; give the same command"):
        open_at(tmp_path, config=TrainConfig(model=TINY, rng_seed=7))


def test_training_run_on_a_changed_shard_is_refused_with_its_name(tmp_path):
    claim(open_at(tmp_path))
    with pytest.raises(RunConflictError, match=r"train_shards./in/a.tar was 10 bytes, etag e, is 11 bytes, etag e"):
        open_at(tmp_path, train_shards=[make_shard("a", size=11)])


def test_training_and_validating_on_one_shard_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'/in/a.tar' is among the training and the validation shards"):
        open_at(tmp_path, validation_shards=[make_shard("a")])


def test_place_is_read_from_the_checkpoint_that_ray_resumes_from(tmp_path):
    run = open_at(tmp_path)
    assert run.read_place() == (0, 0)
    uri = join_uri(str(tmp_path), CHECKPOINT_FOLDER, SNAPSHOT_FILE)
    put_atomic(uri, b'{"latest_checkpoint_result": {"checkpoint_dir_name": "epoch-0007", "metrics": {}}}')
    assert run.read_place() == (7, 0)
    put_atomic(uri, b'{"latest_checkpoint_result": {"checkpoint_dir_name": "epoch-0007-003200", "metrics": {}}}')
    assert run.read_place() == (7, 3200)
    put_atomic(uri, b"{}")
    with pytest.raises(TrainingError, match="is not Ray Train's record"):
        run.read_place()


def test_folder_with_checkpoints_of_a_run_that_is_not_described_is_refused(tmp_path):
    put_atomic(join_uri(str(tmp_path), CHECKPOINT_FOLDER, SNAPSHOT_FILE), b"{}")
    with pytest.raises(RunConflictError, match="holds checkpoints, but no train.json that says of which run"):
        open_at(tmp_path)


def test_training_run_of_another_recipe_is_refused_with_the_difference(tmp_path):
    claim(open_at(tmp_path, config=RECIPES["v2"]()))
    with pytest.raises(RunConflictError) as refusal:
        open_at(tmp_path, config=RECIPES["plus"]())
    assert "config.model.variant was v2, is plus" in str(refusal.value)
    assert "config.optimizer.batch_size was 64, is 32" in str(refusal.value)


def test_training_run_of_a_version_without_some_setting_is_refused_with_both_versions(tmp_path):
    run = open_at(tmp_path)
    claim(run)
    place = tmp_path / TRAIN_FILE
    record = json.loads(place.read_text()) | {"fingerprint": "of then", "library_version": "0.0.1"}
    del record["config"]["optimizer"]["head_lr_factor"]
    place.write_text(json.dumps(record))
    with pytest.raises(
        RunConflictError, match=r"begun by version 0\.0\.1, this is .*head_lr_factor was absent, is 1.0"
    ):
        open_at(tmp_path)


def test_fingerprint_of_the_data_depends_on_shards_and_vocabulary_alone(tmp_path):
    first, again = open_at(tmp_path), open_at(tmp_path, config=TrainConfig(model=TINY, rng_seed=7))
    assert first.data_fingerprint == again.data_fingerprint
    assert first.fingerprint != again.fingerprint
    others = [
        open_at(tmp_path, train_shards=[make_shard("a", size=11)]),
        open_at(tmp_path, validation_shards=[]),
        open_at(tmp_path, vocabulary=Vocabulary(classes=("dog", "cat"))),
    ]
    assert len({run.data_fingerprint for run in (first, *others)}) == 4


def test_model_tells_its_data_and_libraries(tmp_path):
    run = open_at(tmp_path)
    provenance = describe_provenance(run, {"train": Survey(num_samples=3, num_usable=2)})
    assert provenance["data_fingerprint"] == run.data_fingerprint
    assert provenance["run_fingerprint"] == run.fingerprint
    assert provenance["data"] == {"train": {"num_samples": 3, "num_usable": 2}}
    assert provenance["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_rule_for_the_best_epoch_is_said_in_words():
    validated = make_epoch(1)
    both = {**validated, "patch_validation": {"mean_average_precision": 0.5}}
    assert describe_rule([{**validated, "validation": None}]).startswith("the last")
    assert "of class scores on" in describe_rule([validated])
    assert "of class and patch scores on" in describe_rule([validated, both])


@pytest.mark.parametrize(("is_gradient", "what"), [(False, "the loss"), (True, "the gradient of the loss")])
def test_failure_names_what_is_not_finite_and_the_first_images(is_gradient, what):
    keys = tuple(f"photo{n}" for n in range(10))
    message = describe_failure(NonFiniteLoss(epoch=2, step=3, keys=keys, is_gradient=is_gradient))
    assert message.startswith(f"{what} is not finite in epoch 2, step 3; images of the batch: 'photo0', 'photo1'")
    assert "'photo7' and 2 more" in message


def test_training_run_is_finished_once_the_bundle_has_its_description(tmp_path):
    run = open_at(tmp_path)
    put_atomic(join_uri(run.bundle_uri, "model.safetensors"), b"")
    assert not is_finished(run)
    put_atomic(join_uri(run.bundle_uri, "model.json"), b"")
    assert is_finished(run)


def test_surveys_written_with_a_run_are_read_again(tmp_path):
    run = open_at(tmp_path)
    assert read_surveys(run) is None
    survey = Survey(num_samples=3, num_usable=2)
    survey.unknown_tags["film"] = 2
    survey.images_per_class[1] = 2
    write_surveys(run, {"train": survey})
    assert read_surveys(run) == {"train": survey}


def test_learning_rate_is_finite_without_warm_up():
    rate = compute_learning_rate(0.0, OptimizerConfig(epochs=1, warmup_epochs=0.0))
    assert math.isfinite(rate)
    assert np.isclose(rate, 6.25e-5)


def test_workers_that_leave_no_slot_for_images_are_told():
    assert find_shortage(WorkerConfig(num_workers=2), 4.0, 0.0) is None
    shortage = find_shortage(WorkerConfig(num_workers=4), 4.0, 0.0)
    assert "the cluster has 4 CPU slots: 4 workers would leave none" in shortage


def test_range_of_workers_is_judged_by_those_that_would_start():
    on_gpus = WorkerConfig(min_workers=1, num_workers=8, gpus_per_worker=1.0)
    assert find_shortage(on_gpus, 4.0, 1.0) is None
    assert "4 CPU slots: 4 workers would leave none" in find_shortage(on_gpus, 4.0, 8.0)
    # On CPUs the range takes all the slots that there are.
    on_cpus = WorkerConfig(min_workers=1, num_workers=8)
    assert "4 CPU slots: 4 workers would leave none" in find_shortage(on_cpus, 4.0, 0.0)
    assert find_shortage(on_cpus, 10.0, 0.0) is None
    assert "1 CPU slots: 2 workers would leave none" in find_shortage(WorkerConfig(num_workers=2), 1.0, 0.0)


def test_gpus_that_the_least_number_of_workers_lacks_are_told():
    shortage = find_shortage(WorkerConfig(min_workers=2, num_workers=8, gpus_per_worker=1.0), 64.0, 1.0)
    assert "the cluster has 1 GPUs and 2 workers of 1 each want 2" in shortage
    assert "the cluster has 0 GPUs and 1 worker of 0.5 each" in find_shortage(
        WorkerConfig(gpus_per_worker=0.5), 64.0, 0.0
    )
