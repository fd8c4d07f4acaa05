"""The parts of an encoded image that its pixels need.

Text, previews, metadata and profiles that are damaged, huge or of no use to pixels are left out before a decoder reads
them: decoders fail on many of them, and browsers do not.
"""

import re
import struct
from typing import NamedTuple

from pipeline.images.encoded.boxes import find_box, is_avif, list_item_kinds
from pipeline.images.encoded.jpeg_parts import keep_jpeg_parts
from pipeline.images.encoded.png_parts import MAX_PROFILE_BYTES, SIGNATURE, keep_png_parts

_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_KEPT = re.compile(rb"VP8 |VP8L|ALPH|ANIM|ANMF|EXIF|ICCP")
_WEBP_FLAGS = {b"ICCP": 0x20, b"EXIF": 0x08}
_WEBP_XMP = 0x04
MAX_TRIES = 10_000
"""Places at which an intact chunk is looked for."""

MAX_TIFF_PROFILE_BYTES = 4 * 2**20
"""Profiles of printing inks, which TIFFs carry, have up to three megabytes."""
_TIFF_PIXELS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284, 292, 293, 297}
    | {301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 332, 334, 336, 338, 339, 340, 341, 342, 347, 512, 513, 514}
    | {515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 50674}
)
"""Tags of TIFF that describe pixels, in its standard and the extensions that libtiff decodes."""
_TIFF_PROFILE, _TIFF_SUBFILE, _TIFF_SUBIMAGES, _TIFF_PHOTOMETRIC, _TIFF_DNG = 34675, 254, 330, 262, 50706
_TIFF_SENSORS = (32803, 34892)
_TIFF_BYTES, _TIFF_SHORT = (1, 7), 3
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_NUM_SAMPLES, _TIFF_SAMPLE_KIND = 258, 259, 277, 339
_TIFF_LAYOUT = (_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_NUM_SAMPLES, _TIFF_SAMPLE_KIND)
_TIFF_SAMPLE_KINDS = {1: "unsigned", 2: "signed", 3: "floating point", 5: "complex", 6: "complex floating point"}
_TIFF_COMPRESSIONS = {
    **{1: "uncompressed", 2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "old JPEG", 7: "JPEG", 8: "Deflate"},
    **{32773: "PackBits", 32946: "Deflate", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000"},
    **{34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP"},
    **{22610: "JPEG XR", 34934: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL"},
}


class _Entry(NamedTuple):
    """Entry of a TIFF; `value` is an offset if the values do not fit into it."""

    tag: int
    kind: int
    length: int
    value: int
    content: bytes


def keep_needed_parts(payload: bytes) -> bytes:
    """Leave out the parts of an image that pixels, orientation and colours do not need.

    Raises:
        SyntaxError: A part that pixels need is damaged. Most damage is left to the decoder.
    """
    if payload.startswith(b"\xff\xd8"):
        return keep_jpeg_parts(payload)
    if payload.startswith(SIGNATURE):
        return keep_png_parts(payload)
    if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP":
        return _keep_webp_parts(payload)
    if payload[:4] in (b"II*\0", b"MM\0*"):
        return _keep_tiff_parts(payload)
    if is_avif(payload):
        return _hide_avif_metadata(payload)
    return payload


def _keep_webp_parts(webp: bytes) -> bytes:
    """Keep the chunks of pixels, and intact ones of EXIF and profile; write the header for them."""
    if webp[12:16] != b"VP8X" or webp[16:20] != b"\x0a\0\0\0" or len(webp) < 30:
        return webp
    chunks: list[tuple[bytes, bytes]] = []
    place, tries = 30, MAX_TRIES
    while place + 8 <= len(webp) and tries > 0:
        name, (length,) = webp[place : place + 4], struct.unpack_from("<I", webp, place + 4)
        end = place + 8 + length + length % 2
        is_whole = place + 8 + length <= len(webp)
        if name in _WEBP_PIXELS:
            # The decoder finds out whether the pixels are all there.
            chunks.append((name, webp[place:end]))
        elif is_whole and _is_webp_chunk(webp, end):
            if name == b"EXIF" or (name == b"ICCP" and length <= MAX_PROFILE_BYTES):
                chunks.append((name, webp[place:end].ljust(end - place, b"\0")))
        else:
            tries -= 1
            found = _WEBP_KEPT.search(webp, place + 4)
            end = found.start() if found else len(webp)
        place = end
    names = {name for name, _ in chunks}
    flags = webp[20] & ~(sum(_WEBP_FLAGS.values()) | _WEBP_XMP)
    flags |= sum(flag for name, flag in _WEBP_FLAGS.items() if name in names)
    body = b"WEBPVP8X" + webp[16:20] + bytes([flags]) + webp[21:30] + b"".join(chunk for _, chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _is_webp_chunk(webp: bytes, place: int) -> bool:
    """True if the file ends here, or another chunk may begin."""
    return place >= len(webp) or webp[place : place + 4].strip().isalnum()


def _keep_tiff_parts(tiff: bytes) -> bytes:
    """Keep the entries of the first image that describe pixels, orientation and profile, and no further images."""
    entries = _list_tiff_entries(tiff)
    if not entries:
        return tiff
    order, start = _find_tiff_table(tiff)
    kept = [entry.content for entry in entries if _describes_pixels(entry, len(tiff))]
    table = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return tiff[:start] + table + tiff[start + len(table) :]


def find_preview(payload: bytes) -> str:
    """Name a TIFF whose first image only previews pixels of a sensor; empty for others."""
    values = {entry.tag: entry.value for entry in _list_tiff_entries(payload)}
    is_preview = bool(values.get(_TIFF_SUBFILE, 0) & 1)
    if _TIFF_DNG in values and (is_preview or values.get(_TIFF_PHOTOMETRIC) in _TIFF_SENSORS):
        return "a raw file of a camera (DNG)"
    return "a raw file of a camera, whose first image is a preview" if is_preview and _TIFF_SUBIMAGES in values else ""


def describe_tiff(payload: bytes) -> str:
    """Describe how a TIFF stores its first image, such as "3 samples of 32 bits, floating point"; empty for others."""
    entries = {entry.tag: entry for entry in _list_tiff_entries(payload)}
    if not {_TIFF_WIDTH, _TIFF_HEIGHT} <= entries.keys():
        return ""
    values = {tag: _read_first_value(payload, entry) for tag, entry in entries.items() if tag in _TIFF_LAYOUT}
    number, bits = values.get(_TIFF_NUM_SAMPLES, 1), values.get(_TIFF_BITS, 1)
    kind = _TIFF_SAMPLE_KINDS.get(values.get(_TIFF_SAMPLE_KIND, 1), "of an unknown kind")
    compression = values.get(_TIFF_COMPRESSION, 1)
    how = _TIFF_COMPRESSIONS.get(compression, f"compression {compression}")
    return f"{number} {'sample' if number == 1 else 'samples'} of {bits} bits, {kind}, {how}"


def _read_first_value(tiff: bytes, entry: _Entry) -> int:
    """First of the values of an entry; 0 if they lie outside the file."""
    if entry.kind != _TIFF_SHORT or entry.length <= 2:
        return entry.value
    order, _ = _find_tiff_table(tiff)
    (place,) = struct.unpack_from(order + "L", entry.content, 8)
    return int.from_bytes(tiff[place : place + 2], "little" if order == "<" else "big")


def _find_tiff_table(tiff: bytes) -> tuple[str, int]:
    """Order of bytes, and offset of the entries of the first image."""
    order = "<" if tiff[:2] == b"II" else ">"
    return order, struct.unpack_from(order + "L", tiff, 4)[0]


def _list_tiff_entries(tiff: bytes) -> list[_Entry]:
    """List the entries of the first image of a TIFF; none for other formats or if the list is truncated."""
    if tiff[:4] not in (b"II*\0", b"MM\0*") or len(tiff) < 10:
        return []
    order, start = _find_tiff_table(tiff)
    if not 8 <= start <= len(tiff) - 2:
        return []
    (num_entries,) = struct.unpack_from(order + "H", tiff, start)
    end = start + 2 + 12 * num_entries
    if end > len(tiff):
        return []
    entries = []
    for place in range(start + 2, end, 12):
        tag, kind, length, value = struct.unpack_from(order + "HHLL", tiff, place)
        if kind == _TIFF_SHORT:
            (value,) = struct.unpack_from(order + "H", tiff, place + 8)
        entries.append(_Entry(tag, kind, length, value, tiff[place : place + 12]))
    return entries


def _describes_pixels(entry: _Entry, num_bytes: int) -> bool:
    if entry.tag == _TIFF_PROFILE:
        is_whole = 4 < entry.length <= MAX_TIFF_PROFILE_BYTES and entry.value + entry.length <= num_bytes
        return entry.kind in _TIFF_BYTES and is_whole
    return entry.tag in _TIFF_PIXELS


def _hide_avif_metadata(avif: bytes) -> bytes:
    """Rename the items of EXIF and XMP, so that the decoder does not read them; orientation has a box of its own."""
    meta = find_box(avif, 0, len(avif), b"meta")
    if meta is None:
        return avif
    try:
        places = [place for kind, place in list_item_kinds(avif, meta).values() if kind in (b"Exif", b"mime")]
    except (ValueError, IndexError):
        return avif
    if not places:
        return avif
    hidden = bytearray(avif)
    for place in places:
        hidden[place : place + 4] = b"none"
    return bytes(hidden)
