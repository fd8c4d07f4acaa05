"""The card, its peak, the parity of class maps with the CPU, and the cost of the parts of a forward pass."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_form import NUM_CLASSES, compute_maps_plainly
from models.class_maps import compute_evidence, refine_class_maps
from models.mctformer import MCTformer, MCTformerConfig, Variant

SIZES = {"ViT-Tiny": (192, 3), "DeiT-S": (384, 6), "ViT-B": (768, 12)}
"""Width and heads."""


def describe(device: torch.device) -> dict[str, Any]:
    """Name card, cores and PyTorch."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"card": card, "cores": os.cpu_count(), "torch": torch.__version__}


def make_model(name: str, *, image_size: int = 224, variant: Variant = Variant.V2) -> MCTformer:
    """Network with random weights."""
    torch.manual_seed(0)
    width, num_heads = SIZES[name]
    config = MCTformerConfig(
        variant=variant, num_classes=NUM_CLASSES, image_size=image_size, width=width, num_heads=num_heads
    )
    return MCTformer(config).eval()


def time_median(function: Callable[[], object], device: torch.device, repeats: int = 7, warm_up: int = 3) -> float:
    """Median seconds of a call, until the device has finished."""
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


def in_bf16(device: torch.device) -> Any:
    """Autocast of a GPU; none on a CPU, where it is slow."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def count_flops(function: Callable[[], object]) -> int:
    """Floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def measure_peak(device: torch.device, report: Any, *, is_small: bool) -> float:
    """Operations a second of a large product in bfloat16."""
    side = 1024 if is_small else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    peak = 2 * side**3 / time_median(lambda: a @ b, device)
    report.add("peak", bf16_tflops=peak / 1e12)
    return peak


@torch.inference_mode()
def measure_parity(device: torch.device, report: Any, peak: float, is_small: bool) -> None:
    """Largest difference of refined maps from those of the CPU in float32, relative to the largest value."""
    model = make_model("DeiT-S")
    images, index = torch.randn(2, 3, 224, 224), torch.tensor([[0, 7], [3, 9]])

    def compute(network: MCTformer, where: torch.device) -> Tensor:
        output = network(images.to(where))
        evidence = compute_evidence(output, Variant.V2, index.to(where))
        return refine_class_maps(output, evidence.fused, num_steps=2).float().cpu()

    expected = compute(model, torch.device("cpu"))
    model.to(device)
    for name, context in (("float32", nullcontext()), ("bf16", in_bf16(device))):
        with context:
            found = compute(model, device)
        error = (found - expected).abs().max() / expected.abs().max()
        report.add("parity with the CPU", kind=name, relative_error=float(error))


@torch.inference_mode()
def measure_forward(device: torch.device, report: Any, peak: float, is_small: bool) -> None:
    """Images a second of the network alone, and its share of the peak; evidence and affinity relative to it."""
    for name in ["ViT-Tiny"] if is_small else SIZES:
        for side, batch in ((224, 2),) if is_small else ((224, 128), (448, 48)):
            model = make_model(name).to(device)
            images = torch.randn(batch, 3, side, side, device=device)
            index = torch.tensor([[0, 5]], device=device).expand(batch, -1)
            with in_bf16(device):
                forward_s = time_median(partial(model, images), device)
                num_flops = count_flops(partial(model, images))
                output = model(images)
                fused = compute_evidence(output, Variant.V2, index).fused
                evidence_s = time_median(partial(compute_evidence, output, Variant.V2, index), device)
                affinity_s = time_median(partial(refine_class_maps, output, fused, num_steps=2), device)
            report.add(
                "forward pass",
                model=name,
                patches=(side // 16) ** 2,
                batch=batch,
                images_s=batch / forward_s,
                share_of_peak=num_flops / forward_s / peak,
                evidence_share=evidence_s / forward_s,
                affinity_share=affinity_s / forward_s,
            )


@torch.inference_mode()
def measure_plain_form(device: torch.device, report: Any, peak: float, is_small: bool) -> None:
    """The plain form of `benchmarks.labelling_maths` against ours, in float32 as the authors' script."""
    for side, batch in ((224, 1),) if is_small else ((448, 8),):
        model = make_model("DeiT-S").to(device)
        images = torch.randn(batch, 3, side, side, device=device)
        index = torch.tensor([[0, 7, 14]], device=device).expand(batch, -1)

        def compute_ours(images: Tensor = images, model: MCTformer = model, index: Tensor = index) -> Tensor:
            output = model(images)
            return refine_class_maps(output, compute_evidence(output, Variant.V2, index, num_layers=3).fused)

        plain_s = time_median(partial(compute_maps_plainly, model, images), device)
        own_s = time_median(compute_ours, device)
        with in_bf16(device):
            fast_s = time_median(compute_ours, device)
        report.add(
            "plain form",
            side=side,
            images_s=batch / plain_s,
            ours=batch / own_s,
            ours_bf16=batch / fast_s,
            faster=plain_s / fast_s,
        )


PARTS = {"parity": measure_parity, "forward pass": measure_forward, "plain form": measure_plain_form}
