"""Only what pixels need may fail an image: text, profiles and metadata may be large, damaged, or of a wrong length."""

import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.decode import DecodedImage, ImageRejection, decode_image
from pipeline.run.records import Reason
from tests.images.encoded.written_images import (
    XMP,
    XMP_NAME,
    encode,
    make_chunk,
    make_exif_block,
    make_picture,
    make_riff_chunk,
    make_segment,
    make_tiff,
    make_webp,
    put_chunks,
    put_segments,
)

PICTURE = make_picture()
PNG, JPEG = encode(PICTURE, "PNG"), encode(PICTURE, "JPEG", quality=90)
WEBP = encode(PICTURE, "WEBP", lossless=True)
ICC = b"ICC_PROFILE\0\1\1"


def decode(payload: bytes) -> DecodedImage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoded = decode_image(payload, max_pixels=10**6)
    assert isinstance(decoded, DecodedImage), decoded
    return decoded


def reject(payload: bytes) -> str:
    rejection = decode_image(payload, max_pixels=10**6)
    assert isinstance(rejection, ImageRejection)
    assert rejection.reason == Reason.UNDECODABLE
    return rejection.error


def show_stored(payload: bytes) -> Any:
    """Pixels of an image without its metadata."""
    return decode(payload).image_rgb


def pack_text(num_bytes: int) -> bytes:
    return b"k\0\0" + zlib.compress(bytes(num_bytes), 9)


CHUNKS = {
    "a profile of 5 MB": make_chunk(b"iCCP", pack_text(5_000_000)),
    "a text of 70 MB": make_chunk(b"zTXt", pack_text(70_000_000)),
    "many texts of 900 KB": b"".join(make_chunk(b"zTXt", pack_text(900_000)) for _ in range(90)),
    "an international text of 5 MB": make_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(5_000_000))),
    "a plain text of 3 MB": make_chunk(b"tEXt", b"k\0" + b"x" * 3_000_000),
    "a text with a wrong checksum": make_chunk(b"tEXt", b"k\0value", checksum_change=1),
    "a time with a wrong checksum": make_chunk(b"tIME", bytes(7), checksum_change=5),
    "an unknown chunk with a wrong checksum": make_chunk(b"abCd", b"xyz", checksum_change=1),
    "a text of an unknown compression": make_chunk(b"zTXt", b"k\0\7" + bytes(20)),
    "a profile of an unknown compression": make_chunk(b"iCCP", b"k\0\7" + bytes(20)),
    "a profile without a name": make_chunk(b"iCCP", b""),
    "a text that is no zlib": make_chunk(b"zTXt", b"k\0\0no zlib at all"),
    "a truncated profile": make_chunk(b"iCCP", pack_text(10_000)[:-9]),
    "short resolutions": make_chunk(b"pHYs", b"\0"),
    "a short gamma": make_chunk(b"gAMA", b"\0"),
    "short chromaticities": make_chunk(b"cHRM", bytes(7)),
    "an empty rendering intent": make_chunk(b"sRGB", b""),
    "a short transparency": make_chunk(b"tRNS", b"\0"),
    "a transparency with a wrong checksum": make_chunk(b"tRNS", bytes(6), checksum_change=1),
    "a broken animation": make_chunk(b"acTL", b"\0") + make_chunk(b"fcTL", b"\0"),
    "a length that is too short": make_chunk(b"tEXt", b"k\0" + b"some text " * 20, length_change=-30),
    "a length that is too long": make_chunk(b"tEXt", b"k\0value", length_change=40),
    "a length of gigabytes": make_chunk(b"tEXt", b"k\0value", length_change=2**31),
    "a name that is none": make_chunk(b"t\0Xt", b"k\0value"),
    "EXIF with a wrong checksum": make_chunk(b"eXIf", make_exif_block(6), checksum_change=1),
    "broken EXIF": make_chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "EXIF in text": make_chunk(b"tEXt", b"exif\0" + make_exif_block(6)),
    "an orientation in XMP": make_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
}


@pytest.mark.parametrize("kind", CHUNKS)
@pytest.mark.parametrize("at_end", [False, True])
def test_png_is_whole_without_the_chunks_that_its_pixels_do_not_need(kind: str, at_end: bool) -> None:
    decoded = decode(put_chunks(PNG, [CHUNKS[kind]], at_end=at_end))
    assert np.array_equal(decoded.image_rgb, np.asarray(PICTURE))
    assert decoded.exif_orientation == 1


def test_damaged_chunk_between_those_of_pixels_is_left_out() -> None:
    packed = zlib.compress(b"".join(b"\0" + PICTURE.crop((0, row, 36, row + 1)).tobytes() for row in range(24)))
    parts = [make_chunk(b"IDAT", packed[:200]), CHUNKS["a length that is too long"], make_chunk(b"IDAT", packed[200:])]
    assert np.array_equal(decode(PNG[:33] + b"".join(parts) + PNG[-12:]).image_rgb, np.asarray(PICTURE))


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"PLTE"])
def test_png_with_a_wrong_checksum_of_pixels_is_undecodable_by_its_name(name: bytes) -> None:
    png = bytearray(encode(PICTURE.quantize(16), "PNG"))
    start = png.index(name)
    length = int.from_bytes(png[start - 4 : start], "big")
    png[start + 4 + length] ^= 1
    assert (
        reject(bytes(png)) == f"cannot be decoded: its chunk {name.decode()} at byte {start - 4} has a wrong checksum"
    )


def test_palette_that_only_suggests_colours_fails_no_image() -> None:
    damaged = make_chunk(b"PLTE", bytes(range(30)), checksum_change=1)
    assert np.array_equal(decode(put_chunks(PNG, [damaged])).image_rgb, np.asarray(PICTURE))


def test_truncated_png_stays_undecodable() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    png = put_chunks(encode(noise, "PNG"), [CHUNKS["a text with a wrong checksum"]])
    assert reject(png[: len(png) // 2])


def test_intact_exif_of_a_png_turns_it_before_and_after_its_pixels() -> None:
    for at_end in (False, True):
        chunks = [CHUNKS["a text with a wrong checksum"], make_chunk(b"eXIf", make_exif_block(6))]
        assert decode(put_chunks(PNG, chunks, at_end=at_end)).exif_orientation == 6


SEGMENTS = {
    "a short JFIF": make_segment(0xE0, b"JFIF\0"),
    "a short profile": make_segment(0xE2, b"ICC_PROFILE\0"),
    "a profile of zeros": make_segment(0xE2, ICC + bytes(500)),
    "a piece of a profile of five": make_segment(0xE2, b"ICC_PROFILE\0\3\5" + bytes(300)),
    "a short colour transform": make_segment(0xEE, b"Adobe\0"),
    "broken EXIF": make_segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff broken"),
    "EXIF without a header": make_segment(0xE1, b"Exif\0\0" + bytes(30)),
    "a broken index of pictures": make_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0"),
    "an index of pictures without a number": make_segment(
        0xE2, b"MPF\0II*\0\x08\0\0\0" + struct.pack("<HHHLL", 1, 0xB002, 7, 48, 26) + bytes(60)
    ),
    "Photoshop's resources, truncated": make_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\xff"),
    "a comment of noise": make_segment(0xFE, bytes(range(256)) * 20),
    "XMP of noise": make_segment(0xE1, XMP_NAME + bytes(range(256))),
    "an unknown segment": make_segment(0xEB, b"unknown"),
    "a length that is too long": make_segment(0xED, bytes(100), length_change=90),
    "a length beyond the tables": make_segment(0xE1, b"Exif\0\0" + make_exif_block(6), length_change=900),
    "a length beyond the file": make_segment(0xE5, bytes(100), length_change=60_000),
    "a length that is too short": make_segment(0xE5, b"0123456789" * 10, length_change=-40),
    "no length": b"\xff\xe5\0\0" + b"0123456789" * 10,
    "a thumbnail behind a short length": make_segment(
        0xE1, b"Exif\0\0" + bytes(50) + encode(make_picture(6, 9), "JPEG"), length_change=-700
    ),
    "stray bytes": b"stray bytes",
    "stray bytes behind a comment": make_segment(0xFE, b"comment") + b"stray bytes",
}


@pytest.mark.parametrize("kind", SEGMENTS)
def test_jpeg_is_whole_without_the_segments_that_its_pixels_do_not_need(kind: str) -> None:
    decoded = decode(put_segments(JPEG, SEGMENTS[kind]))
    assert np.array_equal(decoded.image_rgb, show_stored(JPEG))
    assert (decoded.stored_height, decoded.stored_width, decoded.exif_orientation) == (24, 36, 1)


@pytest.mark.parametrize("kind", sorted(SEGMENTS.keys() - {"EXIF without a header", "broken EXIF"}))
def test_exif_behind_a_damaged_segment_turns_a_jpeg(kind: str) -> None:
    exif = make_segment(0xE1, b"Exif\0\0" + make_exif_block(6))
    assert decode(put_segments(JPEG, SEGMENTS[kind], exif)).exif_orientation == 6


def test_jpeg_keeps_the_colour_transform_of_adobe() -> None:
    inks = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    pixel = decode(put_segments(inks, SEGMENTS["a short profile"], SEGMENTS["broken EXIF"])).image_rgb[8, 8]
    assert pixel[0] > 245
    assert pixel[1:].max() < 10


def test_orientation_is_read_behind_a_damaged_entry_of_exif() -> None:
    exif = make_exif_block(6, maker_at=2**31)
    assert decode(put_segments(JPEG, make_segment(0xE1, b"Exif\0\0" + exif))).exif_orientation == 6
    assert decode(put_chunks(PNG, [make_chunk(b"eXIf", exif)])).exif_orientation == 6


RIFF_CHUNKS = {
    "broken EXIF": make_riff_chunk(b"EXIF", b"MM\0*\xff\xff\xff\xff"),
    "EXIF of noise": make_riff_chunk(b"EXIF", bytes(range(255))),
    "XMP": make_riff_chunk(b"XMP ", XMP),
    "a profile of noise": make_riff_chunk(b"ICCP", bytes(range(256)) * 10),
    "a profile of 3 MB": make_riff_chunk(b"ICCP", bytes(3_000_000)),
    "a length that is too long": make_riff_chunk(b"XMP ", XMP, length_change=90),
    "a length of gigabytes": make_riff_chunk(b"ICCP", bytes(100), length_change=2**31),
    "a length that is too short": make_riff_chunk(b"EXIF", b"\xff" * 200, length_change=-50),
    "a name that is none": make_riff_chunk(b"\0\0\0\0", XMP),
}


@pytest.mark.parametrize("kind", RIFF_CHUNKS)
@pytest.mark.parametrize("is_before", [True, False])
def test_webp_is_whole_without_the_chunks_that_its_pixels_do_not_need(kind: str, is_before: bool) -> None:
    chunks = [RIFF_CHUNKS[kind]]
    webp = make_webp(WEBP, chunks if is_before else [], [] if is_before else chunks, flags=0x2C)
    decoded = decode(webp)
    assert np.array_equal(decoded.image_rgb, np.asarray(PICTURE))
    assert decoded.exif_orientation == 1


def test_webp_keeps_its_exif_beside_damaged_chunks() -> None:
    exif = make_riff_chunk(b"EXIF", make_exif_block(8))
    assert decode(make_webp(WEBP, [RIFF_CHUNKS["a profile of noise"]], [exif], flags=0x2C)).exif_orientation == 8


TIFF_ENTRIES = {
    "a maker beyond the file": (271, 2, 100, 2**31),
    "a text of an unknown type": (305, 99, 7, 8),
    "EXIF beyond the file": (34665, 4, 1, 2**31),
    "EXIF in the pixels": (34665, 4, 1, 20),
    "positions in the pixels": (34853, 4, 1, 20),
    "a profile beyond the file": (34675, 7, 500, 2**31),
    "a profile of whole numbers": (34675, 4, 20, 14),
    "a resolution without a place": (282, 5, 1, 2**31),
    "a million values of a private tag": (65000, 12, 10**6, 8),
    "XMP in the pixels": (700, 1, 50, 14),
}


@pytest.mark.parametrize("kind", TIFF_ENTRIES)
def test_tiff_is_whole_without_the_entries_that_its_pixels_do_not_need(kind: str) -> None:
    assert np.array_equal(decode(make_tiff(PICTURE, [TIFF_ENTRIES[kind]])).image_rgb, np.asarray(PICTURE))


def test_tiff_keeps_its_orientation_beside_entries_of_no_use() -> None:
    decoded = decode(make_tiff(PICTURE, [TIFF_ENTRIES["a maker beyond the file"], (274, 3, 1, 6)]))
    assert (decoded.stored_height, decoded.stored_width, decoded.exif_orientation) == (24, 36, 6)


def test_further_images_of_a_tiff_may_be_damaged() -> None:
    tiff = bytearray(make_tiff(PICTURE))
    tiff[-4:] = struct.pack("<L", 9)
    assert np.array_equal(decode(bytes(tiff)).image_rgb, np.asarray(PICTURE))


@pytest.mark.parametrize("block", [b"no EXIF", b"MM\0*\xff\xff\xff\xff", make_exif_block(3)])
def test_avif_is_turned_by_its_own_box_and_never_by_its_exif(block: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker" * 20
    avif = encode(PICTURE, "AVIF", exif=exif)
    start = avif.index(b"MM\0*", avif.index(b"mdat"))
    decoded = decode(avif[:start] + block + avif[start + len(block) :])
    assert (decoded.stored_height, decoded.stored_width, decoded.exif_orientation) == (24, 36, 6)
    assert np.array_equal(decoded.image_rgb, decode(avif).image_rgb)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_noise_in_metadata_changes_no_pixel(data: st.DataObject) -> None:
    size = data.draw(st.integers(30, 300))
    noise = bytearray(data.draw(st.binary(min_size=size, max_size=size)))
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    if kind == "PNG":
        name = data.draw(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"pHYs", b"gAMA", b"sPLT", b"acTL"]))
        payload, plain = put_chunks(PNG, [make_chunk(name, bytes(noise))]), PNG
    elif kind == "JPEG":
        marker = data.draw(st.sampled_from([*range(0xE0, 0xF0), 0xFE]))
        start = data.draw(st.sampled_from([b"", b"JFIF\0", b"ICC_PROFILE\0", b"MPF\0", b"Photoshop 3.0\0" + b"8BIM"]))
        payload, plain = put_segments(JPEG, make_segment(marker, start + bytes(noise))), JPEG
    else:
        name = data.draw(st.sampled_from([b"XMP ", b"ICCP", b"abcd"]))
        payload, plain = make_webp(WEBP, [make_riff_chunk(name, bytes(noise))], [], flags=0x24), WEBP
    assert np.array_equal(decode(payload).image_rgb, show_stored(plain))
