import json
from pathlib import Path
from typing import Any

import pytest

from jobs.recipes import RECIPES
from pipeline.errors import RunConflictError, TrainingError
from pipeline.run.fingerprint import compute_fingerprint, get_library_version
from pipeline.run.records import InputShard
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from pipeline.train import is_finished
from pipeline.training.config import AugmentConfig, ModelConfig, TrainConfig
from pipeline.training.data.survey import Survey
from pipeline.training.driver.checkpoints import SNAPSHOT_FILE
from pipeline.training.driver.run import TRAIN_FILE, claim, open_training, read_surveys, write_surveys
from pipeline.training.worker.state import CHECKPOINT_FOLDER

TINY = ModelConfig(image_size=32, patch_size=16, width=48, depth=2, num_heads=3)


def make_shard(name: str, size: int = 10) -> InputShard:
    return InputShard(uri=f"/in/{name}.tar", name=name, size_bytes=size, etag="e")


def open_at(out: Path, **changes: Any) -> Any:
    arguments = {
        "config": TrainConfig(model=TINY),
        "vocabulary": Vocabulary(classes=("cat", "dog")),
        "train_shards": [make_shard("a")],
        "validation_shards": [make_shard("b")],
    }
    return open_training(out_uri=str(out), **(arguments | changes))


def test_training_run_of_the_same_command_is_resumed(tmp_path: Path) -> None:
    run = open_at(tmp_path)
    claim(run)
    claim(run)
    assert open_at(tmp_path) == run


def test_opening_a_training_run_leaves_no_trace(tmp_path: Path) -> None:
    open_at(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_that_another_run_took_meanwhile_is_refused(tmp_path: Path) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path, config=TrainConfig(model=TINY, rng_seed=7))
    claim(first)
    with pytest.raises(RunConflictError, match="config.rng_seed was 0, is 7"):
        claim(second)


def test_training_run_of_another_configuration_is_refused_with_the_fields_that_differ(tmp_path: Path) -> None:
    claim(open_at(tmp_path))
    with pytest.raises(RunConflictError, match="config.rng_seed was 0, is 7; run the same command"):
        open_at(tmp_path, config=TrainConfig(model=TINY, rng_seed=7))


def test_training_run_on_a_changed_shard_is_refused_with_its_name(tmp_path: Path) -> None:
    claim(open_at(tmp_path))
    with pytest.raises(RunConflictError, match=r"train_shards./in/a.tar was '10 bytes, etag e', is '11 bytes, etag e'"):
        open_at(tmp_path, train_shards=[make_shard("a", size=11)])


def test_training_run_with_added_validation_is_refused_with_the_added_shard_alone(tmp_path: Path) -> None:
    claim(open_at(tmp_path, validation_shards=[]))
    with pytest.raises(RunConflictError, match=r"run: validation_shards./in/b.tar was absent, is .10 bytes"):
        open_at(tmp_path)


def test_training_and_validating_on_one_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'/in/a.tar' is among the training and the validation shards"):
        open_at(tmp_path, validation_shards=[make_shard("a")])


def test_place_is_read_from_the_checkpoint_that_ray_resumes_from(tmp_path: Path) -> None:
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


def test_folder_with_checkpoints_of_a_run_that_is_not_described_is_refused(tmp_path: Path) -> None:
    put_atomic(join_uri(str(tmp_path), CHECKPOINT_FOLDER, SNAPSHOT_FILE), b"{}")
    with pytest.raises(RunConflictError, match="has checkpoints but no train.json with the identity of their run"):
        open_at(tmp_path)


def test_training_run_of_another_recipe_is_refused_with_the_difference(tmp_path: Path) -> None:
    claim(open_at(tmp_path, config=RECIPES["v2"]()))
    with pytest.raises(RunConflictError) as refusal:
        open_at(tmp_path, config=RECIPES["plus"]())
    assert "config.model.variant was 'v2', is 'plus'" in str(refusal.value)
    assert "config.optimizer.batch_size was 64, is 32" in str(refusal.value)


def test_training_run_of_a_version_without_some_setting_is_refused_with_both_versions(tmp_path: Path) -> None:
    run = open_at(tmp_path)
    claim(run)
    place = tmp_path / TRAIN_FILE
    record = json.loads(place.read_text()) | {"fingerprint": "of then", "library_version": "0.0.1"}
    del record["config"]["optimizer"]["head_lr_factor"]
    place.write_text(json.dumps(record))
    with pytest.raises(
        RunConflictError, match=r"started by version 0\.0\.1, this is .*head_lr_factor was absent, is 1.0"
    ):
        open_at(tmp_path)


def test_training_run_of_an_earlier_format_is_refused_with_the_format(tmp_path: Path) -> None:
    """Its images were augmented otherwise, so the rest of the run would not be that of its beginning."""
    run = open_at(tmp_path)
    claim(run)
    place = tmp_path / TRAIN_FILE
    identity = run.identity | {"format_version": 3}
    record = identity | {"fingerprint": compute_fingerprint(identity), "library_version": "0.3.0"}
    place.write_text(json.dumps(record))
    with pytest.raises(RunConflictError, match=r"started by version 0\.3\.0, .*format_version was 3, is \d+; .* --out"):
        open_at(tmp_path)


@pytest.mark.parametrize("policy", ["augmix-m5-w4", "rand-m9-tweights"])
@pytest.mark.parametrize("library_version", ["0.3.0", get_library_version()])
def test_training_run_of_a_policy_that_is_no_longer_known_is_refused_with_the_version_that_knows_it(
    tmp_path: Path, policy: str, library_version: str
) -> None:
    """The same command cannot be given: so many options differ, and the format is named before them."""
    config = TrainConfig(model=TINY, augment=AugmentConfig(rand_augment="", color_jitter=0.1, flip=0.2))
    identity = open_at(tmp_path, config=config).identity | {"format_version": 3}
    identity["config"]["augment"] |= {"rand_augment": policy, "min_crop_fraction": 0.5, "random_erasing": 0.0}
    identity["config"] |= {"precision": "bf16", "rng_seed": 7, "shuffle_window": 64, "validate_every": 2}
    record = identity | {"fingerprint": compute_fingerprint(identity), "library_version": library_version}
    put_atomic(join_uri(str(tmp_path), TRAIN_FILE), json.dumps(record).encode())
    with pytest.raises(
        RunConflictError, match=rf"started by version {library_version}, .*: format_version was 3, is 4; .*'{policy}'"
    ):
        open_at(tmp_path)


def test_fingerprint_of_the_data_depends_on_shards_and_vocabulary_alone(tmp_path: Path) -> None:
    first, again = open_at(tmp_path), open_at(tmp_path, config=TrainConfig(model=TINY, rng_seed=7))
    assert first.data_fingerprint == again.data_fingerprint
    assert first.fingerprint != again.fingerprint
    others = [
        open_at(tmp_path, train_shards=[make_shard("a", size=11)]),
        open_at(tmp_path, validation_shards=[]),
        open_at(tmp_path, vocabulary=Vocabulary(classes=("dog", "cat"))),
    ]
    assert len({run.data_fingerprint for run in (first, *others)}) == 4


def test_training_run_is_finished_once_the_bundle_has_its_description(tmp_path: Path) -> None:
    run = open_at(tmp_path)
    put_atomic(join_uri(run.bundle_uri, "model.safetensors"), b"")
    assert not is_finished(run)
    put_atomic(join_uri(run.bundle_uri, "model.json"), b"")
    assert is_finished(run)


def test_surveys_written_with_a_run_are_read_again(tmp_path: Path) -> None:
    run = open_at(tmp_path)
    assert read_surveys(run) is None
    survey = Survey(num_samples=3, num_usable=2)
    survey.unknown_tags["film"] = 2
    survey.images_per_class[1] = 2
    write_surveys(run, {"train": survey})
    assert read_surveys(run) == {"train": survey}
