"""Pixels with a colour profile become sRGB; those with a broken one stay as they are."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.images.decode import DecodedImage, decode_image
from tests.images.encoded.written_images import encode, make_chunk, make_picture, put_chunks

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D50 = (0.9642, 1.0, 0.8249)
# Red, green and blue of Display P3 and sRGB under D50, as their profiles state them.
P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
SRGB_PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))


def make_profile(space: bytes = b"RGB ", device: bytes = b"mntr", curve: bytes = b"", name: bytes = b"wide") -> bytes:
    """Write a profile of the primaries of Display P3 and a gamma of 2.2."""

    def place(values: tuple[float, ...]) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in values))

    text = name + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": place(D50),
    }
    for letter, primary in zip((b"r", b"g", b"b"), P3, strict=True):
        tags[letter + b"XYZ"] = place(primary)
        tags[letter + b"TRC"] = curve or b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(2.2 * 256))
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytes(8) + b"\2\x40\0\0" + device + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    head = (head + place(D50)[8:]).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(head)) + head[4:]


def decode(payload: bytes) -> np.ndarray:
    decoded = decode_image(payload, max_pixels=10**6)
    assert isinstance(decoded, DecodedImage)
    return decoded.image_rgb


def convert_by_hand(pixels: np.ndarray) -> np.ndarray:
    linear = (pixels / 255) ** 2.2 @ np.array(P3) @ np.linalg.inv(np.array(SRGB_PRIMARIES))
    linear = linear.clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * curved)


def make_muted_picture() -> Image.Image:
    """A picture without colours that sRGB lacks."""
    return Image.fromarray((96 + np.asarray(make_picture()) // 4).astype(np.uint8))


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_wide_gamut_becomes_srgb(image_format: str) -> None:
    picture = make_muted_picture()
    options = {"lossless": True} if image_format == "WEBP" else {}
    pixels = decode(encode(picture, image_format, icc_profile=make_profile(), **options))
    expected = convert_by_hand(np.asarray(picture))
    assert np.abs(pixels - expected).max() <= 3
    assert np.abs(np.asarray(picture) - expected).max() > 8


@pytest.mark.parametrize("image_format", ["JPEG", "AVIF"])
def test_wide_gamut_of_a_lossy_format_becomes_srgb(image_format: str) -> None:
    picture = Image.new("RGB", (32, 32), (180, 90, 90))
    options = {"quality": 95, "subsampling": 0 if image_format == "JPEG" else "4:4:4"}
    pixels = decode(encode(picture, image_format, icc_profile=make_profile(), **options))
    assert np.abs(pixels - convert_by_hand(np.asarray(picture))).max() <= 5
    assert np.abs(pixels - np.asarray(picture).astype(int)).max() > 8


def test_colours_of_a_palette_and_under_transparency_become_srgb() -> None:
    for picture in (Image.new("RGB", (8, 8), (180, 90, 90)).quantize(2), Image.new("RGBA", (8, 8), (180, 90, 90, 255))):
        pixel = decode(encode(picture, "PNG", icc_profile=make_profile()))[4, 4]
        assert np.abs(pixel - convert_by_hand(np.array((180, 90, 90)))).max() <= 3


@pytest.mark.parametrize("profile", [SRGB, make_profile(name=b"sRGB IEC61966-2.1")])
def test_pixels_that_are_srgb_stay_the_same_to_the_bit(profile: bytes) -> None:
    assert np.array_equal(decode(encode(make_picture(), "PNG", icc_profile=profile)), np.asarray(make_picture()))


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        bytes(500),
        make_profile()[:200],
        make_profile(space=b"GRAY"),
        make_profile(space=b"CMYK"),
        make_profile(device=b"link"),
        make_profile(curve=b"mpet" + bytes(20)),
        make_profile(curve=b"curv" + bytes(4) + b"\xff\xff\xff\xff"),
        make_profile()[:128] + b"\xff\xff\xff\xff" + make_profile()[132:],
    ],
)
def test_broken_or_foreign_profile_changes_no_pixel(profile: bytes) -> None:
    assert np.array_equal(decode(encode(make_picture(), "PNG", icc_profile=profile)), np.asarray(make_picture()))


def test_profile_with_a_wrong_checksum_changes_no_pixel() -> None:
    png = encode(make_picture(), "PNG", icc_profile=make_profile())
    start = png.index(b"iCCP")
    content = png[start + 4 : start + 4 + int.from_bytes(png[start - 4 : start], "big")]
    damaged = put_chunks(encode(make_picture(), "PNG"), [make_chunk(b"iCCP", content, checksum_change=1)])
    assert np.array_equal(decode(damaged), np.asarray(make_picture()))


def test_grey_and_inks_keep_their_pixels_beside_a_profile_of_other_channels() -> None:
    grey = make_picture(mode="L")
    assert np.array_equal(decode(encode(grey, "PNG", icc_profile=make_profile()))[..., 0], np.asarray(grey))
    inks = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95, icc_profile=make_profile())
    assert decode(inks)[8, 8, 0] > 245
    assert decode(inks)[8, 8, 1:].max() < 10


def make_profile_of_inks() -> bytes:
    """Write a profile of inks: paper is white, black is grey, and all others are a muted red (48, 60, 40 in Lab)."""

    def encode_lab(lightness: float, a: float, b: float) -> bytes:
        return bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])

    corners = b"".join(
        encode_lab(100, 0, 0) if corner == 0 else encode_lab(50, 0, 0) if corner == 1 else encode_lab(48, 60, 40)
        for corner in range(16)
    )
    identity = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    table = b"mft1" + bytes(4) + b"\4\3\2\0" + identity + 4 * bytes(range(256)) + corners + 3 * bytes(range(256))
    white = b"XYZ " + bytes(4) + struct.pack(">3i", *(round(65536 * value) for value in D50))
    tags = {b"A2B0": table, b"wtpt": white, b"cprt": b"text" + bytes(4) + b"none\0"}
    listed, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, content in tags.items():
        listed += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytes(8) + b"\2\x40\0\0" + b"prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28) + white[8:]
    profile = head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + listed + body
    return struct.pack(">I", len(profile)) + profile[4:]


@pytest.mark.parametrize(
    ("inks", "expected"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (119, 119, 119)), ((0, 255, 255, 0), (207, 54, 51))],
)
def test_inverted_inks_of_a_jpeg_have_the_colours_of_their_profile(
    inks: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    payload = encode(Image.new("CMYK", (16, 16), inks), "JPEG", quality=95, icc_profile=make_profile_of_inks())
    assert b"Adobe" in payload
    assert np.abs(decode(payload)[8, 8].astype(int) - expected).max() <= 12
