"""Corrected masks in Python programs."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

import tagmask
from pipeline.inputs.shards import list_shards
from pipeline.published.overrides import read_overrides
from pipeline.storage.writing import put_atomic
from tests.corrected_masks import correct
from tests.factories import make_labelled_row, make_parquet, make_rejected_row, make_run
from tests.library.published import NUMBERS, encode_photo, find_orientation, make_masks, read_pixels
from tests.small_run import read_all

KEYS = list(NUMBERS)


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    """Photos that are bright where their mask is 1, the corrected masks of which are 2 there; others are untouched."""
    uri = make_masks(tmp_path, qualities=(0.2, 0.6))
    places = {key: ("a", place) if place < 9 else ("b", place - 9) for place, key in enumerate(KEYS)}
    correct(uri, {places[key]: 2 * read_pixels(key) for key in KEYS[2:12]})
    return uri


def require_corrected(sample: tagmask.MaskSample) -> None:
    """Check that a mask is upright as its photo, and is the corrected one if the row says so."""
    image, mask, row = sample
    value = 2 if KEYS.index(row.key) in range(2, 12) else 1
    assert ((np.asarray(image)[..., 0] > 128) == (mask == value)).all()
    assert (row.values.get("override_tool") == "cvat") == (value == 2)


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_corrected_masks_are_iterated_in_the_place_of_others(run_uri: str, is_shuffled: bool) -> None:
    found = tagmask.open(run_uri, shuffle=is_shuffled)
    samples = list(found)
    assert sorted(sample.row.key for sample in samples) == sorted(KEYS)
    for sample in [*samples, *found.shard("a"), found.shard("b")[0], found.shard("b")[-1]]:
        require_corrected(sample)
    corrected = next(row for _, _, row in samples if row.key == KEYS[3])
    assert (corrected.quality, corrected.class_names) == (1, ("dog",))
    assert corrected.values["override_source"] == "task 0.zip"
    for image, mask, row in tagmask.open(run_uri, overrides=False):
        assert ((np.asarray(image)[..., 0] > 128) == (mask == 1)).all()
        assert "override_tool" not in row.values


def test_filters_counts_and_order_see_corrected_rows(run_uri: str) -> None:
    dogs = tagmask.open(run_uri, classes=["dog"])
    # Those of KEYS[3] and KEYS[12] are tagged so.
    assert [row.key for row in dogs.rows("key")] == KEYS[2:13]
    assert len(dogs) == len(list(dogs)) == 11
    assert next(dogs.rows("key")).values["override_tool"] == "cvat"
    assert "image_sha256" not in next(dogs.rows("key")).values
    good = tagmask.open(run_uri, min_quality=0.9)
    assert [row.key for _, _, row in good] == KEYS[2:12]
    assert {sample.row.key for sample in tagmask.open(run_uri).worst(4)} <= {*KEYS[:2], *KEYS[12:]}
    assert len(tagmask.open(run_uri, min_quality=0.9, overrides=False)) == 0


def test_workers_read_the_corrected_masks_that_were_there(run_uri: str) -> None:
    found = tagmask.open(run_uri)
    correct(run_uri, {("a", 0): 2 * read_pixels(KEYS[0])}, number=1)
    copied = pickle.loads(pickle.dumps(found))
    loaded = list(DataLoader(copied, batch_size=None, num_workers=2))
    assert sorted(sample.row.key for sample in loaded) == sorted(KEYS)
    for sample in loaded:
        require_corrected(sample)
    assert len(read_overrides(run_uri)) == 11


def test_rejected_row_that_was_drawn_has_a_mask_in_any_frame(tmp_path: Path, s3_folder: str) -> None:
    keys = KEYS[:8]
    assert {find_orientation(key) for key in keys} == set(range(1, 9))
    photos = [encode_photo(key) for key in keys]
    path = make_parquet(tmp_path / "p.parquet", {"key": keys, "image": photos}, row_group_size=3)
    (shard,) = list_shards([str(path)])
    rows = [
        make_rejected_row(key, "no_known_tag")
        | {"image_sha256": make_labelled_row(key, read_pixels(key), [1], photo=photo)["image_sha256"], "class_ids": []}
        for key, photo in zip(keys, photos, strict=True)
    ]
    make_run(f"{tmp_path}/run", ("cat", "dog"), {shard: rows})
    orientations = {("p", place): find_orientation(key) for place, key in enumerate(keys)}
    correct(
        f"{tmp_path}/run",
        {("p", place): 2 * read_pixels(key) for place, key in enumerate(keys)},
        orientations=orientations,
    )
    for name, payload in read_all(f"{tmp_path}/run").items():
        put_atomic(f"{s3_folder}/run{name}", payload)
    for upright in (True, False):
        for uri in (f"{tmp_path}/run", f"{s3_folder}/run"):
            found = list(tagmask.open(uri, upright=upright))
            assert [row.key for _, _, row in found] == keys
            for image, mask, row in found:
                assert ((np.asarray(image)[..., 0] > 128) == (mask == 2)).all()
                assert (row.get("height"), row.get("width")) == read_pixels(row.key).shape
