"""Checks of masks: decoded as a viewer does it, measured again, and compared with their rows.

No code here is shared with the code that makes and measures masks. What both agree on is written twice.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy import ndimage

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
"""Chunks of a mask whose image is not turned. Others could change what a viewer shows."""
TURNED_PNG_CHUNKS = (b"IHDR", b"PLTE", b"eXIf", b"IDAT", b"IEND")
"""Chunks of a mask whose image is turned by EXIF, from format version 5 on: a viewer has to turn both."""
EXIF_OF_ORIENTATION = bytes.fromhex("4d4d002a 00000008 0001 0112 0003 00000001 0000 0000 00000000")
"""EXIF that holds an orientation alone, here 0: byte order, place and number of entries, the entry, no further ones."""
ORIENTATION_BYTE = 19
IHDR = struct.Struct(">IIBBBBB")
PALETTE_COLOUR = 3
MAX_MASK_PIXELS = 2_000_000_000
"""Limit of Pillow; larger masks are refused before decoding."""

MAX_SAMPLED_SIDE_PX = 128
"""Components are counted at every n-th pixel of larger masks, centred in the image."""
OLD_MAX_MEASURED_PIXELS = 4_000_000
"""Up to format version 3, larger masks were measured before they were enlarged to image size."""
OLD_MAX_SAMPLED_SIDE_PX = 256
"""Up to format version 3, components were counted at every n-th pixel from the corner."""
ROUNDING = 2e-7
"""Tolerance of shares, which are float32."""
BACKGROUND, IGNORED = 0, 255
IGNORED_COLOUR = (224, 224, 192)

# By EXIF orientation, the transposition that turns stored pixels upright.
_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class MaskRules:
    """Rules for masks, from the configuration and the vocabulary of a run."""

    has_background: bool
    may_ignore: bool
    """True if the two thresholds differ."""
    palette: bytes
    """Red, green and blue of each index."""
    is_old: bool
    """Whether masks are measured as up to format version 3."""
    has_orientation: bool
    """Whether a mask carries the orientation of its image, as from format version 5 on."""


def make_palette(colours: Sequence[bytes] | None) -> bytes:
    """Palette of masks: that of PASCAL VOC, with the colours of the vocabulary, if any, for its classes."""
    entries = []
    for index in range(256):
        channels = [0, 0, 0]
        rest = index
        for bit in range(7, -1, -1):
            for channel in range(3):
                channels[channel] |= (rest >> channel & 1) << bit
            rest >>= 3
        entries.append(bytes(channels))
    entries[IGNORED] = bytes(IGNORED_COLOUR)
    for class_id, colour in enumerate(colours or (), start=1):
        entries[class_id] = colour
    return b"".join(entries)


def check_mask(row: Mapping[str, Any], rules: MaskRules) -> Iterator[str]:
    """Find faults of the mask of a labelled row, or of the columns that describe it.

    Args:
        row: Of a manifest, with sizes, classes and orientation in their ranges.
        rules: Of the run.
    """
    payload, size = row["mask"]["bytes"], (row["width"], row["height"])
    orientation = row["exif_orientation"] if rules.has_orientation else 1
    if fault := _find_png_fault(payload, size, rules.palette, orientation):
        yield f"has a mask that {fault}"
        return
    # The size was compared with the row, so the limit of Pillow is not needed.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(payload), formats=["PNG"]) as image:
            image.load()
    except Exception as error:  # noqa: BLE001 (Pillow has no exception of its own; each one means that the mask is damaged)
        yield f"has a mask that cannot be decoded: {type(error).__name__}: {error}"
        return
    yield from _check_pixels(row, rules, image.histogram())
    turn = _TURNS[row["exif_orientation"]]
    upright = image if turn is None else image.transpose(turn)
    pixels = np.asarray(upright)
    if rules.is_old:
        pixels = _undo_enlarging(pixels)
        step = -(-max(pixels.shape) // OLD_MAX_SAMPLED_SIDE_PX)
        yield from _check_measures(row, pixels, pixels[::step, ::step])
        return
    step = -(-max(pixels.shape) // MAX_SAMPLED_SIDE_PX)
    top, left = (min(step // 2, (side - 1) // 2) for side in pixels.shape)
    yield from _check_measures(row, pixels, pixels[top::step, left::step])


def _find_png_fault(payload: bytes, size: tuple[int, int], palette: bytes, orientation: int) -> str:
    """First fault of the chunks of a PNG; empty if they are those of a mask of this size and orientation."""
    if not payload.startswith(PNG_SIGNATURE):
        return "is no PNG"
    offset = len(PNG_SIGNATURE)
    names: list[bytes] = []
    held: dict[bytes, bytes] = {}
    while offset < len(payload):
        length, name = int.from_bytes(payload[offset : offset + 4], "big"), payload[offset + 4 : offset + 8]
        body = payload[offset + 8 : offset + 8 + length]
        checksum = payload[offset + 8 + length : offset + 12 + length]
        if len(body) < length or len(checksum) < 4:
            return f"is truncated after {len(payload)} bytes"
        if int.from_bytes(checksum, "big") != zlib.crc32(name + body):
            return f"has a damaged chunk at byte {offset}"
        names.append(name)
        held.setdefault(name, body)
        offset += 12 + length
    wanted = PNG_CHUNKS if orientation == 1 else TURNED_PNG_CHUNKS
    if tuple(dict.fromkeys(names)) != wanted or any(names.count(name) > 1 for name in wanted if name != b"IDAT"):
        return f"consists of the chunks {names[:10]}, in orientation {orientation} needs {list(wanted)}"
    if orientation != 1:
        exif = bytearray(EXIF_OF_ORIENTATION)
        exif[ORIENTATION_BYTE] = orientation
        if held[b"eXIf"] != exif:
            return f"has the EXIF {held[b'eXIf'][:40].hex()}, need that of orientation {orientation}"
    if len(held[b"IHDR"]) != IHDR.size:
        return "has a header of another length"
    width, height, num_bits, colour, *methods = IHDR.unpack(held[b"IHDR"])
    if (width, height) != size:
        return f"is {width} x {height} pixels, its image {size[0]} x {size[1]}"
    if width * height > MAX_MASK_PIXELS:
        return f"has {width * height} pixels, limit {MAX_MASK_PIXELS}"
    if (num_bits, colour, *methods) != (8, PALETTE_COLOUR, 0, 0, 0):
        return f"has {num_bits} bits a pixel and the colour type {colour}; need a palette PNG of 8 bits"
    return "" if held[b"PLTE"] == palette else "has another palette than its vocabulary"


def _check_pixels(row: Mapping[str, Any], rules: MaskRules, num_of: Sequence[int]) -> Iterator[str]:
    """Check the ids in a mask, from the number of pixels of each."""
    drawn = set(row["class_ids"]) - set(row["doubtful_class_ids"])
    # Without a class to draw, all pixels are background in any run.
    has_background = rules.has_background or not drawn
    allowed = drawn | ({BACKGROUND} if has_background else set()) | ({IGNORED} if rules.may_ignore and drawn else set())
    if foreign := sorted({index for index, number in enumerate(num_of) if number} - allowed):
        yield f"has a mask with pixels of {foreign[:10]}; it may hold {sorted(allowed)}"


def _check_measures(
    row: Mapping[str, Any], measured: UInt8[np.ndarray, "h w"], sampled: UInt8[np.ndarray, "r c"]
) -> Iterator[str]:
    """Compare the measures of a mask, and of the sample in which components are counted, with its row."""
    shares = np.bincount(measured.ravel(), minlength=256) / measured.size
    for name, index in (("background_fraction", BACKGROUND), ("ignore_fraction", IGNORED)):
        if fault := _compare_share(name, row[name], shares[index]):
            yield fault
    for one in row["classes"]:
        class_id = one["class_id"]
        if fault := _compare_share(f"area_fraction of class {class_id}", one["area_fraction"], shares[class_id]):
            yield fault
        if (one["confidence_mean"] is None) != (shares[class_id] == 0):
            yield f"has {shares[class_id]:.3g} of class {class_id} and the confidence_mean {one['confidence_mean']}"
        num_pieces = ndimage.label(sampled == class_id, ndimage.generate_binary_structure(2, 2))[1]
        if one["components"] != num_pieces:
            yield f"states {one['components']} components of class {class_id}, its mask has {num_pieces}"


def _compare_share(name: str, stated: float, found: float) -> str:
    return "" if abs(stated - found) <= ROUNDING else f"states {name} {stated:.6g}, its mask has {found:.6g}"


def _undo_enlarging(upright: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "small_h small_w"]:
    """Mask at the size at which it was measured: that of a large image was enlarged afterwards."""
    height, width = upright.shape
    factor = min(1.0, (OLD_MAX_MEASURED_PIXELS / (height * width)) ** 0.5)
    if factor == 1.0:
        return upright
    rows, columns = (_find_centres(max(1, round(side * factor)), side) for side in (height, width))
    return upright[np.ix_(rows, columns)]


def _find_centres(num_small: int, num_large: int) -> np.ndarray:
    """For each small pixel, one of the large pixels that repeat it, away from its edges."""
    return np.minimum(((np.arange(num_small) + 0.5) * num_large / num_small).astype(np.int64), num_large - 1)
