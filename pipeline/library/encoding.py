"""Photos as Python programs hold them -> the encoded image that the labeler reads."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile

from pipeline.images.decode import IMAGE_FORMATS, UNREADABLE_ERRORS
from pipeline.images.encoded.exif import read_exif_orientation
from pipeline.storage.reading import read_bytes

Photo = bytes | bytearray | memoryview | str | os.PathLike[str] | Image.Image | np.ndarray
"""An encoded image, its path or URI, a Pillow image, or pixels in uint8: `h w 3` in RGB, `h w 4` in RGBA, or grey."""

DEFAULT_KEY = "photo"
"""Key of a photo without a name."""
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
TIFF_MODES = frozenset({"CMYK", "F", "I"})
"""Modes that a PNG cannot hold without loss."""
STRAIGHT_MODES = {"La": "LA", "RGBa": "RGBA"}
"""Modes whose colours are multiplied by their transparency, and those without."""
FILE_FORMATS = (*IMAGE_FORMATS, "MPO")
"""Formats of files that the labeler reads, as Pillow names them. An MPO is a JPEG that others follow."""
XMP_FIELDS = ("xmp", "XML:com.adobe.xmp")
PNG_LEVEL = 1
"""Of compression: the image is decoded again at once."""


def encode_photo(photo: Photo | Any) -> bytes:
    """Encode a photo without loss; what is encoded already stays as it is.

    A Pillow image of which no pixel was read yet is taken from its file, so that it is decoded as the file would be.
    Of others the pixels, the EXIF orientation and the colour profile are kept.

    Raises:
        FileNotFoundError: There is no file at the path.
        TypeError: It is no photo.
        ValueError: The array has another shape, or other values than bytes.
    """
    if isinstance(photo, bytes | bytearray | memoryview):
        return bytes(photo)
    if isinstance(photo, str | os.PathLike):
        return read_bytes(os.fspath(photo))
    if isinstance(photo, Image.Image):
        return _read_untouched(photo) or _encode_image(photo)
    if isinstance(photo, np.ndarray):
        return _encode_image(_to_image(photo))
    raise TypeError(
        f"a photo is bytes, a path, a Pillow image or an array of pixels, got {type(photo).__name__}; convert it"
    )


def name_photo(photo: Photo) -> str:
    """Key of a photo: the name of its file without suffix, or `DEFAULT_KEY`.

    >>> name_photo("dogs/rex.jpg"), name_photo(b"")
    ('rex', 'photo')
    """
    if isinstance(photo, Image.Image):
        photo = getattr(photo, "filename", None) or b""
    return Path(photo).stem or DEFAULT_KEY if isinstance(photo, str | os.PathLike) else DEFAULT_KEY


def _to_image(pixels: np.ndarray) -> Image.Image:
    is_grey = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    is_colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if pixels.dtype != np.uint8 or not (is_grey or is_colour) or not pixels.size:
        raise ValueError(
            f"need pixels of type uint8 and shape (height, width, 3), got {pixels.dtype} of {pixels.shape}; "
            "scale values to 0..255, and put channels last"
        )
    return Image.fromarray(pixels.reshape(pixels.shape[:2]) if is_grey else np.ascontiguousarray(pixels))


def _read_untouched(image: Image.Image) -> bytes | None:
    """The file of a Pillow image whose pixels were not read yet; None if there is none, or if it was changed."""
    stream = getattr(image, "fp", None)
    # Pillow drops the tiles of the file when it has decoded them, and pixels cannot be changed before.
    is_waiting = isinstance(image, ImageFile.ImageFile) and bool(getattr(image, "tile", None))
    if not is_waiting or stream is None or stream.closed or image.format not in FILE_FORMATS or image.tell():
        return None
    place = stream.tell()
    try:
        stream.seek(0)
        content = stream.read()
    finally:
        stream.seek(place)
    try:
        with Image.open(io.BytesIO(content)) as again:
            same = again.size == image.size and again.mode == image.mode
            return content if same and _find_orientation(again) == _find_orientation(image) else None
    except UNREADABLE_ERRORS:
        return None


def _encode_image(image: Image.Image) -> bytes:
    options: dict[str, Any] = {}
    orientation = _find_orientation(image)
    if orientation != 1:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif
    profile = image.info.get("icc_profile")
    if image.mode in STRAIGHT_MODES:
        image = image.convert(STRAIGHT_MODES[image.mode])
    if image.mode not in PNG_MODES | TIFF_MODES:
        # The profile is that of the colours of before.
        profile, image = None, image.convert("RGBA" if image.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    if image.mode in PNG_MODES:
        image.save(buffer, "PNG", compress_level=PNG_LEVEL, icc_profile=profile, **options)
    else:
        image.save(buffer, "TIFF", icc_profile=profile, **options)
    return buffer.getvalue()


def _find_orientation(image: Image.Image) -> int:
    """The EXIF orientation; what XMP says does not count, as in browsers."""
    exif = image.info.get("exif")
    if any(name in image.info for name in XMP_FIELDS):
        return read_exif_orientation(exif) if isinstance(exif, bytes) else 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except UNREADABLE_ERRORS:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1
