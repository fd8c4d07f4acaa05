"""What does it cost to decode photos at a resolution at which crops keep their detail?

    python -m benchmarks.crop_decoding

Decodes and augments generated JPEGs of several sizes as training does, in one process of one thread. Each photo is
reduced once to what the smallest crop needs, as in training, and once to the size of the result.
"""

import io
import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from PIL import Image

from jobs.recipes import RECIPES
from pipeline.training.data.augmentation import Variation, augment_image, make_variation

SIDES_PX = ((500, 375), (1600, 1200), (4000, 3000))
"""Width and height of the photos."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time decoding for training."""

    num_images: int = 40
    """How often each photo is decoded, in turns."""


def make_jpeg(width: int, height: int) -> bytes:
    """Encode a generated picture with detail at several scales."""
    generator = np.random.default_rng(0)
    picture = np.zeros((height, width, 3))
    for cell_px in (4, 16, 64):
        noise = generator.normal(0, 20, (-(-height // cell_px), -(-width // cell_px), 3))
        picture += noise.repeat(cell_px, 0).repeat(cell_px, 1)[:height, :width]
    buffer = io.BytesIO()
    Image.fromarray((128 + picture).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(payload: bytes, variations: tuple[Variation, ...], num_images: int) -> list[float]:
    """CPU seconds per image, for each variation."""
    seconds = [0.0] * len(variations)
    for seed in range(num_images):
        for place, variation in enumerate(variations):
            started_s = time.process_time()
            augment_image(payload, variation, seed, max_pixels=10**9)
            seconds[place] += time.process_time() - started_s
    return [of_one / num_images for of_one in seconds]


def main() -> None:
    """Print the comparison."""
    job = tyro.cli(Benchmark, description=__doc__)
    torch.set_num_threads(1)
    print(f"{'recipe':10}{'photo':>14}{'kept side':>12}{'as in training':>18}{'reduced to result':>20}{'cost':>8}")
    for recipe in ("v2", "plus", "seeded"):
        config = RECIPES[recipe]()
        size = config.model.image_size
        needed = make_variation(size, config.augment)
        for width, height in SIDES_PX:
            needed_s, reduced_s = measure(
                make_jpeg(width, height), (needed, needed._replace(min_short_side_px=size)), job.num_images
            )
            rates = f"{1 / needed_s:9.1f} images/s{1 / reduced_s:11.1f} images/s"
            print(
                f"{recipe:10}{f'{width} x {height}':>14}{needed.min_short_side_px:9} px{rates}"
                f"{needed_s / reduced_s:7.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
