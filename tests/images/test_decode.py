"""Decoded images: upright pixels of all formats, and the reasons of rejected ones."""

import io
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
from pipeline.images.orientation import place_on_stored_pixels
from pipeline.run.records import Reason

MAX_PIXELS = 100_000_000
RED = (200, 30, 40)


def encode(image: Any, image_format: Any, **options: Any) -> bytes:
    payload = io.BytesIO()
    image.save(payload, image_format, **options)
    return payload.getvalue()


def decode(payload: bytes, **options: Any) -> Any:
    decoded = decode_image(payload, **({"max_pixels": MAX_PIXELS} | options))
    assert isinstance(decoded, DecodedImage), decoded
    assert decoded.image_rgb.dtype == np.uint8
    assert decoded.image_rgb.flags.c_contiguous
    return decoded


def reject(payload: bytes, **options: Any) -> Any:
    rejection = decode_image(payload, **({"max_pixels": MAX_PIXELS} | options))
    assert isinstance(rejection, ImageRejection), rejection
    return rejection


def make_photo(height: int = 60, width: int = 90) -> Any:
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def make_exif(orientation: Any) -> Any:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def make_png_of_claimed_size(width: int, height: int) -> bytes:
    def chunk(kind: Any, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def make_jpeg_of_claimed_size(width: int, height: int) -> bytes:
    payload = bytearray(encode(Image.new("RGB", (8, 8)), "JPEG"))
    start_of_frame = payload.index(b"\xff\xc0")
    payload[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", height, width)
    return bytes(payload)


# What every reader of images has to do.


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_image_decodes_to_its_pixels(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    decoded = decode(encode(make_photo(), image_format, **options))
    assert np.array_equal(decoded.image_rgb, np.asarray(make_photo()))
    assert (decoded.stored_height, decoded.stored_width, decoded.exif_orientation) == (60, 90, 1)


def test_jpeg_decodes_close_to_its_pixels() -> None:
    difference = decode(encode(make_photo(), "JPEG", quality=95)).image_rgb.astype(int) - np.asarray(make_photo())
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "GIF"])
def test_animation_decodes_to_its_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in (RED, "blue", "green")]
    options = {"lossless": True} if image_format == "WEBP" else {}
    payload = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(decode(payload).image_rgb, np.full((10, 20, 3), RED))


# Colours.


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_red_jpeg_stays_red(mode: str) -> None:
    pixel = decode(encode(Image.new("RGB", (16, 16), "red").convert(mode), "JPEG", quality=95)).image_rgb[8, 8]
    assert pixel[0] > 245
    assert pixel[1:].max() < 10


def test_red_adobe_cmyk_jpeg_with_inverted_inks_stays_red() -> None:
    payload = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in payload
    pixel = decode(payload).image_rgb[8, 8]
    assert pixel[0] > 245
    assert pixel[1:].max() < 10


@pytest.mark.parametrize(
    ("mode", "image_format"), [("YCbCr", "JPEG"), ("YCbCr", "TIFF"), ("CMYK", "TIFF"), ("P", "GIF")]
)
def test_red_in_other_colour_spaces_stays_red(mode: str, image_format: str) -> None:
    pixel = decode(encode(Image.new("RGB", (16, 16), "red").convert(mode), image_format)).image_rgb[8, 8]
    assert pixel[0] > 245
    assert pixel[1:].max() < 10


def test_lab_image_keeps_its_lightness() -> None:
    pixel = decode(encode(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF")).image_rgb[0, 0]
    assert pixel.min() > 245


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_grey_image_repeats_its_channel(image_format: str) -> None:
    pixels = decode(encode(make_photo().convert("L"), image_format)).image_rgb
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert np.ptp(pixels) > 100


def test_one_bit_image_is_black_and_white() -> None:
    bits = np.eye(8, dtype=bool)
    assert np.array_equal(decode(encode(Image.fromarray(bits), "PNG")).image_rgb[..., 0], bits * 255)


def test_palette_image_shows_its_colours() -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([*RED, 1, 2, 3])
    assert decode(encode(image, "PNG")).image_rgb.tolist() == [[list(RED), [1, 2, 3]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_transparent_pixels_become_white(mode: str, image_format: str) -> None:
    image = Image.new(mode, (2, 1), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255) if mode == "RGBA" else (0, 255))
    options = {"lossless": True} if image_format == "WEBP" else {}
    assert decode(encode(image, image_format, **options)).image_rgb[0].tolist() == [[255] * 3, [0] * 3]


def test_half_transparent_red_is_laid_over_white() -> None:
    assert decode(encode(Image.new("RGBA", (1, 1), (255, 0, 0, 128)), "PNG")).image_rgb[0, 0].tolist() == [
        255,
        127,
        127,
    ]


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_transparent_palette_entry_becomes_white(image_format: str) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([*RED, 1, 2, 3])
    assert decode(encode(image, image_format, transparency=1)).image_rgb.tolist() == [[list(RED), [255] * 3]]


@pytest.mark.parametrize(("mode", "transparent"), [("L", 7), ("RGB", (7, 7, 7)), ("I;16", 7)])
def test_transparent_colour_becomes_white(mode: str, transparent: int | tuple[int, int, int]) -> None:
    image = Image.new(mode, (2, 1), transparent)
    image.putpixel((1, 0), (0, 0, 0) if mode == "RGB" else 0)
    payload = encode(image, "PNG", transparency=transparent)
    assert decode(payload).image_rgb[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.parametrize(("dtype", "image_format"), [("<u2", "PNG"), ("<u2", "TIFF"), (">u2", "TIFF"), ("<i4", "TIFF")])
def test_16_bit_grey_is_scaled_and_not_clipped(dtype: str, image_format: str) -> None:
    ramp = (np.arange(256, dtype=np.uint32) * 257)[None].astype(dtype)
    mode = {"<u2": "I;16", ">u2": "I;16B", "<i4": "I"}[dtype]
    payload = encode(Image.frombytes(mode, (256, 1), ramp.tobytes()), image_format)
    assert decode(payload).image_rgb[0, :, 0].tolist() == list(range(256))


@pytest.mark.parametrize("end", [1.0, 255.0, 65535.0])
def test_float_grey_is_scaled_by_its_nominal_range(end: float) -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32) * np.float32(end)
    assert decode(encode(Image.fromarray(values), "TIFF")).image_rgb[0, :, 0].tolist() == [0, 128, 255]


def test_grey_without_nominal_range_is_stretched() -> None:
    values = np.array([[-100.0, 100.0, np.nan, np.inf]], dtype=np.float32)
    assert decode(encode(Image.fromarray(values), "TIFF")).image_rgb[0, :, 0].tolist() == [0, 255, 128, 128]
    assert decode(encode(Image.new("I", (2, 1), -5), "TIFF")).image_rgb.max() == 0


# Orientation.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_upright_pixels_lie_back_on_the_stored_pixels(orientation: int, image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {"quality": 95} if image_format == "JPEG" else {}
    stored = make_photo(height=16, width=32)
    decoded = decode(encode(stored, image_format, exif=make_exif(orientation), **options))
    assert (decoded.stored_height, decoded.stored_width, decoded.exif_orientation) == (16, 32, orientation)
    assert decoded.image_rgb.shape == ((32, 16, 3) if orientation >= 5 else (16, 32, 3))
    placed = np.stack([place_on_stored_pixels(decoded.image_rgb[..., i], orientation) for i in range(3)], axis=-1)
    difference = np.abs(placed.astype(int) - np.asarray(stored))
    assert difference.mean() < 4 if image_format == "JPEG" else difference.max() == 0


@pytest.mark.parametrize(
    ("orientation", "corner"),
    # Where the EXIF standard says that row 0, column 0 of the stored pixels is seen.
    [
        (1, ("top", "left")),
        (2, ("top", "right")),
        (3, ("bottom", "right")),
        (4, ("bottom", "left")),
        (5, ("top", "left")),
        (6, ("top", "right")),
        (7, ("bottom", "right")),
        (8, ("bottom", "left")),
    ],
)
def test_first_stored_pixel_is_seen_in_the_corner_that_exif_names(orientation: int, corner: tuple[str, str]) -> None:
    stored = Image.new("L", (5, 3))
    stored.putpixel((0, 0), 255)
    # The next stored pixel of the first row lies beside it, or below or above it where the axes are swapped.
    stored.putpixel((1, 0), 100)
    upright = decode(encode(stored, "PNG", exif=make_exif(orientation))).image_rgb[..., 0]
    row, column = (0 if corner[0] == "top" else -1), (0 if corner[1] == "left" else -1)
    assert upright[row, column] == 255
    inward = (row + (1 if row == 0 else -1), column) if orientation >= 5 else (row, column + (1 if column == 0 else -1))
    assert upright[inward] == 100


@pytest.mark.parametrize("orientation", [0, 9, 42])
def test_invalid_orientation_counts_as_none(orientation: int) -> None:
    decoded = decode(encode(make_photo(), "JPEG", exif=make_exif(orientation)))
    assert decoded.exif_orientation == 1
    assert decoded.image_rgb.shape == (60, 90, 3)


def test_broken_exif_loses_only_the_orientation() -> None:
    payload = encode(make_photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    assert decode(payload).exif_orientation == 1


# Reduced decoding.


@pytest.mark.parametrize(
    ("shortest", "expected"), [(None, 400), (400, 400), (201, 400), (200, 200), (64, 100), (1, 50)]
)
def test_jpeg_shrinks_no_further_than_asked(shortest: int | None, expected: int) -> None:
    payload = encode(make_photo(height=400, width=600), "JPEG", exif=make_exif(6))
    decoded = decode(payload, min_short_side_px=shortest)
    assert decoded.image_rgb.shape[1] == expected
    assert (decoded.stored_height, decoded.stored_width) == (400, 600)


def test_reduced_jpeg_shows_the_same_picture() -> None:
    photo = Image.new("RGB", (640, 480), RED)
    photo.paste((20, 40, 200), (320, 0, 640, 480))
    reduced = decode(encode(photo, "JPEG"), min_short_side_px=60).image_rgb
    assert reduced.shape == (60, 80, 3)
    assert np.abs(reduced.astype(int) - np.asarray(photo.resize((80, 60)))).mean() < 6


def test_png_ignores_the_wish_for_a_reduced_size() -> None:
    assert decode(encode(make_photo(), "PNG"), min_short_side_px=10).image_rgb.shape == (60, 90, 3)


# Bad input.


@pytest.mark.parametrize("make", [make_png_of_claimed_size, make_jpeg_of_claimed_size])
def test_image_of_200_megapixels_is_too_large_by_its_header(make: Any) -> None:
    payload = make(20_000, 10_000)
    assert len(payload) < 2_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rejection = reject(payload)
    assert rejection.reason == Reason.TOO_LARGE
    assert rejection.error == "20000 x 10000 pixels are 200000000, limit 100000000"


def test_limit_above_pillows_own_is_ours_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rejection = reject(make_png_of_claimed_size(20_000, 10_000), max_pixels=200_000_000)
    assert rejection.reason == Reason.UNDECODABLE


def test_image_at_the_limit_is_decoded_and_one_above_is_not() -> None:
    payload = encode(make_photo(), "PNG")
    assert decode(payload, max_pixels=60 * 90).stored_width == 90
    assert reject(payload, max_pixels=60 * 90 - 1).reason == Reason.TOO_LARGE


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_image_is_undecodable(image_format: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    payload = encode(noise, image_format)
    rejection = reject(payload[: int(len(payload) * share)])
    assert rejection.reason == Reason.UNDECODABLE
    assert rejection.error


def test_truncated_jpeg_is_undecodable_at_reduced_size_too() -> None:
    payload = encode(make_photo(height=400, width=600), "JPEG")
    assert reject(payload[: len(payload) // 2], min_short_side_px=40).reason == Reason.UNDECODABLE


@pytest.mark.parametrize("payload", [b"", b"no image", b"<svg></svg>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff"])
def test_bytes_of_no_image_are_undecodable_in_the_same_words_every_time(payload: bytes) -> None:
    rejection = reject(payload)
    assert rejection.reason == Reason.UNDECODABLE
    assert "0x" not in rejection.error
    assert rejection == reject(bytes(payload))


VALID_PAYLOADS = (
    encode(make_photo(16, 24), "JPEG", exif=make_exif(6)),
    encode(make_photo(16, 24), "PNG", exif=make_exif(6)),
    encode(make_photo(16, 24).convert("P"), "PNG", transparency=3),
    encode(make_photo(16, 24), "WEBP"),
    encode(make_photo(16, 24), "GIF"),
    encode(make_photo(16, 24), "BMP"),
    encode(make_photo(16, 24), "TIFF", compression="tiff_lzw"),
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_image_never_raises(data: st.DataObject) -> None:
    payload = bytearray(data.draw(st.sampled_from(VALID_PAYLOADS)))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = decode_image(bytes(payload), max_pixels=1_000_000)
    assert isinstance(outcome, DecodedImage | ImageRejection)
