"""The made-up photos of the demo: repeatable, tagged with what is in them, their truth on the stored pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.execution.demo_photos import ALIASES, CLASSES, Picture, draw_picture, write_collection
from pipeline.evaluation.truth_frames import StoredFrame, TruthFrame, place_truth
from pipeline.images.decode import decode_image
from pipeline.images.masks import decode_mask
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk
from pipeline.run.vocabulary import load_vocabulary, parse_vocabulary

NUM_PICTURES = {"train": 5, "photos": 24}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collection")
    write_collection(folder, NUM_PICTURES, samples_per_shard=10, num_processes=1)
    return folder


@pytest.fixture(scope="module")
def samples(collection: Path) -> Any:
    return read_samples(collection, "photos")


def read_samples(folder: Path, split: Any) -> list[Any]:
    return [
        sample
        for shard in list_shards([f"{folder}/{split}-*.tar"])
        for piece in read_chunks(shard, InputConfig())
        if isinstance(piece, Chunk)
        for sample in piece.samples
    ]


def test_collection_has_shards_of_the_size_asked_for(collection: Path, samples: Any) -> None:
    names = sorted(path.name for path in collection.glob("*.tar"))
    assert names == ["photos-00000.tar", "photos-00001.tar", "photos-00002.tar", "train-00000.tar"]
    assert len(samples) == NUM_PICTURES["photos"]
    assert len(list((collection / "truth").iterdir())) == sum(NUM_PICTURES.values())


def test_tags_name_exactly_the_classes_of_the_truth(collection: Path, samples: Any) -> None:
    vocabulary = load_vocabulary(str(collection / "vocabulary.json"))
    for sample in samples:
        truth = decode_mask((collection / "truth" / f"{sample.key}.png").read_bytes())
        assert vocabulary.match(sample.tags).class_ids == tuple(np.unique(truth[truth > 0])), sample.key


def test_truth_lies_on_the_stored_pixels(collection: Path, samples: Any) -> None:
    for sample in samples:
        image = decode_image(sample.image, max_pixels=10**6)
        truth = decode_mask((collection / "truth" / f"{sample.key}.png").read_bytes())
        assert truth.shape == (image.stored_height, image.stored_width), sample.key


def test_frame_of_a_truth_is_known_even_of_a_square_photo_on_its_side(tmp_path: Path) -> None:
    rng_seed = next(seed for seed in range(100) if is_square_on_its_side(draw_picture("key", (seed, 0, 0))))
    write_collection(tmp_path, {"train": 1}, rng_seed=rng_seed, num_processes=1)
    (sample,) = read_samples(tmp_path, "train")
    image = decode_image(sample.image, max_pixels=10**6)
    payload = (tmp_path / "truth" / f"{sample.key}.png").read_bytes()
    place = StoredFrame(image.stored_height, image.stored_width, image.exif_orientation)
    placed = place_truth(decode_mask(payload), payload, sample.key, place, TruthFrame.AUTO)
    np.testing.assert_array_equal(placed, decode_mask(payload))


def is_square_on_its_side(picture: Picture) -> bool:
    height, width = picture.truth.shape
    return height == width and picture.exif_orientation != 1


def test_collection_has_pictures_on_their_side_and_both_formats(samples: Any) -> None:
    assert {decode_image(sample.image, max_pixels=10**6).exif_orientation for sample in samples} == {1, 6}
    assert {sample.image[:4] for sample in samples} >= {b"\x89PNG"}


def test_shards_hold_no_truth(samples: Any, collection: Path) -> None:
    members = [sample.image for sample in samples]
    truths = [path.read_bytes() for path in (collection / "truth").iterdir()]
    assert not any(truth in member for truth in truths for member in members)


def test_same_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first, again, other = (draw_picture("key", rng_seed) for rng_seed in ((0, 1, 2), (0, 1, 2), (1, 1, 2)))
    assert first.image == again.image
    assert first.tags == again.tags
    np.testing.assert_array_equal(first.truth, again.truth)
    assert first.image != other.image


def test_splits_of_a_collection_share_no_picture(collection: Path, samples: Any) -> None:
    seen = {sample.image for sample in read_samples(collection, "train")}
    assert seen.isdisjoint({sample.image for sample in samples})


def test_number_of_processes_does_not_change_the_shards(tmp_path: Path) -> None:
    for num_processes in (1, 2):
        write_collection(tmp_path / str(num_processes), {"train": 3}, num_processes=num_processes)
    one, two = ((tmp_path / name / "train-00000.tar").read_bytes() for name in ("1", "2"))
    assert one == two


def test_every_class_turns_up_and_not_only_by_its_own_name() -> None:
    own_names = parse_vocabulary({"classes": list(CLASSES)})
    with_aliases = parse_vocabulary(
        {"classes": list(CLASSES), "aliases": {name: list(words) for name, words in ALIASES.items()}}
    )
    pictures = [draw_picture(str(index), (3, 0, index)) for index in range(40)]
    seen = {class_id for picture in pictures for class_id in with_aliases.match(picture.tags).class_ids}
    assert seen == set(range(1, len(CLASSES) + 1))
    assert any(
        set(own_names.match(picture.tags).class_ids) < set(with_aliases.match(picture.tags).class_ids)
        for picture in pictures
    )
