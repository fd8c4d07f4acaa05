"""Pixels converted to sRGB from the colour profile that an image carries, as browsers do.

A photo in a wide gamut has other numbers for the same colours, and models are trained on sRGB.
"""

import io
import struct
from typing import Any

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20
"""Profiles of printing inks have half a megabyte to three; larger ones are not used."""

_SPACES = {"RGB": b"RGB ", "CMYK": b"CMYK"}
_DEVICES = frozenset({b"mntr", b"scnr", b"prtr", b"spac"})
_PROGRAM = b"mpet"
"""Type of a chain of calculations of any length, which cameras do not write."""
_HEADER_BYTES = 128
_MAX_TAGS = 100


def convert_to_srgb(image: Image.Image, profile: Any) -> Image.Image:
    """Convert RGB or CMYK pixels to sRGB; others, and those with a broken or unusual profile, stay as they are.

    Args:
        image: Decoded.
        profile: The ICC profile in the image, if any.
    """
    if not is_converted(profile, image.mode):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        # The perceptual intent would also stretch inks from their darkest one to black.
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.profileToProfile(image, source, target, renderingIntent=intent, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image


def is_converted(profile: Any, mode: str) -> bool:
    """True if pixels of a mode of Pillow with this ICC profile are converted."""
    return isinstance(profile, bytes) and _is_usable(profile, mode)


def _is_usable(profile: bytes, mode: str) -> bool:
    """True for a profile of a device with the channels of the image, other than sRGB itself."""
    if not _HEADER_BYTES + 4 <= len(profile) <= MAX_PROFILE_BYTES or profile[36:40] != b"acsp":
        return False
    if profile[16:20] != _SPACES.get(mode) or profile[12:16] not in _DEVICES:
        return False
    (num_tags,) = struct.unpack_from(">I", profile, _HEADER_BYTES)
    table = profile[_HEADER_BYTES + 4 : _HEADER_BYTES + 4 + 12 * num_tags]
    if num_tags > _MAX_TAGS or len(table) < 12 * num_tags:
        return False
    tags = {tag: profile[start : start + size] for tag, start, size in struct.iter_unpack(">4sII", table)}
    return not any(content.startswith(_PROGRAM) for content in tags.values()) and not _names_srgb(
        tags.get(b"desc", b"")
    )


def _names_srgb(description: bytes) -> bool:
    """True for a profile that calls itself sRGB, in Latin letters or UTF-16."""
    return b"sRGB" in description.replace(b"\0", b"")
