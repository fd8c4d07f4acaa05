"""The segments of a JPEG that its pixels need.

Decoders fail on some damaged segments of metadata, and those with a wrong length hide the segments of pixels behind
them.
"""

import re
from typing import NamedTuple

MAX_TRIES = 1000
"""Places at which the segments of pixels are looked for."""

MAX_SEGMENTS = 10_000
"""Segments that are read at all these places."""

_SOS, _JPEG_LS = 0xDA, 0xF7
_STANDALONE = frozenset({0x01, *range(0xD0, 0xDA)})
_METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_MARKERS = (b"\0", b"\xd8", b"\xd9")
_FIRST_SEGMENT = re.compile(rb"\xff[\xc0-\xc2\xc4\xdb\xdd\xe0-\xef\xfe]")
_KEPT = {0xE0: b"JFIF\0", 0xE1: b"Exif\0\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
_LEAST_BYTES = {b"JFIF\0": 14, b"Exif\0\0": 6, b"ICC_PROFILE\0": 15, b"Adobe": 12}


class JpegHead(NamedTuple):
    """Segments before the pixels of a JPEG."""

    segments: list[tuple[int, int, int]]
    """Marker, start and end of each, with the marker itself."""
    end: int
    """Start of the first scan; where the walk ends if there is none."""
    num_pixels: int
    """From the header of the frame; 0 if there is none."""


def keep_jpeg_parts(jpeg: bytes) -> bytes:
    """Leave out the segments of a JPEG before its pixels that neither pixels, orientation nor colours need.

    Returns:
        The JPEG itself if there are none.
    """
    head = _walk_head(jpeg)
    segments, end = head.segments, head.end
    damage = _find_damage(jpeg, head)
    if damage is not None:
        found = _find_pixels(jpeg, damage)
        # A thumbnail in the damaged segment is smaller than the picture.
        if found is not None and found.num_pixels >= head.num_pixels:
            segments = [segment for segment in segments if segment[1] < damage] + found.segments
            end = found.end
    kept = [
        jpeg[start:stop] for marker, start, stop in segments if start != damage and _is_kept(jpeg, marker, start, stop)
    ]
    needed = jpeg[:2] + b"".join(kept) + jpeg[end:]
    return jpeg if needed == jpeg else needed


def find_jpeg_frame(jpeg: bytes) -> tuple[int, int, int] | None:
    """Marker, bits a sample and number of channels of the frame of a JPEG; None if its header is not whole."""
    for marker, start, end in _walk_head(jpeg).segments:
        if (marker in _FRAMES or marker == _JPEG_LS) and end <= len(jpeg) and end - start >= 10:
            return marker, jpeg[start + 4], jpeg[start + 9]
    return None


def _walk_head(jpeg: bytes) -> JpegHead:
    """List the segments before the first scan; stray bytes between them are passed over."""
    segments = []
    place, num_pixels = 2, 0
    while place + 1 < len(jpeg):
        marker = jpeg[place + 1]
        if jpeg[place] != 0xFF:
            place = _find_byte(jpeg, place)
        elif marker == 0xFF:
            place += 1
        elif marker == _SOS:
            break
        elif marker == 0 or marker in _STANDALONE:
            place += 2
        else:
            end = place + 2 + max(2, int.from_bytes(jpeg[place + 2 : place + 4], "big"))
            segments.append((marker, place, end))
            if marker in _FRAMES:
                num_pixels = _read_num_pixels(jpeg, place)
            place = end
    return JpegHead(segments, min(place, len(jpeg)), num_pixels)


def _read_num_pixels(jpeg: bytes, frame: int) -> int:
    return int.from_bytes(jpeg[frame + 5 : frame + 7], "big") * int.from_bytes(jpeg[frame + 7 : frame + 9], "big")


def _find_byte(jpeg: bytes, place: int) -> int:
    found = jpeg.find(b"\xff", place)
    return len(jpeg) if found < 0 else found


def _find_damage(jpeg: bytes, head: JpegHead) -> int | None:
    """Start of the first segment of metadata after which no segment begins."""
    for marker, start, end in head.segments:
        if not _is_table(marker) and (jpeg[end : end + 1] != b"\xff" or jpeg[end + 1 : end + 2] in _NO_MARKERS):
            return start
    return None


def _find_pixels(jpeg: bytes, place: int) -> JpegHead | None:
    """Segments of the largest picture after an offset."""
    best = None
    num_segments = 0
    for _ in range(MAX_TRIES):
        found = _FIRST_SEGMENT.search(jpeg, place + 2)
        if found is None or num_segments > MAX_SEGMENTS:
            break
        place = found.start()
        head = _walk_closely(jpeg, place)
        num_segments += len(head.segments)
        if head.num_pixels and jpeg[head.end + 1 : head.end + 2] == bytes([_SOS]):
            place = head.end
            if best is None or head.num_pixels > best.num_pixels:
                best = head
    return best


def _walk_closely(jpeg: bytes, place: int) -> JpegHead:
    """List the segments from an offset on, as long as each begins where the last one ends."""
    segments: list[tuple[int, int, int]] = []
    num_pixels = 0
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF and len(segments) <= MAX_SEGMENTS:
        marker, length = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if length < 2 or not (_is_table(marker) or marker in _METADATA):
            break
        if marker in _FRAMES:
            num_pixels = _read_num_pixels(jpeg, place)
        segments.append((marker, place, place + 2 + length))
        place += 2 + length
    return JpegHead(segments, place, num_pixels)


def _is_table(marker: int) -> bool:
    """True for tables and headers of frames."""
    return 0xC0 <= marker < 0xD0 or 0xDB <= marker <= 0xDF


def _is_kept(jpeg: bytes, marker: int, start: int, end: int) -> bool:
    """True for all but metadata, and for intact JFIF, EXIF, colour profiles and Adobe's colour transform."""
    if marker not in _METADATA:
        return True
    name = _KEPT.get(marker)
    if name is None or not jpeg.startswith(name, start + 4):
        return False
    return end <= len(jpeg) and end - start - 4 >= _LEAST_BYTES[name]
