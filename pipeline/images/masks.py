"""Pseudo labels from class maps, and the encoding and decoding of both.

A pseudo label has 0 for background, 1..C for the classes and 255 for ignored pixels.
"""

import hashlib
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models.class_maps import scale_min_max
from pipeline.errors import ManifestError
from pipeline.images.decode import UNREADABLE_ERRORS, open_image
from pipeline.run.config import MapConfig
from pipeline.run.records import IGNORE_LABEL

MAX_CLASSES = IGNORE_LABEL - 1
"""Class ids are bytes without 0 (background) and 255 (ignored)."""

VOID_COLOUR = (224, 224, 192)
"""Colour of ignored pixels in PASCAL VOC."""

MAX_NAME_BYTES = 200
"""File systems allow 255, and tools add suffixes."""

_UNSAFE = re.compile(
    # Separators, also of drives and streams; the escape character; a dot at either end or after another dot.
    r"[/\\:%]|\A\.|(?<=\.)\.|\.\Z"
    # Control characters and surrogates; characters that turn, join or hide their neighbours.
    "|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def label_pixels(
    class_maps: Float[Tensor, "k h w"],
    class_ids: Int[Tensor, " k"],
    background_threshold: float,
    foreground_threshold: float,
    *,
    has_background: bool = True,
) -> UInt8[Tensor, "h w"]:
    """Assign each pixel the class of its highest map, background, or 255.

    Args:
        class_maps: Evidence in [0, 1], on any device.
        class_ids: Class of each map, 1 to 254; the lowest wins a tie.
        background_threshold: Pixels whose best map is at most this value are background.
        foreground_threshold: Pixels whose best map exceeds this value get its class; pixels between both get 255.
        has_background: False: every pixel gets a class, at any thresholds.
    """
    if class_maps.shape[0] == 0:
        return torch.zeros(class_maps.shape[1:], dtype=torch.uint8, device=class_maps.device)
    best = class_maps.amax(dim=0)
    ids = class_ids.to(torch.uint8)[:, None, None]
    ignored = torch.tensor(IGNORE_LABEL, dtype=torch.uint8, device=class_maps.device)
    winner = torch.where(class_maps == best, ids, ignored).amin(dim=0)
    if not has_background:
        return winner
    labelled = torch.where(best > foreground_threshold, winner, ignored)
    return torch.where(best <= background_threshold, torch.zeros_like(ignored), labelled)


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


def encode_mask(mask: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "256 3"]) -> bytes:
    """Encode a pseudo label as a palette PNG. Equal masks have equal bytes with one build of Pillow.

    Run lengths suit masks. Measured on 60 smooth masks of about 500 x 375, a CPU core, Pillow 13: 2.1 kB in 0.6 ms. The
    default strategy of zlib needs 2.3 kB and 2.1 ms at level 6, 3.6 kB and 0.6 ms at level 1, 1.8 kB and 8 ms at
    level 9. The level does not affect run lengths.
    """
    image = Image.fromarray(mask)
    image.putpalette(palette.tobytes())
    png = io.BytesIO()
    image.save(png, "PNG", compress_type=zlib.Z_RLE)
    return png.getvalue()


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
    """Decode a palette PNG, or a grey PNG of 8 bits, to its indices.

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


def encode_class_maps(maps: Float[Tensor, "k gh gw"]) -> dict[str, Any]:
    """Encode class maps on the patch grid, before min-max, as a plain record of `records.CLASS_MAPS`."""
    num_classes, height, width = maps.shape
    maps = maps.detach().float().cpu()
    scales = maps.flatten(1).amax(dim=1).tolist() if num_classes else []
    scaled = scale_min_max(maps[None])[0] if num_classes else maps
    values = (scaled * 255).round().to(torch.uint8)
    return {"height": height, "width": width, "scales": scales, "values": values.numpy().tobytes()}


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


def enlarge_mask(mask: UInt8[Tensor, "h w"], upright_size: tuple[int, int]) -> UInt8[np.ndarray, "upright_h upright_w"]:
    """Mask at the size of the upright image, from one at the size of its maps."""
    if tuple(mask.shape) == tuple(upright_size):
        return mask.numpy()
    return functional.interpolate(mask[None, None], size=upright_size, mode="nearest-exact")[0, 0].numpy()


def draw_mask(
    pixel_maps: Float[Tensor, "k h w"], class_ids: Sequence[int], presence: Float[Tensor, " k"], config: MapConfig
) -> tuple[Float[Tensor, "k h w"], UInt8[Tensor, "h w"], tuple[int, ...]]:
    """Draw the pseudo label of an image, without its doubtful classes.

    Args:
        pixel_maps: Evidence in [0, 1].
        class_ids: Class of each map.
        presence: Probability of each class; a class below `config.min_presence` is doubtful.
        config: With thresholds and the least presence.

    Returns:
        The maps, 0 for doubtful classes; the pseudo label; the ids of the doubtful classes.
    """
    is_likely = presence >= config.min_presence
    ids = torch.tensor(class_ids, device=pixel_maps.device)
    thresholds = (config.background_threshold, config.foreground_threshold)
    mask = label_pixels(pixel_maps[is_likely], ids[is_likely], *thresholds, has_background=config.has_background)
    doubtful = tuple(class_id for class_id, likely in zip(class_ids, is_likely.tolist(), strict=True) if not likely)
    return pixel_maps * is_likely[:, None, None], mask, doubtful
