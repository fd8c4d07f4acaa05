"""How far maps, masks and presence on the device are from those of the CPU in float32, by the code of labelling."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8

from benchmarks.gpu_parts.labelling import decode_photos
from benchmarks.gpu_parts.machine import NUM_CLASSES, Bench, make_model
from benchmarks.gpu_parts.report import Case
from jobs.qualities import QUALITIES
from models.bundle import ModelBundle
from models.mctformer import MCTformer
from pipeline.images.drawing.draw import draw_mask
from pipeline.images.frames import choose_grid, choose_guide_size, resize_rgb
from pipeline.images.mapping.class_mapper import ClassMapper
from pipeline.images.mapping.evidence import ImageEvidence
from pipeline.run.config import LabelConfig

CLASS_IDS = ((2, 6), (3,), (1, 8, 15, 20), (3, 11))
"""Tagged classes of each image of the batch."""
PATCH_SIZE = 16
SHARPNESS = 4.0
"""Factor of the weights of queries and keys. Random ones attend to all tokens alike, so that affinity makes maps flat,
and rounding decides where their masks are."""
ODD_GRIDS = ((7, 11), (21, 25))
"""With 20 class tokens, their tokens are one more than a multiple of 32. There, some attention kernels are reported to
read values that several heads share wrongly, and `models.attention.propagate` shares them."""


def list_cases(is_small: bool) -> list[Case]:
    """Buckets of wide and tall photos, and odd grids; without PAR, and with PAR and two scales."""
    buckets = [choose_grid(height, width, 196) for height, width in ((375, 500), (500, 375))]
    shapes = [(quality, grid) for quality in ("balanced", "best") for grid in (*buckets, *ODD_GRIDS)]
    if is_small:
        shapes = [("balanced", buckets[0]), ("best", ODD_GRIDS[0])]
    return [
        Case(
            part="parity",
            settings={"quality": quality, "grid": f"{grid[0]}x{grid[1]}", "tokens": NUM_CLASSES + grid[0] * grid[1]},
            measure=partial(_measure_parity, "ViT-Tiny" if is_small else "DeiT-S", quality, grid),
            needs_s=10,
        )
        for quality, grid in shapes
    ]


def _measure_parity(model: str, quality: str, grid: tuple[int, int], bench: Bench) -> dict[str, Any]:
    """Differences of a batch, in float32 and with bfloat16."""
    config = QUALITIES[quality]()
    size = (grid[0] * PATCH_SIZE, grid[1] * PATCH_SIZE)
    photos = decode_photos(len(CLASS_IDS))
    frames = np.stack([resize_rgb(photo, size) for photo in photos])
    guide_size = choose_guide_size(*size, config.maps.pixel_side_px, PATCH_SIZE)
    guides = np.stack([resize_rgb(photo, guide_size) for photo in photos]) if quality == "best" else None
    expected = _find(_make_mapper(model, config, torch.device("cpu"), use_bf16=False), frames, guides)
    mapper = _make_mapper(model, config, bench.device, use_bf16=True)
    figures: dict[str, Any] = {}
    for kind, in_float32 in (("float32", True), ("bf16", False)):
        found = _find(mapper, frames, guides, in_float32=in_float32)
        differences = compare_evidence(found, expected, config)
        figures |= {f"{kind}_{name}": value for name, value in differences.items()}
    return figures


def compare_evidence(
    found: Sequence[ImageEvidence], expected: Sequence[ImageEvidence], config: LabelConfig
) -> dict[str, float]:
    """Compare what was found in the same images twice.

    Returns:
        Largest difference of grid maps relative to the largest value of their image, share of the pixels of all masks
        that differ, and largest difference of a presence.
    """
    relative, presence, num_different, num_pixels = [], [], 0, 0
    for one, other in zip(found, expected, strict=True):
        relative.append(np.abs(one.grid_maps - other.grid_maps).max() / np.abs(other.grid_maps).max())
        presence.append(np.abs(one.presence - other.presence).max())
        mask, other_mask = (_draw(evidence, config) for evidence in (one, other))
        num_different += int((mask != other_mask).sum())
        num_pixels += mask.size
    # numpy's maximum keeps NaN.
    return {
        "maps": float(np.max(relative)),
        "pixels": num_different / num_pixels,
        "presence": float(np.max(presence)),
    }


def _draw(evidence: ImageEvidence, config: LabelConfig) -> UInt8[np.ndarray, "h w"]:
    return draw_mask(evidence.scale_maps(), evidence.class_ids, evidence.presence, config.maps).mask


def _find(
    mapper: ClassMapper,
    frames: UInt8[np.ndarray, "b h w 3"],
    guides: UInt8[np.ndarray, "b guide_h guide_w 3"] | None,
    *,
    in_float32: bool = False,
) -> list[ImageEvidence]:
    # Masks of twice the size of the model's input, as those of photos are.
    sizes = [(2 * frames.shape[1], 2 * frames.shape[2])] * len(frames)
    return mapper.queue(frames, CLASS_IDS, sizes, guides, in_float32=in_float32)()


def _sharpen(network: MCTformer) -> MCTformer:
    with torch.no_grad():
        for block in network.blocks:
            num_values = network.config.width
            cast(Any, block).attn.qkv.weight[:-num_values].mul_(SHARPNESS)
    return network


def _make_mapper(model: str, config: LabelConfig, device: torch.device, *, use_bf16: bool) -> ClassMapper:
    network = _sharpen(make_model(model))
    names = tuple(f"c{number}" for number in range(NUM_CLASSES))
    bundle = ModelBundle(config=network.config, class_names=names, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
    return ClassMapper(model=network.to(device), bundle=bundle, config=config, device=device, use_bf16=use_bf16)
