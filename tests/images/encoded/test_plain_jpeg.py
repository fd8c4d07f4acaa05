"""JPEGs that Pillow does not decode: their pixels are those of Pillow, and what is damaged goes to Pillow."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.decode import DecodedImage, ImageRejection, decode_image
from pipeline.images.encoded.plain_jpeg import decode_plain_jpeg
from tests.images.encoded.written_images import encode, make_picture


def decode_with_pillow(jpeg: bytes, short_side_px: int | None = None) -> np.ndarray:
    """Pixels of a JPEG as Pillow alone decodes them."""
    image = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
    if short_side_px is not None:
        image.draft(None, (short_side_px, short_side_px))
    return np.asarray(image.convert("RGB"))


def make_noise(height: int, width: int) -> Image.Image:
    """A picture with sharp edges in all channels, which shows each difference between decoders."""
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 20}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("size", [(1, 1), (17, 31), (64, 48), (233, 350)])
def test_jpeg_has_the_pixels_of_pillow(subsampling: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    jpeg = encode(make_noise(*size), "JPEG", subsampling=subsampling, **options)
    found = decode_plain_jpeg(jpeg, size)
    assert found is not None
    assert (found == decode_with_pillow(jpeg)).all()


@pytest.mark.parametrize("short_side_px", [17, 29, 40, 59, 100])
@pytest.mark.parametrize("size", [(233, 350), (240, 236), (471, 119)])
def test_reduced_jpeg_has_the_pixels_of_pillow(short_side_px: int, size: tuple[int, int]) -> None:
    jpeg = encode(make_noise(*size), "JPEG")
    found = decode_image(jpeg, max_pixels=10**6, min_short_side_px=short_side_px)
    assert isinstance(found, DecodedImage)
    assert (found.image_rgb == decode_with_pillow(jpeg, short_side_px)).all()


def test_grey_jpeg_has_the_pixels_of_pillow() -> None:
    jpeg = encode(make_noise(50, 70).convert("L"), "JPEG")
    found = decode_plain_jpeg(jpeg, (50, 70))
    assert found is not None
    assert (found == decode_with_pillow(jpeg)).all()


def test_jpeg_of_red_green_and_blue_has_the_pixels_of_pillow() -> None:
    # Adobe's marker says that the channels are not luminance and colours.
    jpeg = encode(make_noise(50, 70), "JPEG", keep_rgb=True)
    assert Image.open(io.BytesIO(jpeg)).info["adobe_transform"] == 0
    found = decode_plain_jpeg(jpeg, (50, 70))
    assert found is not None
    assert (found == decode_with_pillow(jpeg)).all()


def test_four_inks_are_left_to_pillow() -> None:
    jpeg = encode(make_picture(mode="CMYK"), "JPEG")
    found = decode_image(jpeg, max_pixels=10**6)
    assert isinstance(found, DecodedImage)
    assert (found.image_rgb == decode_with_pillow(jpeg)).all()


def test_image_larger_than_expected_is_not_decoded() -> None:
    assert decode_plain_jpeg(encode(make_noise(64, 64), "JPEG"), (64, 63)) is None


@given(data=st.data())
def test_damaged_pixels_end_as_with_pillow(data: st.DataObject) -> None:
    options: dict[str, Any] = data.draw(st.sampled_from([{}, {"progressive": True}, {"restart_marker_blocks": 3}]))
    jpeg = bytearray(encode(make_noise(40, 56), "JPEG", **options))
    scan = jpeg.index(b"\xff\xda")
    for _ in range(data.draw(st.integers(1, 3))):
        jpeg[data.draw(st.integers(scan, len(jpeg) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(jpeg[: data.draw(st.integers(scan, len(jpeg)))])
    found = decode_image(damaged, max_pixels=10**6)
    try:
        expected = decode_with_pillow(damaged)
    except OSError:
        assert isinstance(found, ImageRejection)
    else:
        assert isinstance(found, DecodedImage)
        assert (found.image_rgb == expected).all()
