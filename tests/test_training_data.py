import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.data import DataContext

from pipeline.augmentation import augment_image, augment_samples, make_transform
from pipeline.config import InputConfig
from pipeline.records import InputShard
from pipeline.shards import list_shards
from pipeline.training_config import AugmentConfig, ModelConfig, TrainConfig
from pipeline.training_data import SAMPLE_SCHEMA, SampleSource, read_epoch, shuffle_in_window
from pipeline.training_seeds import derive_seed
from pipeline.training_survey import Survey, group_evenly, survey_shards
from pipeline.vocabulary import Vocabulary
from tests.factories import make_photo, make_tar

VOCABULARY = Vocabulary(classes=("cat", "dog"))
CONFIG = TrainConfig(model=ModelConfig(image_size=32), shuffle_window=4)
TAGS = (["cat"], ["dog", "cat"], ["film"], ["Dog", "film"])


@pytest.fixture
def shards(tmp_path):
    for number in range(3):
        samples = {
            f"photo{number}_{place}": {"jpg": make_photo(place), "json": json.dumps({"tags": tags}).encode()}
            for place, tags in enumerate(TAGS)
        }
        samples[f"bare{number}"] = {"json": b'{"tags": ["cat"]}'}
        make_tar(tmp_path / f"train-{number}.tar", samples)
    return list_shards([str(tmp_path / "train-{0..2}.tar")])


def list_keys(source, epoch):
    context = DataContext()
    context._execution_idx = epoch
    tasks = source.get_read_tasks(1, data_context=context)
    return [key for task in tasks for table in task() for key in table["key"].to_pylist()]


def test_survey_counts_images_of_each_class_unknown_tags_and_unusable_samples(shards):
    survey = survey_shards(shards, VOCABULARY, InputConfig())
    assert (survey.num_samples, survey.num_usable) == (15, 9)
    assert survey.unusable == {"no_known_tag": 3, "no_image": 3}
    assert survey.images_per_class == {1: 6, 2: 6}
    assert survey.unknown_tags == {"film": 6}


def test_surveys_of_single_shards_add_up_to_the_survey_of_all(shards):
    parts = [survey_shards([shard], VOCABULARY, InputConfig()) for shard in shards]
    assert sum(parts, Survey()) == survey_shards(shards, VOCABULARY, InputConfig())


def test_training_samples_come_in_another_order_each_epoch_and_each_exactly_once(shards):
    source = SampleSource(shards, VOCABULARY, CONFIG, is_training=True)
    first, again, second = list_keys(source, 0), list_keys(source, 0), list_keys(source, 1)
    assert first == again
    assert first != second
    assert len(first) == 9
    assert sorted(first) == sorted(second) == sorted(set(first))


def test_training_samples_of_a_resumed_run_are_those_of_the_epoch_that_comes_next(shards):
    whole = SampleSource(shards, VOCABULARY, CONFIG, is_training=True)
    resumed = SampleSource(shards, VOCABULARY, CONFIG, is_training=True, first_epoch=5)
    assert list_keys(resumed, 1) == list_keys(whole, 6)


def test_validation_samples_keep_the_order_of_their_shards(shards):
    source = SampleSource(shards, VOCABULARY, CONFIG, is_training=False)
    assert list_keys(source, 0) == [f"photo{number}_{place}" for number in range(3) for place in (0, 1, 3)]


def test_shard_without_usable_samples_still_gives_a_table_with_all_columns(tmp_path):
    make_tar(tmp_path / "empty.tar", {"photo": {"jpg": make_photo(0), "json": b'{"tags": []}'}})
    shards = list_shards([str(tmp_path / "empty.tar")])
    tables = list(read_epoch(shards, VOCABULARY, InputConfig(), 4, 0, 0, 0))
    assert [(table.num_rows, table.schema) for table in tables] == [(0, SAMPLE_SCHEMA)]


@given(st.integers(0, 30), st.integers(1, 10))
def test_shuffling_in_a_window_keeps_every_row_and_never_draws_beyond_the_window(num_rows, window):
    rows = [{"key": number} for number in range(num_rows)]
    shuffled = [row["key"] for row in shuffle_in_window(iter(rows), window, np.random.default_rng(0))]
    assert sorted(shuffled) == list(range(num_rows))
    assert all(key <= place + window for place, key in enumerate(shuffled))


@given(st.integers(1, 20), st.integers(1, 8))
def test_groups_of_shards_are_even_and_hold_each_shard_once(num_shards, num_groups):
    shards = [InputShard(uri=f"{n}.tar", name=f"{n}", size_bytes=1, etag="") for n in range(num_shards)]
    groups = group_evenly(shards, num_groups)
    sizes = [len(group) for group in groups]
    assert sorted(shard.name for group in groups for shard in group) == sorted(shard.name for shard in shards)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_augmented_image_is_the_same_in_a_retry_and_another_in_the_next_epoch():
    transform = make_transform(32, AugmentConfig())
    photo = make_photo(0)
    first, again, other = (
        augment_image(photo, transform, derive_seed(0, epoch, "image/a"), 32, 10**6) for epoch in (0, 0, 1)
    )
    assert first.shape == (3, 32, 32)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_validation_image_does_not_depend_on_the_seed():
    transform = make_transform(32, None)
    first, other = (augment_image(make_photo(0), transform, seed, 32, 10**6) for seed in (0, 1))
    assert np.array_equal(first, other)


def test_strongest_draws_of_the_default_policy_do_not_fail():
    transform = make_transform(16, AugmentConfig())
    photo = make_photo(1)
    assert all(augment_image(photo, transform, seed, 16, 10**6).shape == (3, 16, 16) for seed in range(300))


def test_image_that_cannot_be_decoded_is_reported_and_left_out():
    batch = {
        "key": np.array(["good", "bad"]),
        "epoch": np.array([0, 0]),
        "image": np.array([make_photo(0), b"no image"], dtype=object),
        "class_ids": np.array([[2], [1]], dtype=object),
    }
    rejected = {}
    images = augment_samples(batch, CONFIG, 2, True, rejected.__setitem__)
    assert images["image"].shape == (1, 3, 32, 32)
    assert images["image_labels"].tolist() == [[False, True]]
    assert list(rejected) == ["bad"]
    assert rejected["bad"].startswith("undecodable: ")


def test_batch_of_nothing_but_broken_images_has_the_shape_of_no_images():
    batch = {
        "key": np.array(["bad"]),
        "epoch": np.array([0]),
        "image": np.array([b"x"], dtype=object),
        "class_ids": np.array([[1]]),
    }
    images = augment_samples(batch, CONFIG, 2, True, lambda key, error: None)
    assert images["image"].shape == (0, 3, 32, 32)
    assert images["image_labels"].shape == (0, 2)
