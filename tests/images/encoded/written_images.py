"""Images written by hand around pixels that an encoder made, with all the metadata that files carry."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF>'
    b"</x:xmpmeta>"
)
XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
"""What a segment of a JPEG with XMP begins with."""


def make_picture(height: int = 24, width: int = 36, mode: str = "RGB") -> Image.Image:
    """A smooth picture, from whose pixels each format decodes the same ones every time."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows * columns) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Encode without metadata."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def make_exif_block(orientation: int | None, order: str = ">", maker_at: int | None = None) -> bytes:
    """Write EXIF: a maker, then the orientation; `maker_at` replaces the offset of the maker."""
    entries = [struct.pack(order + "HHLL", 0x010F, 2, 6, 38 if maker_at is None else maker_at)]
    if orientation is not None:
        entries.append(struct.pack(order + "HHLHH", 0x0112, 3, 1, orientation, 0))
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "LH", 8, len(entries))
    return (head + b"".join(entries) + bytes(4)).ljust(38, b"\0") + b"maker\0"


def make_chunk(name: bytes, content: bytes, checksum_change: int = 0, length_change: int = 0) -> bytes:
    """Write a chunk of a PNG, with a wrong checksum or length if so asked."""
    checksum = zlib.crc32(name + content) ^ checksum_change
    return struct.pack(">I", len(content) + length_change) + name + content + struct.pack(">I", checksum)


def put_chunks(png: bytes, chunks: Sequence[bytes], *, at_end: bool = False) -> bytes:
    """Insert chunks after the header of a PNG, or before its end."""
    place = len(png) - 12 if at_end else 33
    return png[:place] + b"".join(chunks) + png[place:]


def make_segment(marker: int, content: bytes, length_change: int = 0) -> bytes:
    """Write a segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2 + length_change) + content


def put_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """Insert segments at the start of a JPEG."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def make_riff_chunk(name: bytes, content: bytes, length_change: int = 0) -> bytes:
    """Write a chunk of a WebP."""
    padding = bytes(len(content) % 2)
    return name + struct.pack("<I", len(content) + length_change) + content + padding


def make_webp(pixels: bytes, before: Sequence[bytes], after: Sequence[bytes], flags: int) -> bytes:
    """Write an extended WebP around the chunks of pixels of a plain one."""
    with Image.open(io.BytesIO(pixels)) as image:
        width, height = image.size
    header = bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + make_riff_chunk(b"VP8X", header) + b"".join(before) + pixels[12:] + b"".join(after)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def make_tiff(image: Image.Image, further: Sequence[tuple[int, int, int, int]] = ()) -> bytes:
    """Write a TIFF of plain RGB pixels, with further entries: tag, type, number of values, value or offset."""
    width, height = image.size
    pixels = image.tobytes()
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 14),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
        *further,
    ]
    packed = b"".join(struct.pack("<HHLL", *entry) for entry in sorted(entries))
    depths = struct.pack("<3H", 8, 8, 8)
    start = 8 + len(depths) + len(pixels)
    return b"II*\0" + struct.pack("<L", start) + depths + pixels + struct.pack("<H", len(entries)) + packed + bytes(4)
