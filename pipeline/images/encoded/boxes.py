"""Boxes of an AVIF file, and the structure of its coded images: sizes and numbers of frames, from headers alone.

Offsets and lengths are those of the file and may be wrong: broken files raise `ValueError`, and the decoder decides.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_BOXES = 100_000
"""Boxes and entries of tables that are read."""
MAX_UNITS = 100_000
"""Units (OBU) of all coded images that are read."""

_FRAME_UNITS = frozenset({3, 6})
_SEQUENCE_HEADER = 1


class Box(NamedTuple):
    """A box and the bytes of its content."""

    kind: bytes
    start: int
    end: int


@dataclass(kw_only=True)
class AvifStructure:
    """What a decoder of an AVIF file may have to decode."""

    num_items: int = 0
    num_item_bytes: int = 0
    """Sum over items, which may share bytes."""
    coded: list[tuple[int, int]] = field(default_factory=list)
    """Number of frames and their largest number of pixels, for each coded image."""


def is_avif(payload: bytes) -> bool:
    """True for a file that names AVIF among its brands."""
    return payload[4:8] == b"ftyp" and bool({b"avif", b"avis"} & set(list_brands(payload)))


def list_brands(payload: bytes) -> list[bytes]:
    """Brands of a file of boxes: the major one, then the compatible ones."""
    end = min(int.from_bytes(payload[:4], "big"), len(payload), 512)
    return [payload[8:12], *(payload[place : place + 4] for place in range(16, end - 3, 4))]


def list_boxes(payload: bytes, start: int, end: int) -> Iterator[Box]:
    """List the boxes in a range of bytes; the last one may claim more than there is."""
    place = start
    for _ in range(MAX_BOXES):
        if place + 8 > end:
            return
        num_bytes, kind = struct.unpack_from(">I4s", payload, place)
        header = 8
        if num_bytes == 1 and place + 16 <= end:
            (num_bytes,) = struct.unpack_from(">Q", payload, place + 8)
            header = 16
        stop = end if num_bytes == 0 else place + num_bytes
        if stop < place + header:
            return
        yield Box(kind, place + header, min(stop, end))
        place = stop
    raise ValueError(f"more than {MAX_BOXES} boxes")


def find_box(payload: bytes, start: int, end: int, *path: bytes) -> Box | None:
    """Find a box by the kinds of the boxes around it."""
    found = next((box for box in list_boxes(payload, start, end) if box.kind == path[0]), None)
    if found is None or len(path) == 1:
        return found
    return find_box(payload, found.start, found.end, *path[1:])


def list_item_kinds(payload: bytes, meta: Box) -> dict[int, tuple[bytes, int]]:
    """For each item of a file its kind, and the offset of the four bytes that name it."""
    table = find_box(payload, meta.start + 4, meta.end, b"iinf")
    if table is None:
        return {}
    kinds = {}
    for entry in list_boxes(payload, table.start + (6 if payload[table.start] == 0 else 8), table.end):
        version = payload[entry.start] if entry.kind == b"infe" and entry.start < entry.end else 0
        if version < 2:
            continue
        width = 2 if version == 2 else 4
        place = entry.start + 6 + width
        kinds[int.from_bytes(payload[entry.start + 4 : entry.start + 4 + width], "big")] = (
            payload[place : place + 4],
            place,
        )
    return kinds


def read_avif(payload: bytes) -> AvifStructure:
    """Read the structure of an AVIF file.

    Raises:
        ValueError: It is broken, or has more boxes or units than a decoder should be given.
    """
    structure = AvifStructure()
    try:
        for box in list_boxes(payload, 0, len(payload)):
            if box.kind == b"meta":
                _read_items(payload, box, structure)
            elif box.kind == b"moov":
                _read_tracks(payload, box, structure)
    except (struct.error, IndexError) as error:
        raise ValueError("a box is truncated") from error
    return structure


def _read_items(payload: bytes, meta: Box, structure: AvifStructure) -> None:
    kinds = list_item_kinds(payload, meta)
    extents = _list_extents(payload, meta)
    structure.num_items += max(len(kinds), len(extents))
    for item, pieces in extents.items():
        structure.num_item_bytes += sum(end - start for start, end in pieces)
        if structure.num_item_bytes > 4 * len(payload) + MAX_BOXES:
            return
        if kinds.get(item, (b"av01", 0))[0] == b"av01":
            _add_coded(b"".join(payload[start:end] for start, end in pieces), structure)


def _list_extents(payload: bytes, meta: Box) -> dict[int, list[tuple[int, int]]]:
    """Ranges of bytes of each item."""
    table = find_box(payload, meta.start + 4, meta.end, b"iloc")
    if table is None:
        return {}
    inside = find_box(payload, meta.start + 4, meta.end, b"idat")
    version, sizes, more_sizes = payload[table.start], payload[table.start + 4], payload[table.start + 5]
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more_sizes >> 4
    index_size = more_sizes & 15 if version else 0
    wide = 4 if version == 2 else 2
    place = table.start + 6

    def take(num_bytes: int) -> int:
        nonlocal place
        place += num_bytes
        if place > table.end:
            raise ValueError("a table of items is truncated")
        return int.from_bytes(payload[place - num_bytes : place], "big")

    extents: dict[int, list[tuple[int, int]]] = {}
    num_extents = 0
    for _ in range(min(take(wide), MAX_BOXES)):
        item = take(wide)
        is_inside = bool(version) and take(2) & 15 == 1
        take(2)
        base = take(base_size) + (inside.start if is_inside and inside else 0)
        pieces = extents.setdefault(item, [])
        for _ in range(take(2)):
            take(index_size)
            start = base + take(offset_size)
            # A length of 0 is the rest of the file.
            length = take(length_size)
            end = min(start + length if length else len(payload), len(payload))
            pieces.append((start, max(start, end)))
            num_extents += 1
            if num_extents > MAX_BOXES:
                raise ValueError(f"more than {MAX_BOXES} pieces of items")
    return extents


def _read_tracks(payload: bytes, moov: Box, structure: AvifStructure) -> None:
    """Add the first sample of each track."""
    for track in list_boxes(payload, moov.start, moov.end):
        if track.kind != b"trak":
            continue
        structure.num_items += 1
        table = find_box(payload, track.start, track.end, b"mdia", b"minf", b"stbl")
        if table is None:
            continue
        boxes = {box.kind: box for box in list_boxes(payload, table.start, table.end)}
        places, sizes = boxes.get(b"stco") or boxes.get(b"co64"), boxes.get(b"stsz")
        if places is None or sizes is None:
            continue
        (start,) = struct.unpack_from(">I" if places.kind == b"stco" else ">Q", payload, places.start + 8)
        (size,) = struct.unpack_from(">I", payload, sizes.start + 4)
        if size == 0:
            (size,) = struct.unpack_from(">I", payload, sizes.start + 12)
        _add_coded(payload[start : start + size], structure)


def _add_coded(data: bytes, structure: AvifStructure) -> None:
    """Count the frames of a coded image."""
    place = num_frames = num_pixels = 0
    for _ in range(MAX_UNITS):
        if place >= len(data):
            structure.coded.append((num_frames, num_pixels))
            return
        header = data[place]
        kind = header >> 3 & 15
        place += 2 if header & 4 else 1
        size, place = _read_leb128(data, place) if header & 2 else (len(data) - place, place)
        if kind == _SEQUENCE_HEADER:
            num_pixels = max(num_pixels, _read_frame_pixels(data[place : place + size]))
        num_frames += kind in _FRAME_UNITS
        place += size
    structure.coded.append((MAX_UNITS, num_pixels))


def _read_leb128(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for number in range(8):
        byte = data[place + number]
        value |= (byte & 127) << 7 * number
        if not byte & 128:
            return value, place + number + 1
    raise ValueError("a length of more than 8 bytes")


class _Bits:
    """Bits of a header, most significant first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, number: int) -> int:
        self._left -= number
        if self._left < 0:
            raise ValueError("a header is truncated")
        return self._value >> self._left & (1 << number) - 1


def _read_frame_pixels(header: bytes) -> int:
    """Largest number of pixels of a frame, from a sequence header.

    Source: AV1 bitstream specification, section 5.5.
    """
    bits = _Bits(header[:512])
    bits.take(4)
    is_reduced = bits.take(1)
    if is_reduced:
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return (bits.take(width_bits) + 1) * (bits.take(height_bits) + 1)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    has_timing = bits.take(1)
    if has_timing:
        bits.take(64)
        if bits.take(1):
            num_zeros = 0
            while not bits.take(1):
                num_zeros += 1
            bits.take(num_zeros if num_zeros < 32 else 0)
        if bits.take(1):
            delay_bits = bits.take(5) + 1
            bits.take(42)
    has_display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_display_delay and bits.take(1):
            bits.take(4)
