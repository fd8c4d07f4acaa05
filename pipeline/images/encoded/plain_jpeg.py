"""Pixels of intact JPEGs, without the copies and conversions between bytes and an array that Pillow makes."""

import numpy as np
import simplejpeg
from jaxtyping import UInt8


def decode_plain_jpeg(jpeg: bytes, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"] | None:
    """Decode a grey JPEG or one of three channels to RGB.

    Pixels are those of Pillow, whose decoder is the same libjpeg-turbo, with the same transform and the same
    interpolation of colours (tests/images/encoded/test_plain_jpeg.py).

    Args:
        jpeg: The encoded image.
        size: Height and width in pixels of the image, or of it at 1/2, 1/4 or 1/8.

    Returns:
        None if the decoder has any complaint, or another size. Pillow passes over some damage, and words the rest.
    """
    height, width = size
    pixels = np.empty((height, width, 3), np.uint8)
    try:
        # The memory bounds what is decoded, whatever the header says.
        decoded = simplejpeg.decode_jpeg(jpeg, "RGB", min_height=height, min_width=width, buffer=pixels)
    except ValueError:
        return None
    return decoded if decoded.shape == pixels.shape else None
