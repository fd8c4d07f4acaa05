"""The chunks of a PNG that its pixels need.

A damaged chunk of text, profile or metadata is left out, and a damaged chunk of pixels fails the image, as in libpng
and browsers. Other than there, a damaged length or name of the former fails nothing if intact chunks follow.
"""

import re
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE_BYTES = 2**20
"""Of a colour profile; those of cameras and screens have kilobytes. Pillow fails images with larger ones."""
MAX_TRIES = 10_000
"""Places at which an intact chunk is looked for."""

_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_KEPT = re.compile(rb"PLTE|IDAT|IEND|tRNS|eXIf|iCCP")
_NAME = re.compile(rb"[A-Za-z]{4}")
_GREY, _COLOUR, _PALETTE = 0, 2, 3
_LEAST_TRANSPARENCY = {_GREY: 2, _COLOUR: 6, _PALETTE: 1}


def keep_png_parts(png: bytes) -> bytes:
    """Leave out all chunks of a PNG but those of pixels, transparency, EXIF and a usable colour profile.

    Raises:
        SyntaxError: A chunk of pixels is damaged.
    """
    if png[12:16] != b"IHDR":
        return png
    kept = [png[:8]]
    seen: set[bytes] = set()
    place, colour, budget = 8, png[25], [4 * len(png), MAX_TRIES]
    while place + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, place)
        name, end = png[place + 4 : place + 8], place + 12 + length
        is_whole = end <= len(png)
        if name in _CRITICAL:
            if not is_whole:
                # The decoder finds out whether the pixels are all there.
                kept.append(png[place:])
                break
            # Readers stop at the name of the last chunk. A palette beside true colours is a suggestion.
            is_needed = name != b"PLTE" or (colour == _PALETTE and b"IDAT" not in seen)
            if is_needed and name != b"IEND" and not _is_intact(png, place, end):
                raise SyntaxError(f"its chunk {name.decode()} at byte {place} has a wrong checksum")
            if is_needed:
                kept.append(png[place:end])
            seen.add(name)
            if name == b"IEND":
                break
        elif is_whole and _NAME.fullmatch(name) and (is_intact := _is_intact(png, place, end)) | _is_chunk(png, end):
            if is_intact and name not in seen and _is_kept(name, png[place + 8 : end - 4], colour, b"IDAT" in seen):
                kept.append(png[place:end])
                seen.add(name)
        else:
            end = _find_chunk(png, place + 8, budget)
        place = end
    return b"".join(kept)


def _is_kept(name: bytes, content: bytes, colour: int, is_after_pixels: bool) -> bool:
    if name == b"eXIf":
        return True
    if is_after_pixels:
        return False
    if name == b"tRNS":
        return len(content) >= _LEAST_TRANSPARENCY.get(colour, len(content) + 1)
    return name == b"iCCP" and _holds_profile(content)


def _holds_profile(content: bytes) -> bool:
    """True for a profile that unpacks to at most `MAX_PROFILE_BYTES`."""
    name, zero, packed = content.partition(b"\0")
    if not name or not zero or packed[:1] != b"\0":
        return False
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return unpacker.eof


def _is_intact(png: bytes, place: int, end: int) -> bool:
    return zlib.crc32(memoryview(png)[place + 4 : end - 4]) == int.from_bytes(png[end - 4 : end], "big")


def _is_chunk(png: bytes, place: int) -> bool:
    """True if the file ends here, or another chunk may begin."""
    if place == len(png):
        return True
    return _NAME.fullmatch(png, place + 4, place + 8) is not None and (
        place + 12 + int.from_bytes(png[place : place + 4], "big") <= len(png)
    )


def _find_chunk(png: bytes, place: int, budget: list[int]) -> int:
    """Next intact chunk that is kept; the end of the file if there is none.

    Args:
        png: The file.
        place: Where the search begins.
        budget: Bytes and places that may still be looked at; reduced.
    """
    while budget[0] > 0 and budget[1] > 0 and (found := _KEPT.search(png, place)):
        budget[1] -= 1
        start = found.start() - 4
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        if end <= len(png):
            budget[0] -= end - start
            if _is_intact(png, start, end):
                return start
        place = found.start() + 1
    return len(png)
