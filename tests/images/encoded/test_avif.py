"""AVIF: decoded like other formats, turned by its own box, and limited by what its coded images state."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.decode import DecodedImage, ImageRejection, decode_image
from pipeline.images.encoded.bounds import find_coded_excess, find_excess
from pipeline.images.encoded.boxes import read_avif
from pipeline.images.orientation import place_on_stored_pixels
from pipeline.run.records import Reason
from tests.images.encoded.written_images import encode, make_picture


def decode(payload: bytes) -> DecodedImage:
    decoded = decode_image(payload, max_pixels=10**7)
    assert isinstance(decoded, DecodedImage), decoded
    return decoded


def make_box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def make_full_box(kind: bytes, content: bytes, version: int = 0) -> bytes:
    return make_box(kind, bytes([version, 0, 0, 0]) + content)


def take_units(avif: bytes) -> bytes:
    """The coded image of an AVIF of one item, which its only box of data holds."""
    start = avif.index(b"mdat") + 4
    return avif[start:]


def take_last_unit(units: bytes) -> bytes:
    """The coded frame, which is the last unit, with its header and length."""
    place = last = 0
    while place < len(units):
        last, place = place, place + 1
        length = shift = 0
        while True:
            byte = units[place]
            length |= (byte & 127) << shift
            shift, place = shift + 7, place + 1
            if byte < 128:
                break
        place += length
    return units[last:]


def write_avif(units: bytes, width: int, height: int, num_items: int = 1) -> bytes:
    """Write an AVIF of `num_items` items that share the bytes of one coded image."""
    infos = b"".join(make_full_box(b"infe", struct.pack(">HH4sx", n + 1, 0, b"av01"), 2) for n in range(num_items))
    ftyp = make_box(b"ftyp", b"avif" + bytes(4) + b"avifmif1miaf")
    properties = make_box(b"ispe", bytes(4) + struct.pack(">II", width, height)) + make_box(b"av1C", b"\x81\0\x0c\0")
    links = struct.pack(">I", num_items) + b"".join(struct.pack(">HBBB", n + 1, 2, 1, 0x82) for n in range(num_items))
    iprp = make_box(b"iprp", make_box(b"ipco", properties) + make_full_box(b"ipma", links))

    def make_meta(start: int) -> bytes:
        places = b"".join(struct.pack(">HHHII", n + 1, 0, 1, start, len(units)) for n in range(num_items))
        return make_full_box(
            b"meta",
            make_full_box(b"hdlr", bytes(4) + b"pict" + bytes(13))
            + make_full_box(b"pitm", struct.pack(">H", 1))
            + make_full_box(b"iloc", b"\x44\0" + struct.pack(">H", num_items) + places)
            + make_full_box(b"iinf", struct.pack(">H", num_items) + infos)
            + iprp,
        )

    head = ftyp + make_meta(0)
    return ftyp + make_meta(len(head) + 8) + make_box(b"mdat", units)


PLAIN = encode(Image.new("RGB", (1000, 800), "grey"), "AVIF", speed=10)
UNITS = take_units(PLAIN)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_avif_is_decoded_close_to_its_pixels(mode: str) -> None:
    picture = make_picture(60, 90, mode)
    decoded = decode(encode(picture, "AVIF", quality=95, subsampling="4:4:4"))
    assert np.abs(decoded.image_rgb.astype(int) - np.asarray(picture.convert("RGB"))).mean() < 4


def test_transparent_pixels_of_an_avif_become_white() -> None:
    pixels = decode(encode(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "AVIF")).image_rgb
    assert pixels.min() > 250


def test_animated_avif_decodes_to_its_first_frame() -> None:
    frames = [Image.new("RGB", (32, 24), colour) for colour in ("red", "blue", "lime")]
    pixel = decode(encode(frames[0], "AVIF", save_all=True, append_images=frames[1:])).image_rgb[12, 16]
    assert pixel[0] > 240
    assert pixel[1:].max() < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_avif_lies_back_on_its_stored_pixels(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = make_picture(16, 32)
    decoded = decode(encode(stored, "AVIF", quality=95, subsampling="4:4:4", exif=exif))
    assert (decoded.stored_height, decoded.stored_width, decoded.exif_orientation) == (16, 32, orientation)
    placed = np.stack([place_on_stored_pixels(decoded.image_rgb[..., i], orientation) for i in range(3)], axis=-1)
    assert np.abs(placed.astype(int) - np.asarray(stored)).mean() < 4


def test_avif_by_an_independent_writer_is_decoded() -> None:
    assert np.array_equal(decode(write_avif(UNITS, 1000, 800)).image_rgb, decode(PLAIN).image_rgb)


def reject_as_too_large(payload: bytes, **options: Any) -> str:
    rejection = decode_image(payload, **({"max_pixels": 10**6} | options))
    assert isinstance(rejection, ImageRejection), rejection
    assert rejection.reason == Reason.TOO_LARGE
    return rejection.error


def test_avif_is_too_large_by_its_header_without_being_decoded() -> None:
    assert reject_as_too_large(PLAIN, max_pixels=799_999) == "1000 x 800 pixels are 800000, limit 799999"


def test_coded_image_larger_than_its_file_states_is_too_large() -> None:
    error = reject_as_too_large(write_avif(UNITS, 10, 8), max_pixels=799_999)
    assert error == "the image takes too long to decode: a coded frame of 800000 pixels, limit 799999"


def test_avif_of_hidden_frames_is_too_large() -> None:
    frame = take_last_unit(UNITS)
    error = reject_as_too_large(write_avif(UNITS + 1300 * frame, 1000, 800))
    assert error == (
        "the image takes too long to decode: 1301 coded frames with 1040800000 pixels, limit 1000000000 in all"
    )
    assert find_coded_excess(write_avif(UNITS + 1300 * frame, 1000, 800), max_pixels=2 * 10**8) == ""


def test_avif_of_tiles_that_share_one_coded_image_is_too_large() -> None:
    padding = bytes(20_000)
    error = reject_as_too_large(write_avif(UNITS, 1000, 800, num_items=1300) + padding * 20)
    assert "1300 coded frames with 1040000000 pixels" in error


def test_avif_of_many_items_is_too_large() -> None:
    assert "20000 items, limit 10000" in reject_as_too_large(write_avif(b"\x12\0", 8, 8, num_items=20_000))


def test_avif_of_many_units_is_too_large() -> None:
    assert "coded frames" in reject_as_too_large(write_avif(UNITS + b"\x12\0" * 200_000, 1000, 800), max_pixels=10**7)


def test_ordinary_avif_is_within_all_bounds() -> None:
    for options in ({}, {"save_all": True, "append_images": [make_picture(mode="RGBA")] * 20}):
        payload = encode(make_picture(mode="RGBA"), "AVIF", icc_profile=bytes(3000), **options)
        assert find_excess(payload) == ""
        assert find_coded_excess(payload, 1000) == ""
        assert set(read_avif(payload).coded) == {(1, 24 * 36)}


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_avif_never_raises(data: st.DataObject) -> None:
    payload = bytearray(data.draw(st.sampled_from([write_avif(UNITS, 1000, 800), encode(make_picture(), "AVIF")])))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, min(len(payload), 500) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(decode_image(bytes(payload), max_pixels=10**6), DecodedImage | ImageRejection)
