"""Limits on the structure of encoded images, which reject images that would take a decoder minutes.

A limit of time would reject other images on a slower machine; these limits depend on the bytes alone. Each is far above
what encoders and cameras write. Broken images are left to the decoder.
"""

import re
import struct

from pipeline.images.encoded.boxes import is_avif, read_avif

MAX_SCANS = 100
"""Scans of a JPEG; a progressive JPEG has ten, one of a tool that minimises file size some dozens."""
MAX_SCANNED_PIXELS = 1_500_000_000
"""Pixels times scans, at about 10 ns each. A progressive JPEG of 100 million pixels has 1,000 million."""
USUAL_SCANS = 15
"""Scans of the largest image allowed: a higher limit on pixels raises that on scanned pixels."""
MAX_SEGMENTS = 100_000
"""Segments and stray bytes before the pixels of a JPEG; depth maps and colour profiles have hundreds."""
MAX_EXIF_SEGMENTS = 64
"""One is usual. For each further segment Pillow copies all previous ones."""
SEGMENT_BYTES = 64
"""Least mean size of chunks and blocks of a PNG, WebP or GIF, beyond `MAX_SEGMENTS`."""
MAX_TIFF_ENTRIES = 65_535
MAX_TIFF_VALUES = 1_000_000
"""Values of one entry, such as offsets of strips: Pillow makes a Python object of each."""
MAX_RUN_LENGTH_BYTES = 16 * 2**20
"""Size of a BMP in run lengths, which Pillow decodes in Python."""

MAX_AVIF_ITEMS = 10_000
"""Images, tiles and metadata of an AVIF, of which a grid has some dozens. Time and memory grow with their square."""
MAX_CODED_PIXELS = 1_000_000_000
"""Pixels of all coded frames of an AVIF, at 10 to 30 ns each; a photo has one frame, and one of its transparency."""
USUAL_CODED_FRAMES = 10
"""Coded frames of the largest image allowed: a higher limit on pixels raises that on coded pixels."""
MIN_FRAME_PIXELS = 10_000
"""Smaller coded frames take as long."""

_PNG, _GIF = b"\x89PNG\r\n\x1a\n", (b"GIF87a", b"GIF89a")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SOS, _EOI, _APP1 = 0xDA, 0xD9, 0xE1
_STANDALONE = frozenset({0x01, *range(0xD0, 0xDA)})
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_PLAIN_TIFF_TYPES = frozenset({1, 2, 7})
"""Types of bytes and text, of which Pillow makes no other objects."""


def find_excess(payload: bytes) -> str:
    """First limit that an image exceeds, as text; empty if there is none, or for other formats."""
    if payload.startswith(b"\xff\xd8"):
        return _find_jpeg_excess(payload)
    if payload.startswith(_PNG):
        return _find_chunk_excess(payload, len(_PNG), ">", length_first=True)
    if payload[:4] == b"RIFF" and payload[8:12] == b"WEBP":
        return _find_chunk_excess(payload, 12, "<", length_first=False)
    if payload.startswith(_GIF):
        return _find_gif_excess(payload)
    if payload.startswith(_TIFF):
        return _find_tiff_excess(payload)
    if is_avif(payload):
        return _find_avif_excess(payload)
    if payload[:2] == b"BM" and payload[30:31] in (b"\x01", b"\x02") and len(payload) > MAX_RUN_LENGTH_BYTES:
        return f"a BMP in run lengths of {len(payload)} bytes, limit {MAX_RUN_LENGTH_BYTES}"
    return ""


def find_scan_excess(payload: bytes, num_pixels: int, max_pixels: int) -> str:
    """Scanned pixels of a JPEG above the limit, as text; empty if they are within it.

    Args:
        payload: The encoded image; images of other formats have no scans.
        num_pixels: From its header.
        max_pixels: Limit on the pixels of an image.
    """
    num_scans = _count_scans(payload) if payload.startswith(b"\xff\xd8") else 0
    limit = max(MAX_SCANNED_PIXELS, USUAL_SCANS * max_pixels)
    if num_scans * num_pixels <= limit:
        return ""
    return f"{num_scans} scans of {num_pixels} pixels, limit {limit} in all"


def find_coded_excess(payload: bytes, max_pixels: int) -> str:
    """Coded pixels of an AVIF above the limit, as text; empty if they are within it, and for other formats.

    The size in the header of the file does not limit them: coded images state theirs again, and tiles, hidden frames
    and layers repeat them.

    Args:
        payload: The encoded image.
        max_pixels: Limit on the pixels of an image.
    """
    if not is_avif(payload):
        return ""
    try:
        coded = read_avif(payload).coded
    except ValueError:
        return ""
    limit = max(MAX_CODED_PIXELS, USUAL_CODED_FRAMES * max_pixels)
    num_frames = sum(number for number, _ in coded)
    largest = max((size for _, size in coded), default=0)
    if largest > max_pixels:
        return f"a coded frame of {largest} pixels, limit {max_pixels}"
    num_pixels = sum(number * max(MIN_FRAME_PIXELS, size) for number, size in coded)
    return "" if num_pixels <= limit else f"{num_frames} coded frames with {num_pixels} pixels, limit {limit} in all"


def _find_avif_excess(payload: bytes) -> str:
    try:
        structure = read_avif(payload)
    except ValueError as error:
        return str(error) if str(error).startswith("more than") else ""
    if structure.num_items > MAX_AVIF_ITEMS:
        return f"{structure.num_items} items, limit {MAX_AVIF_ITEMS}"
    limit = 4 * len(payload) + MAX_SEGMENTS
    if structure.num_item_bytes > limit:
        return f"items of {structure.num_item_bytes} bytes, limit {limit}"
    return ""


def _find_jpeg_excess(payload: bytes) -> str:
    _, num_segments, num_exif = _walk_to_scans(payload)
    if num_segments > MAX_SEGMENTS:
        return f"more than {MAX_SEGMENTS} segments before its pixels"
    if num_exif > MAX_EXIF_SEGMENTS:
        return f"{num_exif} segments of EXIF, limit {MAX_EXIF_SEGMENTS}"
    return f"more than {MAX_SCANS} scans" if _count_scans(payload) > MAX_SCANS else ""


def _walk_to_scans(payload: bytes) -> tuple[int, int, int]:
    """Offset of the first scan of a JPEG, as Pillow finds it; numbers of segments (with stray bytes) and of EXIF."""
    place, num_segments, num_exif = 2, 0, 0
    while place + 1 < len(payload) and num_segments <= MAX_SEGMENTS:
        num_segments += 1
        marker = payload[place + 1]
        if payload[place] != 0xFF or marker == 0xFF:
            place += 1
        elif marker == _SOS:
            break
        elif marker == 0 or marker in _STANDALONE:
            place += 2
        else:
            num_exif += marker == _APP1 and payload[place + 4 : place + 10] == b"Exif\0\0"
            place += 2 + max(2, int.from_bytes(payload[place + 2 : place + 4], "big"))
    return place, num_segments, num_exif


def _count_scans(payload: bytes) -> int:
    """Number of scans of the first image of a JPEG, at most `MAX_SCANS` + 1. Further images may follow in the file."""
    place, _, _ = _walk_to_scans(payload)
    num_scans = num_segments = 0
    while num_scans <= MAX_SCANS and num_segments <= MAX_SEGMENTS:
        found = _NEXT_MARKER.search(payload, place)
        if found is None or payload[found.end() - 1] == _EOI:
            return num_scans
        num_segments += 1
        num_scans += payload[found.end() - 1] == _SOS
        place = found.end() + max(2, int.from_bytes(payload[found.end() : found.end() + 2], "big"))
    return MAX_SCANS + 1


def _find_chunk_excess(payload: bytes, start: int, order: str, *, length_first: bool) -> str:
    """Count the chunks of a PNG or WebP, which begin with length and name in one of two orders."""
    limit = MAX_SEGMENTS + len(payload) // SEGMENT_BYTES
    place, num_chunks = start, 0
    while place + 8 <= len(payload):
        (num_bytes,) = struct.unpack_from(f"{order}I", payload, place if length_first else place + 4)
        # PNG appends a checksum to each chunk; WebP pads a chunk to an even number of bytes.
        place += 12 + num_bytes if length_first else 8 + num_bytes + num_bytes % 2
        num_chunks += 1
        if num_chunks > limit:
            return f"more than {limit} chunks in {len(payload)} bytes"
    return ""


def _find_gif_excess(payload: bytes) -> str:
    """Count the blocks before the first frame of a GIF."""
    limit = MAX_SEGMENTS + len(payload) // SEGMENT_BYTES
    palette = payload[10:11]
    place = 13 + (3 << (palette[0] & 7) + 1 if palette and palette[0] & 0x80 else 0)
    num_blocks = 0
    while place < len(payload) and payload[place] not in b",;":
        is_extension = payload[place] == ord("!")
        place += 2 if is_extension else 1
        num_blocks += 1
        while is_extension and place < len(payload) and payload[place] and num_blocks <= limit:
            place += 1 + payload[place]
            num_blocks += 1
        place += is_extension
        if num_blocks > limit:
            return f"more than {limit} blocks before its first frame"
    return ""


def _find_tiff_excess(payload: bytes) -> str:
    """Check the entries of the first image of a TIFF."""
    order = "<" if payload[:2] == b"II" else ">"
    is_big = payload[2:4] in (b"+\0", b"\0+")
    entry = struct.Struct(order + ("HHQ8x" if is_big else "HHL4x"))
    try:
        (start,) = struct.unpack_from(order + ("Q" if is_big else "L"), payload, 8 if is_big else 4)
        (num_entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), payload, start)
        if num_entries > MAX_TIFF_ENTRIES:
            return f"{num_entries} entries, limit {MAX_TIFF_ENTRIES}"
        start += 8 if is_big else 2
        for place in range(start, start + num_entries * entry.size, entry.size):
            tag, kind, number = entry.unpack_from(payload, place)
            if kind not in _PLAIN_TIFF_TYPES and number > MAX_TIFF_VALUES:
                return f"{number} values in its entry {tag}, limit {MAX_TIFF_VALUES}"
    except struct.error:
        return ""
    return ""
