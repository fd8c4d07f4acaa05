"""Pairs of photo and mask for the benchmark that trains on masks."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from benchmarks.train_on_masks import choose_photos, hash_key
from benchmarks.train_on_masks_parts.network import Training, draw_batch
from benchmarks.train_on_masks_parts.pairs import SIDE_PX, Photos, iterate_pairs, read_photos
from pipeline.inputs.shards import list_shards
from tests.factories import make_labelled_row, make_rejected_row, make_run, make_tar


def make_photos(qualities: list[float], class_ids: list[tuple[int, ...]]) -> Photos:
    """Photos whose mask is 1 where they are bright: a block off the middle."""
    masks = np.zeros((len(qualities), SIDE_PX, SIDE_PX), np.uint8)
    masks[:, 40:120, 60:100] = 1
    return Photos(
        keys=[f"k{number}" for number in range(len(qualities))],
        qualities=np.array(qualities),
        class_ids=class_ids,
        images_rgb=np.repeat(masks[..., None] * 200, 3, -1),
        masks=masks,
    )


@pytest.mark.parametrize("orientation", [1, 6])
def test_photo_and_mask_of_a_pair_are_both_upright(tmp_path: Path, orientation: int) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[8:20, 8:40] = 1
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photo = io.BytesIO()
    Image.fromarray(np.repeat(mask[..., None] * 255, 3, -1)).save(photo, "PNG", exif=exif)
    make_tar(tmp_path / "photos.tar", {"a": {"png": photo.getvalue()}, "b": {"png": photo.getvalue()}})
    row = make_labelled_row("a", mask, [1], photo=photo.getvalue(), exif_orientation=orientation)
    shard = list_shards([str(tmp_path / "photos.tar")])[0]
    make_run(str(tmp_path / "run"), ("cat",), {shard: [row, make_rejected_row("b")]})
    (pair,) = iterate_pairs(str(tmp_path / "run"))
    assert pair.mask.shape == ((48, 64) if orientation == 1 else (64, 48))
    assert ((pair.image_rgb[..., 0] > 128) == (pair.mask == 1)).all()
    photos = read_photos(str(tmp_path / "run"))
    assert photos.keys == ["a"]
    assert ((photos.images_rgb[0, ..., 0] > 128) == (photos.masks[0] == 1)).mean() > 0.95


def test_crop_and_flip_are_those_of_the_mask() -> None:
    photos = make_photos([0.5] * 8, [(1,)] * 8)
    training = Training(image_size=64, color_jitter=0)
    images, masks = draw_batch(photos, np.arange(8), training, np.random.default_rng(0))
    assert ((images[:, 0] > 0.4) == (masks == 1)).float().mean() > 0.97
    # They differ from photo to photo.
    assert len({one.numpy().tobytes() for one in masks}) == 8


def test_halves_are_the_better_ones_of_all_and_of_each_set_of_tags() -> None:
    qualities = [0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1]
    photos = make_photos(qualities, [(1,)] * 4 + [(1, 2)] * 4)
    assert choose_photos("all", photos).keys == photos.keys
    assert choose_photos("better-half", photos).keys == ["k0", "k1", "k2", "k3"]
    assert choose_photos("better-half-by-tags", photos).keys == ["k0", "k1", "k4", "k5"]
    assert len(choose_photos("random-half", photos).keys) == 4


def test_hash_of_a_key_is_the_same_everywhere() -> None:
    assert [hash_key("2007_000063", salt) for salt in ("fold", "half")] == [1154711651470387347, 10524107928196940475]
