"""Bytes that are no readable image are named as what they are."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from typing import Any

import pytest
from PIL import Image

from pipeline.images.decode import DecodedImage, ImageRejection, decode_image
from pipeline.run.records import Reason
from tests.images.encoded.written_images import encode, make_picture, make_tiff

JPEG = encode(make_picture(), "JPEG")


def reject(payload: bytes) -> str:
    rejection = decode_image(payload, max_pixels=10**6)
    assert isinstance(rejection, ImageRejection)
    assert rejection.reason == Reason.UNDECODABLE
    assert decode_image(bytes(bytearray(payload)), max_pixels=10**6) == rejection
    return rejection.error


def code_otherwise(marker: int = 0xC0, num_bits: int = 8, num_channels: int = 3) -> bytes:
    """Change the header of the frame of a JPEG."""
    jpeg = bytearray(JPEG)
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 1], jpeg[frame + 4], jpeg[frame + 9] = marker, num_bits, num_channels
    return bytes(jpeg)


def make_boxes(*brands: bytes) -> bytes:
    return struct.pack(">I4s4sI", 16 + 4 * (len(brands) - 1), b"ftyp", brands[0], 0) + b"".join(brands[1:]) + bytes(40)


def make_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.jpg", JPEG)
    return buffer.getvalue()


def make_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("photo.jpg"))
    return buffer.getvalue()


FOREIGN: dict[str, tuple[bytes, str]] = {
    "12 bits": (code_otherwise(0xC1, num_bits=12), "a JPEG of 12 bits a sample"),
    "12 bits, progressive": (code_otherwise(0xC2, num_bits=12), "a JPEG of 12 bits a sample"),
    "lossless, 16 bits": (code_otherwise(0xC3, num_bits=16), "a lossless JPEG (SOF3) of 16 bits a sample"),
    "hierarchical": (code_otherwise(0xC5), "a hierarchical JPEG (SOF5)"),
    "Targa": (b"\0\0\x02" + bytes(9) + b"\x05\0\x05\0\x18\0" + bytes(75), "a Targa image (TGA)"),
    "cursor": (b"\0\0\x02\0\x01\0\x20\x20" + bytes(60), "a cursor (CUR)"),
    "JPEG-LS": (code_otherwise(0xF7), "a JPEG-LS"),
    "two channels": (code_otherwise(num_channels=2), "a JPEG of 2 channels"),
    "JPEG XL": (b"\xff\x0a" + bytes(range(200)), "a JPEG XL"),
    "JPEG XL in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "a JPEG XL"),
    "JPEG 2000": (encode(make_picture(), "JPEG2000"), "a JPEG 2000"),
    "JPEG 2000 without boxes": (encode(make_picture(), "JPEG2000", no_jp2=True), "a JPEG 2000"),
    "HEIC": (make_boxes(b"heic", b"mif1", b"heic"), "a HEIC/HEIF image"),
    "HEIF": (make_boxes(b"mif1", b"mif1", b"heix"), "a HEIC/HEIF image"),
    "MP4": (make_boxes(b"isom", b"iso2", b"mp41"), "an MP4 video"),
    "QuickTime": (make_boxes(b"qt  "), "a QuickTime video"),
    "CR3": (make_boxes(b"crx ", b"isom"), "a raw file of a Canon camera (CR3)"),
    "CR2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(50), "a raw file of a Canon camera (CR2)"),
    "RAF": (b"FUJIFILMCCD-RAW 0201" + bytes(50), "a raw file of a Fujifilm camera (RAF)"),
    "WebM": (b"\x1aE\xdf\xa3" + bytes(50), "a WebM or Matroska video"),
    "AVI": (b"RIFF\0\0\0\0AVI LIST" + bytes(50), "an AVI video"),
    "PSD": (b"8BPS\0\1" + bytes(50), "a Photoshop document (PSD)"),
    "icon": (encode(make_picture(32, 32), "ICO"), "an icon (ICO)"),
    "PNM": (encode(make_picture(), "PPM"), "a PNM image (PBM, PGM, PPM)"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "PDF": (b"%PDF-1.7\n" + bytes(50), "a PDF document"),
    "web page": (b"\n <!DOCTYPE html>\n<html><body>404</body></html>", "a web page (HTML)"),
    "web page in UTF-16": ("<html><body>404</body></html>".encode("utf-16"), "a web page (HTML)"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "an XML document that begins with '<?xml"),
    "JSON": (json.dumps({"error": "not found"}).encode(), 'JSON that begins with \'{"error": "not found"}\''),
    "text": ("Größe:\x20nicht gefunden\n".encode(), "a text that begins with 'Größe: nicht gefunden'"),
    "long text": ("ä".encode() * 5001, "a text that begins with '" + "ä" * 40 + "'"),
    "white space": (b" \n\n", "white space"),
    "base64": (b"/9j/4AAQSkZJRgABAQ", "base64 text of an image, not its bytes"),
    "data URL": (b"data:image/png;base64,iVBORw0KGgo=", "a data URL, not the bytes in it"),
    "gzip": (gzip.compress(JPEG), "a gzip file"),
    "zip": (make_zip(), "a zip archive"),
    "tar": (make_tar(), "a tar archive"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n", "a pointer of Git LFS"),
    "zeros": (bytes(5000), "5000 zero bytes"),
    "Apple's PNG": (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 4, b"CgBI", 0x50002002, 0) + bytes(20),
        "a PNG in the form of Apple's tools (CgBI)",
    ),
    "preview of a sensor": (
        make_tiff(make_picture(), [(254, 4, 1, 1), (330, 4, 1, 8)]),
        "a raw file of a camera, whose first image is a preview",
    ),
    "DNG": (make_tiff(make_picture(), [(254, 4, 1, 1), (50706, 1, 4, 0x0401)]), "a raw file of a camera (DNG)"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_bytes_that_cannot_be_decoded_are_named_as_what_they_are(kind: str) -> None:
    payload, name = FOREIGN[kind]
    error = reject(payload)
    assert error.startswith(f"not an image that can be read but {name}")
    assert error.endswith("; the formats are JPEG, PNG, WEBP, GIF, BMP, TIFF and AVIF")
    assert error.isprintable()


def test_no_bytes_and_unknown_bytes_have_words_of_their_own() -> None:
    assert reject(b"") == "the image has no bytes"
    assert reject(b"\x01\xfe\x80\x99" * 9).endswith("it begins with 01 fe 80 99 01 fe 80 99")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_damaged_image_of_a_readable_format_is_not_called_a_foreign_one(image_format: str) -> None:
    payload = encode(make_picture(), image_format)
    for damaged in (payload[:24] + bytes(60), payload[: len(payload) // 2]):
        assert reject(damaged).startswith("cannot be decoded: ")


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({258: 32, 339: 3}, "3 samples of 32 bits, floating point, uncompressed"),
        ({259: 33003}, "3 samples of 8 bits, unsigned, JPEG 2000"),
        ({259: 12345}, "3 samples of 8 bits, unsigned, compression 12345"),
    ],
)
def test_tiff_in_a_layout_that_the_decoder_does_not_read_is_described(tags: dict[int, int], words: str) -> None:
    entries = {256: 4, 257: 4, 258: 8, 259: 1, 262: 2, 273: 8, 277: 3, 278: 4, 279: 192, 339: 1} | tags
    # The bits of the three samples follow the table.
    end = 8 + 2 + 12 * len(entries) + 4
    table = b"".join(
        struct.pack("<HHII", tag, 3, 3, end) if tag == 258 else struct.pack("<HHIHH", tag, 3, 1, value, 0)
        for tag, value in sorted(entries.items())
    )
    payload = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4)
    assert f"does not read this TIFF ({words}), or it is damaged" in reject(
        payload + struct.pack("<3H", *[entries[258]] * 3) + bytes(200)
    )


def test_terminal_escapes_in_a_text_are_not_repeated() -> None:
    assert "\x1b" not in reject(b"text \x1b[2J with escapes")


@pytest.mark.parametrize("further", [[(254, 4, 1, 0), (330, 4, 1, 8)], [(254, 4, 1, 1)], [(50706, 1, 4, 0x0401)]])
def test_tiff_whose_first_image_is_the_picture_is_decoded(further: Any) -> None:
    assert isinstance(decode_image(make_tiff(make_picture(), further), max_pixels=10**6), DecodedImage)


def test_jpeg_of_any_coding_that_the_decoder_reads_is_decoded() -> None:
    for options in ({}, {"progressive": True}):
        payload = encode(Image.new("L", (20, 20)), "JPEG", **options)
        assert isinstance(decode_image(payload, max_pixels=10**6), DecodedImage)
