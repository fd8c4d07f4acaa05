"""Small real inputs for tests: photos and tar shards."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def make_photo(rng_seed: int, size: tuple[int, int] | None = None, image_format: str = "JPEG") -> bytes:
    """Encode a small picture: a bright disc on a noisy background; sizes (width, height) vary with the seed."""
    rng = np.random.default_rng(rng_seed)
    width, height = size or (48 + 16 * (rng_seed % 3), 48 + 8 * (rng_seed % 2))
    rows, columns = np.mgrid[:height, :width]
    center = rng.uniform(0.3, 0.7, 2) * (height, width)
    inside = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < (min(height, width) / 4) ** 2
    pixels = rng.uniform(0, 80, (height, width, 3))
    pixels[inside] += rng.uniform(60, 170, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, image_format)
    return buffer.getvalue()


def make_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]], tar_format: int = tarfile.GNU_FORMAT) -> Path:
    """Write a WebDataset tar: for each key its members by suffix, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as archive:
        for key, members in samples.items():
            for suffix, payload in members.items():
                header = tarfile.TarInfo(f"{key}.{suffix}")
                header.size = len(payload)
                archive.addfile(header, io.BytesIO(payload))
    return path
