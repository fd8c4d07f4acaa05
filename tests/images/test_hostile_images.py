"""Images that would take a decoder minutes or fill its memory are rejected by their structure; others are not."""

import io
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.decode import DecodedImage, decode_image
from pipeline.images.encoded.bounds import MAX_SCANNED_PIXELS, MAX_SCANS, find_excess, find_scan_excess
from pipeline.run.records import Reason
from tests.factories import make_photo
from tests.hostile_files import (
    make_block_bomb,
    make_chunk_bomb,
    make_scan_bomb,
    make_segment_bomb,
    make_text_bomb,
    make_tiff,
)

EXIF = b"\xff\xe1\xff\xff" + b"Exif\0\0".ljust(65533, b"x")


def photo(image_format: str = "JPEG") -> bytes:
    return make_photo(0, image_format=image_format)


def make_run_length_bitmap(num_bytes: int) -> bytes:
    header = bytearray(photo("BMP")[:54])
    header[28:30], header[30:34] = b"\x08\0", b"\1\0\0\0"
    return bytes(header) + bytes(1024) + b"\1\1" * (num_bytes // 2)


HOSTILE = {
    "3000 scans": (lambda: make_scan_bomb(photo(), 3000), f"more than {MAX_SCANS} scans"),
    "a hidden end between the scans": (
        lambda: make_scan_bomb(photo(), 3000).replace(b"\xff\xda", b"\xff\xfe\x00\x06\xff\xd9\xff\xd9\xff\xda"),
        f"more than {MAX_SCANS} scans",
    ),
    "segments": (lambda: make_segment_bomb(photo(), 200_000), "more than 100000 segments before its pixels"),
    "stray bytes": (lambda: make_segment_bomb(photo(), 200_000, b"x"), "more than 100000 segments before its pixels"),
    "pieces of EXIF": (lambda: make_segment_bomb(photo(), 100, EXIF), "100 segments of EXIF, limit 64"),
    "chunks": (lambda: make_chunk_bomb(photo("PNG"), 200_000), "chunks in 24"),
    "blocks": (lambda: make_block_bomb(photo("GIF"), b"\1x", 200_000), "blocks before its first frame"),
    "strips": (
        lambda: make_tiff([(256, 3, 1, 8), (257, 3, 1, 8), (273, 4, 2_000_000, 8), (279, 4, 1, 8)]),
        "2000000 values in its entry 273, limit 1000000",
    ),
    "run lengths": (lambda: make_run_length_bitmap(17 * 2**20), "a BMP in run lengths of 178"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_image_beyond_a_bound_is_rejected_with_the_bound(kind: Any) -> None:
    make, error = HOSTILE[kind]
    rejection = decode_image(make(), max_pixels=10**8)
    assert rejection.reason == Reason.TOO_LARGE
    assert rejection.error.startswith("the image takes too long to decode: ")
    assert error in rejection.error


def test_scans_are_limited_by_the_pixels_that_they_go_over() -> None:
    assert isinstance(decode_image(make_scan_bomb(photo(), 80), max_pixels=10**8), DecodedImage)
    plain = io.BytesIO()
    Image.new("RGB", (4200, 4000)).save(plain, "JPEG")
    payload, num_pixels = make_scan_bomb(plain.getvalue(), 80), 4200 * 4000
    rejection = decode_image(payload, max_pixels=num_pixels)
    assert rejection.error == (
        f"the image takes too long to decode: 90 scans of {num_pixels} pixels, limit {MAX_SCANNED_PIXELS} in all"
    )
    assert find_scan_excess(payload, num_pixels, max_pixels=10**8) != ""
    # A limit on pixels that is raised is one on passes, too.
    assert find_scan_excess(payload, num_pixels, max_pixels=101 * 10**6) == ""


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_text_or_profile_of_a_png_that_unpacks_to_gigabytes_is_no_image_or_left_out(kind: bytes) -> None:
    payload = make_text_bomb(photo("PNG"), 2**28, kind)
    assert len(payload) < 2**20
    outcome = decode_image(payload, max_pixels=10**8)
    assert isinstance(outcome, DecodedImage) or outcome.reason == Reason.UNDECODABLE


def test_image_in_another_is_no_scan_of_it() -> None:
    """A motion photo has a film after its pixels and a thumbnail before them."""
    rng = np.random.default_rng(0)
    film = b"".join(b"\xff\xda" + rng.bytes(50) for _ in range(500))
    thumbnail = b"\xff\xe2\xff\xf0" + (b"\xff\xda" * 40_000)[: 0xFFF0 - 2]
    payload = photo() + film
    payload = payload[:2] + thumbnail + payload[2:]
    assert find_excess(payload) == ""
    assert find_scan_excess(payload, MAX_SCANNED_PIXELS, 10**8) == ""
    assert isinstance(decode_image(payload, max_pixels=10**8), DecodedImage)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_ordinary_images_are_within_all_bounds(image_format: str, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    if image_format == "JPEG" and mode == "P":
        image = image.convert("RGB")
    for options in ({}, {"exif": image.getexif(), "icc_profile": zlib.compress(bytes(3000))}):
        frames = {"save_all": True, "append_images": [image] * 20} if image_format in ("GIF", "WEBP", "TIFF") else {}
        progressive = {"progressive": True} if image_format == "JPEG" else {}
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options, **frames, **progressive)
        assert find_excess(buffer.getvalue()) == ""
        assert find_scan_excess(buffer.getvalue(), 10**8, 10**8) == ""


@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), st.binary(max_size=300), st.data())
@settings(max_examples=300, deadline=None)
def test_bounds_are_checked_for_any_bytes(image_format: str, noise: bytes, data: st.DataObject) -> None:
    payload = bytearray(photo(image_format))
    place = data.draw(st.integers(0, min(len(payload), 400)))
    payload[place : place + data.draw(st.integers(0, 300))] = noise
    assert isinstance(find_excess(bytes(payload)), str)
    assert isinstance(find_scan_excess(bytes(payload), 10**6, 10**8), str)
