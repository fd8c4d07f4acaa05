"""Images are turned as their EXIF says; an orientation in XMP turns none, as in browsers and OpenCV."""

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.images.decode import DecodedImage, decode_image
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
NO_ORIENTATION = make_exif_block(None)


def put_into_jpeg(exif: bytes | None) -> bytes:
    segments = [make_segment(0xE1, XMP_NAME + XMP)]
    if exif is not None:
        segments.insert(0, make_segment(0xE1, b"Exif\0\0" + exif))
    return put_segments(encode(PICTURE, "JPEG"), *segments)


def put_into_png(exif: bytes | None) -> bytes:
    chunks = [make_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)]
    return put_chunks(encode(PICTURE, "PNG"), chunks + ([make_chunk(b"eXIf", exif)] if exif is not None else []))


def put_into_webp(exif: bytes | None) -> bytes:
    chunks = [make_riff_chunk(b"EXIF", exif)] if exif is not None else []
    return make_webp(encode(PICTURE, "WEBP"), [], [*chunks, make_riff_chunk(b"XMP ", XMP)], flags=0x0C)


def put_into_tiff(exif: bytes | None) -> bytes:
    """The entries of a TIFF are its EXIF; an orientation is 8 here."""
    place = len(make_tiff(PICTURE)) + 12 * (2 if exif in (None, NO_ORIENTATION) else 3)
    entries = [(700, 1, len(XMP), place), (271, 2, 4, 0x61616161)]
    if exif not in (None, NO_ORIENTATION):
        entries.append((274, 3, 1, 8))
    return make_tiff(PICTURE, entries) + XMP


def put_into_avif(exif: bytes | None) -> bytes:
    """An AVIF is turned by a box of its own, which the encoder writes for the orientation in EXIF."""
    return encode(PICTURE, "AVIF", xmp=XMP, **({} if exif is None else {"exif": b"Exif\0\0" + exif}))


WRITERS = [put_into_jpeg, put_into_png, put_into_webp, put_into_tiff, put_into_avif]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("exif", [None, NO_ORIENTATION])
def test_orientation_in_xmp_alone_turns_no_image(write: Callable[[bytes | None], bytes], exif: bytes | None) -> None:
    payload = write(exif)
    assert b'tiff:Orientation="6"' in payload
    decoded = decode_image(payload, max_pixels=10**6)
    assert isinstance(decoded, DecodedImage)
    assert decoded.image_rgb.shape == (24, 36, 3)
    assert (decoded.stored_height, decoded.stored_width, decoded.exif_orientation) == (24, 36, 1)


@pytest.mark.parametrize("write", WRITERS)
def test_orientation_in_exif_turns_an_image_whose_xmp_differs(write: Callable[[bytes | None], bytes]) -> None:
    decoded = decode_image(write(make_exif_block(8)), max_pixels=10**6)
    assert isinstance(decoded, DecodedImage)
    assert decoded.image_rgb.shape == (36, 24, 3)
    assert decoded.exif_orientation == 8
    # The first stored pixel is seen below, on the left.
    assert np.abs(decoded.image_rgb[-1, 0].astype(int) - np.asarray(PICTURE)[0, 0]).max() < 60
