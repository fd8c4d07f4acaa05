"""Pixel refinement of class maps: fused kernels against the plain form, in the same call."""

from functools import partial
from typing import Any

import torch

from benchmarks.gpu_parts.machine import Bench, time_median
from benchmarks.gpu_parts.report import Case
from models.pixel_refinement import choose_block, choose_form, refine_plainly

TILES = ((8, 32), (16, 32), (8, 64), (32, 32))
"""Sizes of a program's tile, of which `fused_pixel_refinement.TILE_SIZE` should be the fastest."""
NUM_ROUNDS = 10


def list_cases(is_small: bool) -> list[Case]:
    """Sizes of the image and numbers of maps."""
    sizes = [(2, 2, 32)] if is_small else [(64, 3, 224), (16, 3, 448), (64, 1, 224), (16, 8, 224)]
    return [
        Case(
            part="pixel refinement",
            settings={"batch": num_images, "maps": num_maps, "side": side},
            measure=partial(_measure_refinement, num_images, num_maps, side),
            needs_s=15,
        )
        for num_images, num_maps, side in sizes
    ]


@torch.inference_mode()
def _measure_refinement(num_images: int, num_maps: int, side: int, bench: Bench) -> dict[str, Any]:
    """Time, memory and difference of both forms."""
    device = bench.device
    fused: Any = choose_form(device, choose_block(num_maps))
    is_fused = fused is not refine_plainly
    torch.manual_seed(0)
    # Photos reach the device as rows of pixels.
    image = torch.rand(num_images, side, side, 3, device=device).permute(0, 3, 1, 2)
    maps = torch.rand(num_images, num_maps, side, side, device=device)
    plain_s = time_median(partial(refine_plainly, maps, image, NUM_ROUNDS), bench, repeats=3)
    fused_s = time_median(partial(fused, maps, image, NUM_ROUNDS), bench)
    difference = (fused(maps, image, NUM_ROUNDS) - refine_plainly(maps, image, NUM_ROUNDS)).abs().max()
    tiles = {}
    for tile in TILES if is_fused else ():
        run = partial(fused, maps, image, NUM_ROUNDS, tile_size=tile)
        tiles[f"us_an_image_{tile[0]}x{tile[1]}"] = 1e6 * time_median(run, bench) / num_images
    return {
        "fused": is_fused,
        "us_an_image": 1e6 * fused_s / num_images,
        "plain": 1e6 * plain_s / num_images,
        "faster": plain_s / fused_s,
        "difference": float(difference),
        "mib": _measure_mib(device, partial(fused, maps, image, NUM_ROUNDS)),
        "mib_plain": _measure_mib(device, partial(refine_plainly, maps, image, NUM_ROUNDS)),
        **tiles,
    }


def _measure_mib(device: torch.device, function: Any) -> float:
    """Most memory that a call takes on a GPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
