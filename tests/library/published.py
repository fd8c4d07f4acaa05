"""A published run of photos that are bright where their mask is 1, in all orientations and under hostile keys."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from pipeline.inputs.shards import list_shards
from pipeline.run.records import InputShard
from tests.factories import make_labelled_row, make_rejected_row, make_run, make_tar

HOSTILE_KEYS = ("Rex", "rex", "zoo/ünïcode \U0001f415 'x'", "a" * 80)
"""Instead of k1 to k4."""
NUM_PHOTOS = 18


def name_photo(number: int) -> str:
    return HOSTILE_KEYS[number - 2] if 2 <= number < 2 + len(HOSTILE_KEYS) else f"k{number}"


NUMBERS = {name_photo(number): number for number in range(NUM_PHOTOS)}


def read_pixels(key: str) -> np.ndarray:
    """The stored mask of a photo."""
    number = NUMBERS[key]
    mask = np.zeros((24 + number % 3, 32), np.uint8)
    mask[2 : 8 + number % 5, 3:20] = 1
    return mask


def encode_photo(key: str) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = find_orientation(key)
    Image.fromarray(np.repeat(read_pixels(key)[..., None] * 255, 3, -1)).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def find_orientation(key: str) -> int:
    return 1 + NUMBERS[key] % 9 if NUMBERS[key] % 9 < 8 else 1


def make_masks(
    folder: Path,
    *,
    qualities: Sequence[float] = (0.75,),
    dogs: Sequence[int] = (3, 12),
    shards: Sequence[InputShard] | None = None,
    out_uri: str | None = None,
) -> str:
    """Publish two shards of nine labelled photos each, and a rejected one; return the URI of the run."""
    names = list(NUMBERS)
    for shard, keys in (("a", names[:9]), ("b", names[9:])):
        members = {key: {"png": encode_photo(key)} for key in keys}
        make_tar(folder / f"{shard}.tar", members | ({"bad": {"png": b"no image"}} if shard == "a" else {}))
    rows = []
    for key, number in NUMBERS.items():
        row = make_labelled_row(
            key,
            read_pixels(key),
            [1, 2] if number in dogs else [1],
            photo=encode_photo(key),
            exif_orientation=find_orientation(key),
        )
        rows.append(row | {"quality": qualities[number % len(qualities)]})
    listed = list_shards([f"{folder}/*.tar"]) if shards is None else shards
    out = out_uri or str(folder / "masks")
    rejected = make_rejected_row("bad") | {"image_bytes": 8}
    make_run(out, ("cat", "dog"), {listed[0]: [*rows[:9], rejected], listed[1]: rows[9:]})
    return out
