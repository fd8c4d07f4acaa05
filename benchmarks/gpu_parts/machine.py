"""The card and its peak, networks with random weights, and how a call is timed and counted."""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_form import NUM_CLASSES
from models.mctformer import MCTformer, MCTformerConfig, Variant
from models.output import MCTformerOutput

SIZES = {"ViT-Tiny": (192, 3), "DeiT-S": (384, 6), "ViT-B": (768, 12)}
"""Width and heads."""


class Bench(NamedTuple):
    """What each case measures on."""

    device: torch.device
    peak: float
    """Operations a second of a large product in bfloat16."""
    is_small: bool
    """A trial, whose figures mean nothing."""


def describe(device: torch.device) -> dict[str, Any]:
    """Name card, cores and PyTorch."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"card": card, "cores": os.cpu_count(), "torch": torch.__version__}


def make_model(name: str, *, image_size: int = 224, variant: Variant = Variant.V2) -> MCTformer:
    """Network with random weights, the same at every call."""
    torch.manual_seed(0)
    width, num_heads = SIZES[name]
    config = MCTformerConfig(
        variant=variant, num_classes=NUM_CLASSES, image_size=image_size, width=width, num_heads=num_heads
    )
    return MCTformer(config).eval()


def run_fast(model: nn.Module, images: Tensor) -> MCTformerOutput:
    """Run a model of `hold_in_bf16`. What follows it is outside of autocast, as in `ClassMapper`."""
    with torch.autocast(images.device.type, torch.bfloat16):
        output: MCTformerOutput = model(images)
    return output


def time_median(function: Callable[[], object], bench: Bench, repeats: int = 7) -> float:
    """Median seconds of a call, until the device has finished; of a single one in a trial."""
    warm_up, repeats = (0, 1) if bench.is_small else (3, repeats)
    device = bench.device
    for _ in range(warm_up):
        function()
    seconds = []
    for _ in range(repeats):
        wait(device)
        started_s = time.perf_counter()
        function()
        wait(device)
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds)


def wait(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clear(device: torch.device) -> None:
    """Give the memory that nothing uses any more back to a GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def count_flops(function: Callable[[], object]) -> int:
    """Floating-point operations of a call, of this thread."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def make_bench(device: torch.device, *, is_small: bool) -> Bench:
    """Measure the peak of a device."""
    bench = Bench(device, peak=0.0, is_small=is_small)
    side = 1024 if is_small else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return bench._replace(peak=2 * side**3 / time_median(lambda: a @ b, bench))
