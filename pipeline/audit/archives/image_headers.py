"""Size and orientation of images from their first bytes, as an audit reads them.

No code is shared with the decoder of labelling. Damaged text, profiles and metadata do not matter here, as they do not
matter to pixels.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT, ORIENTATION = 256, 257, 274
"""Tags of TIFF and EXIF."""
MAX_TRIES = 64
"""Chunks of EXIF that are looked at."""

_PNG_END = b"IEND\xaeB`\x82"
_JPEG_FRAME = re.compile(rb"\xff[\xc0-\xc2\xc9\xca]\0([\x0b\x0e\x11\x14])\x08(..)(..)([\x01-\x04])", re.DOTALL)
_JPEG_METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})
_AVIF_ITEM = re.compile(rb"(infe[\x02\x03].{7}(?:..)?)(?:Exif|mime)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """Size as stored, in pixels, and orientation."""

    width: int
    height: int
    orientation: int | None
    """EXIF orientation, 1 to 8; None if it may follow the bytes that were read, or damage hides it."""


def read_header(payload: bytes, is_whole: bool) -> ImageHeader | None:
    """Read the header of a JPEG, PNG, WebP or TIFF; None for other formats, and for headers of other forms.

    Args:
        payload: The file or its first bytes.
        is_whole: True if it is the whole file.
    """
    if payload.startswith(b"\xff\xd8"):
        return _read_jpeg(payload)
    if payload.startswith(b"\x89PNG\r\n\x1a\n") and payload[12:16] == b"IHDR":
        width, height = struct.unpack_from(">II", payload, 16)
        return ImageHeader(width=width, height=height, orientation=_find_png_orientation(payload, is_whole))
    if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP":
        return _read_webp(payload, is_whole)
    return _read_tiff(payload) if payload[:4] in (b"II*\0", b"MM\0*") else None


def hide_avif_exif(payload: bytes) -> bytes:
    """Rename the EXIF and XMP of an AVIF, which do not turn it and on which Pillow may fail."""
    return _AVIF_ITEM.sub(rb"\1none", payload) if payload[4:8] == b"ftyp" else payload


def read_orientation(exif: bytes) -> int:
    """Orientation in a block of EXIF; 1 if it has none, or is broken."""
    found = _read_number(exif.removeprefix(b"Exif\0\0"), ORIENTATION)
    return found if found is not None and 1 <= found <= 8 else 1


def _read_number(tiff: bytes, wanted: int) -> int | None:
    """Number in an entry of the first image of a TIFF, of which a block of EXIF is one; None if there is none."""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return None
    start = int.from_bytes(tiff[4:8], order)
    for number in range(int.from_bytes(tiff[start : start + 2], order)):
        entry = tiff[start + 2 + 12 * number : start + 14 + 12 * number]
        size = {3: 2, 4: 4}.get(int.from_bytes(entry[2:4], order))
        is_one = len(entry) == 12 and int.from_bytes(entry[4:8], order) == 1
        if is_one and size and int.from_bytes(entry[:2], order) == wanted:
            return int.from_bytes(entry[8 : 8 + size], order)
    return None


def _read_jpeg(jpeg: bytes) -> ImageHeader | None:
    """Read the segments before the pixels; if one does not end where the next begins, find the largest frame."""
    place, size, exif = 2, None, b""
    while (marker := jpeg[place + 1 : place + 2]) != b"\xda":
        length = int.from_bytes(jpeg[place + 2 : place + 4], "big")
        content = jpeg[place + 4 : place + 2 + length]
        if jpeg[place : place + 1] != b"\xff" or marker == b"" or length < 2:
            return _find_largest_frame(jpeg)
        if b"\xc0" <= marker <= b"\xcf" and marker not in (b"\xc4", b"\xc8", b"\xcc"):
            size = struct.unpack_from(">HH", content, 1)
        if marker == b"\xe1" and content.startswith(b"Exif\0\0"):
            # A long block is continued in the next segment.
            exif += content[6:]
        place += 2 + length
        # Filling bytes may precede a marker.
        while jpeg[place : place + 2] == b"\xff\xff":
            place += 1
    if size is None:
        return _find_largest_frame(jpeg)
    return ImageHeader(width=size[1], height=size[0], orientation=read_orientation(b"Exif\0\0" + exif) if exif else 1)


def _find_largest_frame(jpeg: bytes) -> ImageHeader | None:
    sizes = [struct.unpack(">HH", found[2] + found[3]) for found in _JPEG_FRAME.finditer(jpeg)]
    if not sizes:
        return None
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    return ImageHeader(width=width, height=height, orientation=None)


def _find_png_orientation(png: bytes, is_whole: bool) -> int | None:
    """Orientation in the first intact chunk of EXIF."""
    end = png.find(_PNG_END)
    pixels = png[: end if end >= 0 else None]
    for found in list(re.finditer(b"eXIf", pixels))[:MAX_TRIES]:
        stop = found.end() + int.from_bytes(pixels[found.start() - 4 : found.start()], "big")
        if zlib.crc32(pixels[found.start() : stop]) == int.from_bytes(png[stop : stop + 4], "big"):
            return read_orientation(pixels[found.end() : stop])
    return 1 if is_whole or end >= 0 else None


def _read_webp(webp: bytes, is_whole: bool) -> ImageHeader | None:
    kind = webp[12:16]
    if kind == b"VP8 " and webp[23:26] == b"\x9d\x01*":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", webp, 26))
        return ImageHeader(width=width, height=height, orientation=1)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", webp, 21)
        return ImageHeader(width=(bits & 0x3FFF) + 1, height=(bits >> 14 & 0x3FFF) + 1, orientation=1)
    if kind != b"VP8X":
        return None
    width, height = (int.from_bytes(webp[place : place + 3], "little") + 1 for place in (24, 27))
    place = 20 + int.from_bytes(webp[16:20], "little")
    orientation: int | None = None
    while place < len(webp):
        name, length = webp[place : place + 4], int.from_bytes(webp[place + 4 : place + 8], "little")
        if not name.isascii() or not name.strip().isalnum() or place + 8 + length > len(webp):
            return ImageHeader(width=width, height=height, orientation=None)
        if name == b"EXIF" and orientation is None:
            orientation = read_orientation(webp[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    return ImageHeader(width=width, height=height, orientation=orientation or (1 if is_whole else None))


def _read_tiff(tiff: bytes) -> ImageHeader | None:
    width, height = (_read_number(tiff, tag) for tag in (WIDTH, HEIGHT))
    if width is None or height is None:
        return None
    return ImageHeader(width=width, height=height, orientation=read_orientation(tiff))
