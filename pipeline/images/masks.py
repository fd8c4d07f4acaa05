"""Pseudo labels from class maps, and the encoding and decoding of both.

A pseudo label has 0 for background, 1..C for the classes and 255 for ignored pixels.
"""

import hashlib
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, UInt8
from zlib_ng import zlib_ng

from pipeline.errors import ManifestError
from pipeline.images.decode import UNREADABLE_ERRORS, open_image
from pipeline.images.encoded.exif import make_orientation_exif
from pipeline.images.map_range import find_constant
from pipeline.run.config import IGNORE_LABEL

MAX_CLASSES = IGNORE_LABEL - 1
"""Class ids are bytes without 0 (background) and 255 (ignored)."""

VOID_COLOUR = (224, 224, 192)
"""Colour of ignored pixels in PASCAL VOC."""

MAX_NAME_BYTES = 200
"""File systems allow 255, and tools add suffixes."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_INDEXED = 3
"""Colour type of a PNG whose pixels are places in its palette."""
_LEVEL = 6
"""Of compression; does not affect run lengths."""

_UNSAFE = re.compile(
    # Separators, also of drives and streams; the escape character; a dot at either end or after another dot.
    r"[/\\:%]|\A\.|(?<=\.)\.|\.\Z"
    # Control characters and surrogates; characters that turn, join or hide their neighbours.
    "|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """Colour map of PASCAL VOC: RGB of each index, with the void colour at 255.

    The bits of an index go to red, green and blue in turn, from the highest bit of each down. So neighbouring indices
    have distant colours.

    >>> voc_palette()[[0, 1, 15, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]

    Source: the rule of the PASCAL VOC 2012 development kit.
    """
    index = np.arange(256)[:, None]
    channel = np.arange(3)[None, :]
    bits = [((index >> (3 * turn + channel)) & 1) << (7 - turn) for turn in range(8)]
    palette = np.sum(bits, axis=0).astype(np.uint8)
    palette[IGNORE_LABEL] = VOID_COLOUR
    return palette


def build_palette(
    colours: Sequence[tuple[int, int, int]] | None, class_names: Sequence[str]
) -> UInt8[np.ndarray, "256 3"]:
    """Palette of masks: the colours of PASCAL VOC, or those of the vocabulary for its classes.

    Args:
        colours: RGB of each class, in order; None for those of PASCAL VOC.
        class_names: Classes in order; the first has id 1.

    Raises:
        ValueError: There are more than `MAX_CLASSES` classes, or the number of colours differs.
    """
    if len(class_names) > MAX_CLASSES:
        raise ValueError(f"masks hold at most {MAX_CLASSES} classes, got {len(class_names)}; split the vocabulary")
    palette = voc_palette()
    if colours is None:
        return palette
    if len(colours) != len(class_names):
        raise ValueError(f"need one colour for each of {len(class_names)} classes, got {len(colours)}")
    palette[1 : 1 + len(class_names)] = np.asarray(colours, dtype=np.uint8).reshape(-1, 3)
    return palette


def encode_mask(
    mask: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "256 3"], exif_orientation: int = 1
) -> bytes:
    """Encode a pseudo label as a palette PNG. Equal masks have equal bytes with one build of zlib-ng.

    The orientation of the photo stands in a chunk eXIf of 38 bytes: tools that turn the photo by its EXIF turn the mask
    as well, and tools that turn neither leave both. Without a turn there is no such chunk.

    Rows are not filtered, and only run lengths are searched, which suits masks. Measured on masks of 500 x 375 and
    2000 x 1500 pixels (docs/measurements.md): 7 times as fast as Pillow, of the same size.

    Args:
        mask: On the stored pixels of the photo.
        palette: Colours of the values.
        exif_orientation: Of the photo, 1 to 8.

    Source: PNG specification, third edition, sections 5 and 11; EXIF 2.32, section 4.6.
    """
    height, width = mask.shape
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = mask
    deflate = zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, zlib_ng.MAX_WBITS, zlib_ng.DEF_MEM_LEVEL, zlib_ng.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", deflate.compress(rows) + deflate.flush()),
        (b"IEND", b""),
    ]
    if exif_orientation != 1:
        # Before the pixels, where readers of streams find it.
        chunks.insert(2, (b"eXIf", make_orientation_exif(exif_orientation)))
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib_ng.crc32(kind + content))
        for kind, content in chunks
    )


def name_mask_file(key: str) -> str:
    """File name of a mask: safe in any folder for any key, and distinct for distinct keys.

    Readers may write a mask under its `path`, and an archive may contain any key.

    >>> name_mask_file("photo 1"), name_mask_file("dogs/1"), name_mask_file("../../x")
    ('photo 1.png', 'dogs%2F1.png', '%2E%2E%2F.%2E%2Fx.png')
    """
    name = _UNSAFE.sub(lambda found: quote(found[0], safe="", errors="surrogatepass").replace(".", "%2E"), key)
    content = name.encode()
    if len(content) > MAX_NAME_BYTES:
        # In a name that was not shortened, two hexadecimal digits follow each percent sign.
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:32]
        name = f"{content[: MAX_NAME_BYTES - 40].decode(errors='ignore')}%-{digest}"
    return f"{name}.png"


def decode_mask(payload: bytes) -> UInt8[np.ndarray, "h w"]:
    """Decode a palette PNG, or a grey PNG of 8 bits, to its indices: on the stored pixels, whatever its EXIF says.

    Raises:
        ManifestError: It is neither of them, or it is broken.
    """
    try:
        image = open_image(payload, ["PNG"])
        # Pillow stretches grey values of fewer bits to 0..255, so they are not indices.
        num_bits = payload[24]
        is_index_map = image.mode == "P" or (image.mode == "L" and num_bits == 8)
        if is_index_map:
            return np.array(image)
    except UNREADABLE_ERRORS as error:
        raise ManifestError(
            f"a mask of {len(payload)} bytes is no readable PNG ({type(error).__name__}); restore or label it again"
        ) from error
    raise ManifestError(
        f"a mask is a PNG of mode {image.mode} with {num_bits} bits; need a palette PNG or a grey one of 8 bits"
    )


def encode_class_maps(maps: Float[np.ndarray, "k gh gw"]) -> dict[str, Any]:
    """Encode class maps on the patch grid, before min-max, as a plain record of `records.CLASS_MAPS`."""
    maps = np.asarray(maps, np.float32)
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    spread = np.where(find_constant(low, high), np.float32(np.inf), high - low)
    values = np.rint((maps - low) / spread * 255).astype(np.uint8)
    _, height, width = maps.shape
    return {"height": height, "width": width, "scales": high.ravel().tolist(), "values": values.tobytes()}


def decode_class_maps(record: Mapping[str, Any]) -> Float[np.ndarray, "k gh gw"]:
    """Decode class maps from a record of `records.CLASS_MAPS`.

    Returns:
        One map in [0, 1] for each class of the row, float32.

    Raises:
        ManifestError: The number of bytes differs from that of the cells of all maps.
    """
    shape = (len(record["scales"]), record["height"], record["width"])
    values = np.frombuffer(record["values"], dtype=np.uint8)
    if values.size != np.prod(shape):
        raise ManifestError(
            f"class maps of {shape[0]} classes on {shape[1]} x {shape[2]} patches need {np.prod(shape)} bytes, "
            f"got {values.size}; the manifest is damaged, label its shard again"
        )
    return values.reshape(shape).astype(np.float32) / 255
