import io
import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation

from pipeline.errors import ShardError
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard
from pipeline.run.vocabulary import Vocabulary
from pipeline.training.config import AugmentConfig, ModelConfig, TrainConfig
from pipeline.training.data.augmentation import augment_image, augment_samples, draw_crop, make_variation
from pipeline.training.data.epoch_order import VALIDATION, group_shards, list_pieces
from pipeline.training.data.prefetch import BatchFeeder, make_batch
from pipeline.training.data.stream import list_parts, rebatch, shuffle_in_window
from pipeline.training.data.survey import Survey, digest_keys, group_evenly, survey_shards
from pipeline.training.seeds import derive_seed
from tests.factories import make_photo, make_tar

VOCABULARY = Vocabulary(classes=("cat", "dog"))
CONFIG = TrainConfig(model=ModelConfig(image_size=32), shuffle_window=4)
TAGS = (["cat"], ["dog", "cat"], ["film"], ["Dog", "film"])


@pytest.fixture
def shards(tmp_path: Path) -> tuple[InputShard, ...]:
    for number in range(3):
        samples = {
            f"photo{number}_{place}": {"jpg": make_photo(place), "json": json.dumps({"tags": tags}).encode()}
            for place, tags in enumerate(TAGS)
        }
        samples[f"bare{number}"] = {"json": b'{"tags": ["cat"]}'}
        make_tar(tmp_path / f"train-{number}.tar", samples)
    return list_shards([str(tmp_path / "train-{0..2}.tar")])


def list_pieces_of(shards: Any, epoch: Any, window: int = 4, share: Any = None) -> list[Any]:
    usable = survey_shards(shards, VOCABULARY, InputConfig()).usable_per_shard
    groups = group_shards(shards, usable, window=window, rng_seed=0, epoch=epoch)
    return list(list_pieces(groups, share or [(0, sum(usable.values()))], epoch))


def read_keys(pieces: Any) -> list[Any]:
    parts = list_parts(pieces, VOCABULARY, CONFIG)
    return [key for part in parts for table in part.read() for key in table["key"].to_pylist()]


def test_survey_counts_images_of_each_class_unknown_tags_and_unusable_samples(shards: list[InputShard]) -> None:
    survey = survey_shards(shards, VOCABULARY, InputConfig())
    assert (survey.num_samples, survey.num_usable) == (15, 9)
    assert survey.unusable == {"no_known_tag": 3, "no_image": 3}
    assert survey.images_per_class == {1: 6, 2: 6}
    assert survey.unknown_tags == {"film": 6}


def test_surveys_of_single_shards_add_up_to_the_survey_of_all(shards: list[InputShard]) -> None:
    parts = [survey_shards([shard], VOCABULARY, InputConfig()) for shard in shards]
    assert sum(parts, Survey()) == survey_shards(shards, VOCABULARY, InputConfig())


def test_training_samples_have_another_order_each_epoch_and_occur_exactly_once(shards: list[InputShard]) -> None:
    first, again, second = (read_keys(list_pieces_of(shards, epoch)) for epoch in (0, 0, 1))
    assert first == again
    assert first != second
    assert len(first) == 9
    assert sorted(first) == sorted(second) == sorted(set(first))


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 12))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shares_of_an_epoch_add_up_to_the_epoch(shards: list[InputShard], cuts: list[int], window: int) -> None:
    bounds = [0, *sorted(cuts), 9]
    whole = read_keys(list_pieces_of(shards, 3, window))
    parts = [list_pieces_of(shards, 3, window, [(start, stop)]) for start, stop in pairwise(bounds) if stop > start]
    assert [key for part in parts for key in read_keys(part)] == whole


def test_validation_samples_keep_the_order_of_their_shards(shards: list[InputShard]) -> None:
    keys = read_keys(list_pieces_of(shards, VALIDATION))
    assert keys == [f"photo{number}_{place}" for number in range(3) for place in (0, 1, 3)]


def test_shard_that_changed_after_the_survey_is_an_error(shards: list[InputShard]) -> None:
    pieces = list_pieces_of(shards, 0)
    Path(shards[0].uri).write_bytes(b"other")
    with pytest.raises(ShardError, match="changed"):
        read_keys(pieces)


def test_training_images_with_the_key_of_a_validation_image_are_counted(shards: list[InputShard]) -> None:
    digests = digest_keys(shards[:1], InputConfig())
    survey = sum((survey_shards([s], VOCABULARY, InputConfig(), digests) for s in shards), Survey())
    assert (survey.num_shared, survey.shared_keys) == (3, ("photo0_0", "photo0_1", "photo0_3"))


def test_rows_are_cut_into_batches_of_the_given_sizes() -> None:
    blocks = [{"key": np.arange(start, stop)} for start, stop in ((0, 3), (3, 3), (3, 10))]
    batches = [[key for part in batch for key in part["key"].tolist()] for batch in rebatch(iter(blocks), [4, 0, 5, 1])]
    assert batches == [[0, 1, 2, 3], [], [4, 5, 6, 7, 8], [9]]


@pytest.mark.parametrize(("sizes", "complaint"), [([4, 7], "ended 1 rows early"), ([4, 5], "1 rows too many")])
def test_rows_that_do_not_fit_the_batches_are_an_error(sizes: list[int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        list(rebatch(iter([{"key": np.arange(10)}]), sizes))


@given(st.integers(0, 30), st.integers(1, 10))
def test_shuffling_in_a_window_keeps_every_row_and_draws_only_from_the_window(num_rows: int, window: int) -> None:
    rows = [{"key": number} for number in range(num_rows)]
    shuffled = [row["key"] for row in shuffle_in_window(iter(rows), window, np.random.default_rng(0))]
    assert sorted(shuffled) == list(range(num_rows))
    assert all(key <= place + window for place, key in enumerate(shuffled))


@given(st.integers(1, 20), st.integers(1, 8))
def test_groups_of_shards_are_even_and_hold_each_shard_once(num_shards: int, num_groups: int) -> None:
    shards = [InputShard(uri=f"{n}.tar", name=f"{n}", size_bytes=1, etag="") for n in range(num_shards)]
    groups = group_evenly(shards, num_groups)
    sizes = [len(group) for group in groups]
    assert sorted(shard.name for group in groups for shard in group) == sorted(shard.name for shard in shards)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_augmented_image_is_the_same_in_a_retry_and_another_in_the_next_epoch() -> None:
    variation = make_variation(32, AugmentConfig())
    photo = make_photo(0)
    first, again, other = (
        augment_image(photo, variation, derive_seed(0, epoch, "image/a"), 10**6) for epoch in (0, 0, 1)
    )
    assert first.image.shape == (3, 32, 32)
    assert first.image.dtype == np.uint8
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.operations, again.operations)
    assert not np.array_equal(first.image, other.image)


def test_augmented_sample_is_the_same_in_any_batch_and_process() -> None:
    samples = [(f"photo{number}", 3, make_photo(number), [1]) for number in range(6)]
    whole = augment_samples(make_encoded(*samples), CONFIG, 2, lambda key, error: None)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    parts = [
        augment_samples(make_encoded(*part), CONFIG, 2, lambda key, error: None) for part in (samples[:4], samples[4:])
    ]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        parts += [pool.submit(augment_quietly, make_encoded(*samples)).result()]
    assert whole["operations"][:, :, 0].any()
    for name, column in whole.items():
        assert np.array_equal(np.concatenate([part[name] for part in parts]), np.concatenate([column, column]))


def augment_quietly(batch: dict[str, Any]) -> dict[str, Any]:
    return augment_samples(batch, CONFIG, 2, lambda key, error: None)


def test_validation_image_does_not_depend_on_the_seed() -> None:
    variation = make_variation(32, None)
    first, other = (augment_image(make_photo(0), variation, rng_seed, 10**6).image for rng_seed in (0, 1))
    assert np.array_equal(first, other)


def test_validation_image_is_the_middle_of_the_photo_as_timm_resizes_it() -> None:
    width, height = 150, 101
    photo = make_photo(2, (width, height), "PNG")
    picture = Image.open(io.BytesIO(photo)).resize((12, 8)).resize((width, height))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    found = augment_image(buffer.getvalue(), make_variation(32, None), 0, 10**6).image
    transform = create_transform(32, is_training=False, interpolation="bicubic", crop_pct=1.0, use_prefetcher=True)
    expected = np.asarray(transform(picture))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 2


def test_crops_have_the_areas_aspects_and_places_of_timm() -> None:
    picture = Image.new("RGB", (90, 60))
    random.seed(0)
    expected = np.array(
        [RandomResizedCropAndInterpolation.get_params(picture, (0.2, 1), (3 / 4, 4 / 3)) for _ in range(4000)]
    )
    found = np.array([draw_crop(60, 90, 0.2, np.random.default_rng(seed))[:] for seed in range(4000)])[:, [0, 1, 2, 3]]
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= (60, 90)).all()
    np.testing.assert_allclose(found.mean(0), expected.mean(0), rtol=0.06)
    np.testing.assert_allclose(
        np.quantile(found, (0.1, 0.5, 0.9), 0), np.quantile(expected, (0.1, 0.5, 0.9), 0), atol=2.5
    )


@pytest.mark.parametrize(("height", "width", "box"), [(10, 1000, (0, 493, 10, 13)), (1000, 10, (493, 0, 13, 10))])
def test_image_in_which_no_crop_fits_is_cropped_in_the_middle(height: int, width: int, box: tuple[int, ...]) -> None:
    assert tuple(draw_crop(height, width, 1.0, np.random.default_rng(0))) == box


def test_half_of_the_images_are_mirrored() -> None:
    edge = np.zeros((40, 40, 3), np.uint8)
    edge[:, 20:] = 255
    buffer = io.BytesIO()
    Image.fromarray(edge).save(buffer, "PNG")
    augment = AugmentConfig(min_crop_fraction=1.0, rand_augment="", color_jitter=0.0)
    for flip, expected in ((0.5, 0.5), (0.0, 0.0), (1.0, 1.0)):
        variation = make_variation(16, replace(augment, flip=flip))
        images = [augment_image(buffer.getvalue(), variation, seed, 10**4) for seed in range(200)]
        assert not any(found.operations.any() for found in images)
        assert np.mean([found.image[0, 0, 0] > 100 for found in images]) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("side", [128, 512])
def test_crops_are_as_sharp_as_if_the_image_had_been_decoded_whole(side: int) -> None:
    """Stripes that are finer than the pixels of the whole image at this size, but not than those of a small crop."""
    image_size, augment = 64, AugmentConfig(min_crop_fraction=0.25, rand_augment="", color_jitter=0.0)
    width_px = side // 128
    stripes = np.tile(np.repeat([20, 235], width_px), side // width_px // 2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.broadcast_to(stripes[None, :, None], (side, side, 3))).save(buffer, "JPEG", quality=95)
    chosen = make_variation(image_size, augment)

    def find_contrast(variation: Any) -> Any:
        images = [augment_image(buffer.getvalue(), variation, seed, 10**7).image.astype(int) for seed in range(20)]
        return max(image.std() for image in images)

    contrasts = [
        find_contrast(chosen._replace(min_short_side_px=shortest))
        for shortest in (side, chosen.min_short_side_px, image_size)
    ]
    assert contrasts[0] > 40
    assert contrasts[1] == pytest.approx(contrasts[0], rel=0.1)
    assert contrasts[2] < 0.1 * contrasts[0]


def test_images_that_are_not_cropped_may_be_reduced_to_their_size() -> None:
    assert make_variation(64, None).min_short_side_px == 64
    assert make_variation(64, AugmentConfig(min_crop_fraction=1.0)).min_short_side_px == 74
    assert make_variation(64, AugmentConfig(min_crop_fraction=0.25)).min_short_side_px == 148


def make_encoded(*samples: Any) -> dict[str, Any]:
    return {
        "key": np.array([key for key, *_ in samples]),
        "epoch": np.array([epoch for _, epoch, *_ in samples]),
        "image": np.array([image for *_, image, _ in samples], dtype=object),
        "class_ids": np.array([ids for *_, ids in samples], dtype=object),
    }


def test_image_that_cannot_be_decoded_is_reported_and_keeps_its_position() -> None:
    batch = make_encoded(("bad", 0, b"no image", [1]), ("good", 0, make_photo(0), [2]))
    rejected: dict[Any, Any] = {}
    images = augment_samples(batch, CONFIG, 2, rejected.__setitem__)
    assert images["key"].tolist() == ["bad", "good"]
    assert images["is_valid"].tolist() == [False, True]
    assert images["image_labels"].tolist() == [[False, False], [False, True]]
    assert not images["image"][0].any()
    assert images["image"][1].any()
    assert list(rejected) == ["bad"]
    assert rejected["bad"].startswith("undecodable: ")


def test_validation_images_are_not_augmented() -> None:
    photo = make_photo(0)
    batch = make_encoded(("a", VALIDATION, photo, [1]), ("b", VALIDATION, photo, [1]), ("c", 0, photo, [1]))
    images = augment_samples(batch, CONFIG, 2, lambda key, error: None)["image"]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_batches_are_padded_with_images_of_weight_zero() -> None:
    columns = {
        "key": np.array(["a", "b"], dtype=object),
        "image": np.ones((2, 3, 4, 4), np.uint8),
        "operations": np.full((2, 2, 2), 5, np.float32),
        "image_labels": np.array([[True, False], [False, True]]),
        "is_valid": np.array([True, False]),
    }
    batch = make_batch([columns], batch_size=3, image_size=4, num_classes=2)
    assert batch.keys == ("a",)
    assert batch.weights.tolist() == [1.0, 0.0, 0.0]
    assert batch.images.shape == (3, 3, 4, 4)
    assert not batch.images[2].any()
    assert batch.images[:2].all()
    assert batch.operations is not None
    assert batch.operations[:, 0, 0].tolist() == [5, 5, 0]
    assert make_batch([], batch_size=3, image_size=4, num_classes=2).weights.sum() == 0


def test_feeder_returns_batches_in_order_then_raises_the_error_of_the_iterator() -> None:
    batches = [make_batch([], batch_size=size, image_size=4, num_classes=2) for size in (1, 2)]

    def fail_after_two() -> Iterator[Any]:
        yield from batches
        raise ShardError("gone")

    feeder = BatchFeeder(fail_after_two(), depth=1)
    assert [len(feeder.take().weights), len(feeder.take().weights)] == [1, 2]
    with pytest.raises(ShardError, match="gone"):
        feeder.take()
    assert feeder.waited_s >= 0


def test_closed_feeder_ends_its_thread() -> None:
    before = set(threading.enumerate())
    feeder = BatchFeeder(iter([make_batch([], batch_size=1, image_size=4, num_classes=2)] * 100), depth=1)
    (thread,) = set(threading.enumerate()) - before
    feeder.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
