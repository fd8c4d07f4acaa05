"""Pseudo labels from class maps, and the encoding of masks and class maps."""

import io
import unicodedata
import zlib
from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from pipeline.errors import ManifestError
from pipeline.images.masks import (
    build_palette,
    decode_class_maps,
    decode_mask,
    encode_class_maps,
    encode_mask,
    name_mask_file,
    voc_palette,
)
from pipeline.run.records import CLASS_MAPS, IGNORE_LABEL

CLASS_NAMES = ("cat", "dog", "horse")


def encode_png(image: Any, **options: Any) -> bytes:
    payload = io.BytesIO()
    image.save(payload, "PNG", **options)
    return payload.getvalue()


def test_voc_palette_has_the_known_colours() -> None:
    palette = voc_palette()
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {index: tuple(palette[index].tolist()) for index in known} == known
    assert palette[IGNORE_LABEL].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256


def test_palette_takes_the_vocabulary_s_colours_for_its_classes() -> None:
    palette = build_palette([(1, 2, 3), (4, 5, 6), (7, 8, 9)], CLASS_NAMES)
    assert palette[1:4].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert np.array_equal(np.delete(palette, [1, 2, 3], axis=0), np.delete(voc_palette(), [1, 2, 3], axis=0))
    assert np.array_equal(build_palette(None, CLASS_NAMES), voc_palette())


def test_palette_refuses_what_a_mask_cannot_hold() -> None:
    with pytest.raises(ValueError, match="at most 254 classes, got 255"):
        build_palette(None, [f"class {index}" for index in range(255)])
    with pytest.raises(ValueError, match="one colour for each of 3 classes, got 1"):
        build_palette([(1, 2, 3)], CLASS_NAMES)


@settings(deadline=None)
@given(mask=st_numpy.arrays(np.uint8, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_mask_round_trip_is_exact(mask: Any) -> None:
    assert np.array_equal(decode_mask(encode_mask(mask, voc_palette())), mask)


def test_mask_with_all_labels_round_trips_and_shows_its_colours() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    payload = encode_mask(mask, voc_palette())
    assert np.array_equal(decode_mask(payload), mask)
    image = Image.open(io.BytesIO(payload))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image.convert("RGB")), voc_palette()[mask])


def test_equal_masks_have_equal_bytes() -> None:
    mask = np.random.default_rng(0).integers(0, 4, (30, 40), dtype=np.uint8)
    payload = encode_mask(mask, voc_palette())
    assert payload == encode_mask(np.asfortranarray(mask), voc_palette())
    assert b"tIME" not in payload


def test_grey_mask_of_another_tool_is_read_as_indices() -> None:
    mask = np.array([[0, 3, 255]], dtype=np.uint8)
    assert np.array_equal(decode_mask(encode_png(Image.fromarray(mask))), mask)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_mask_of_few_bits_is_read_as_indices(bits: int) -> None:
    mask = np.arange(2**bits, dtype=np.uint8)[None]
    image = Image.fromarray(mask)
    image.putpalette(voc_palette().tobytes())
    assert np.array_equal(decode_mask(encode_png(image, bits=bits)), mask)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "I;16"])
def test_png_that_is_no_index_map_is_an_error(mode: str) -> None:
    with pytest.raises(ManifestError, match="need a palette PNG or a grey one of 8 bits"):
        decode_mask(encode_png(Image.new(mode, (2, 2))))


def test_broken_mask_is_an_error() -> None:
    payload = encode_mask(np.random.default_rng(0).integers(0, 9, (64, 64), dtype=np.uint8), voc_palette())
    for broken in (b"", b"no png", payload[: len(payload) // 2]):
        with pytest.raises(ManifestError, match=f"a mask of {len(broken)} bytes is no readable PNG"):
            decode_mask(broken)


@settings(deadline=None)
@given(
    maps=st_numpy.arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6)),
        elements=st.floats(0, 1000, width=32),
    )
)
def test_class_maps_round_trip_within_half_a_step(maps: Any) -> None:
    record = encode_class_maps(maps)
    stored = pa.array([record], type=CLASS_MAPS)[0].as_py()
    decoded = decode_class_maps(stored)
    assert decoded.dtype == np.float32
    assert decoded.shape == maps.shape
    assert stored["scales"] == [one.max() for one in maps]
    for one, kept in zip(maps, decoded, strict=True):
        assert kept.min() >= 0
        assert kept.max() <= 1
        span = float(np.ptp(one))
        if span > 1e-3:
            assert np.abs(kept - (one - one.min()) / span).max() <= 0.5 / 255 + 1e-3


def test_class_maps_keep_the_order_of_their_values() -> None:
    decoded = decode_class_maps(encode_class_maps(np.arange(6.0).reshape(1, 2, 3) * 0.001))
    assert all(low < high for low, high in pairwise(decoded.ravel()))
    assert decoded.max() == 1


def test_class_maps_of_a_damaged_record_are_an_error() -> None:
    record = encode_class_maps(np.random.default_rng(0).random((2, 3, 4)))
    with pytest.raises(ManifestError, match="2 classes on 3 x 4 patches need 24 bytes, got 23"):
        decode_class_maps(record | {"values": record["values"][:-1]})


HOSTILE_LETTERS = st.sampled_from("./\\:%~- aZ0\0\n\x1b\x7f\x85\u202e\u200b\ud800éä")
KEYS = st.one_of(st.text(), st.text(HOSTILE_LETTERS, max_size=8), st.text(HOSTILE_LETTERS, min_size=150, max_size=400))


@pytest.mark.parametrize("key", ["photo 1", "000000001", "n0144_18", "IMG-2024.edit", "ä ö", "=1+1", "<b>", "x" * 200])
def test_mask_of_an_ordinary_key_is_named_after_it(key: str) -> None:
    assert name_mask_file(key) == f"{key}.png"


@given(KEYS)
def test_name_of_a_mask_stays_in_its_folder_and_ends_in_png(key: Any) -> None:
    name = name_mask_file(key)
    for kind in (PurePosixPath, PureWindowsPath):
        assert kind(name).name == name
        assert not kind(name).anchor
    assert ".." not in name
    assert name.endswith(".png")
    assert not [letter for letter in name if unicodedata.category(letter) in ("Cc", "Cs")]
    assert len(name.encode()) <= 255


@given(st.lists(KEYS, unique=True, min_size=2, max_size=20))
def test_masks_of_two_keys_have_two_names(keys: list[Any]) -> None:
    assert len({name_mask_file(key) for key in keys}) == len(keys)


def test_long_keys_that_begin_alike_have_two_names() -> None:
    cut = name_mask_file("x" * 300)
    assert cut != name_mask_file("x" * 301)
    assert name_mask_file(cut.removesuffix(".png")) != cut


def test_encoded_mask_is_about_as_small_as_that_of_pillow() -> None:
    rows, columns = np.mgrid[:300, :400]
    mask = (((rows - 150) ** 2 + (columns - 180) ** 2 < 100**2) + 2 * (rows > 220)).astype(np.uint8)
    image = Image.fromarray(mask)
    image.putpalette(voc_palette().tobytes())
    assert len(encode_mask(mask, voc_palette())) < 1.1 * len(encode_png(image, compress_type=zlib.Z_RLE))
