"""The network alone: its speed, the cost of evidence and affinity beside it, the plain form, and compilation."""

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.labelling import find_input_shape
from benchmarks.gpu_parts.machine import (
    SIZES,
    Bench,
    count_flops,
    make_model,
    run_fast,
    time_median,
    wait,
)
from benchmarks.gpu_parts.report import Case
from benchmarks.plain_form import CLASS_INDEX, NUM_LAYERS, compute_maps_plainly
from models.class_maps import compute_evidence, refine_class_maps
from models.mctformer import MCTformer, Variant, hold_in_bf16
from models.output import MCTformerOutput


def list_cases(is_small: bool) -> list[Case]:
    """The network by its size and that of images, and the plain form."""
    shapes = ((224, 2),) if is_small else ((224, 128), (448, 48))
    cases = [
        Case(
            part="forward pass",
            settings={"model": name, "patches": (side // 16) ** 2, "batch": batch},
            measure=partial(_measure_forward, name, side, batch),
            needs_s=5,
        )
        for name in (["ViT-Tiny"] if is_small else SIZES)
        for side, batch in shapes
    ]
    side, batch = (224, 1) if is_small else (448, 8)
    plain = Case(
        part="plain form",
        settings={"model": "DeiT-S", "side": side, "batch": batch},
        measure=partial(_measure_plain_form, side, batch),
        needs_s=8,
    )
    return [*cases, plain]


def list_compilation_cases(is_small: bool) -> list[Case]:
    """Does compilation with CUDA graphs make the network faster? With the shape that labelling gives it."""
    return [
        Case(
            part="compilation",
            settings={"model": "DeiT-S", "patches": patches, "mode": "reduce-overhead"},
            measure=partial(_measure_compilation, patches),
            needs_s=45,
        )
        for patches in (196, 784)
    ]


@torch.inference_mode()
def _measure_forward(name: str, side: int, batch: int, bench: Bench) -> dict[str, Any]:
    """Images a second of the network alone, and its share of the peak; evidence and affinity relative to it."""
    device = bench.device
    model = hold_in_bf16(make_model(name).to(device))
    images = torch.randn(batch, 3, side, side, device=device)
    index = torch.tensor([[0, 5]], device=device).expand(batch, -1)
    forward = partial(run_fast, model, images)
    forward_s = time_median(forward, bench)
    output = forward()
    fused = compute_evidence(output, Variant.V2, index).fused
    evidence_s = time_median(partial(compute_evidence, output, Variant.V2, index), bench)
    affinity_s = time_median(partial(refine_class_maps, output, fused, num_steps=2), bench)
    return {
        "images_s": batch / forward_s,
        "share_of_peak": count_flops(forward) / forward_s / bench.peak,
        "evidence_share": evidence_s / forward_s,
        "affinity_share": affinity_s / forward_s,
    }


@torch.inference_mode()
def _measure_plain_form(side: int, batch: int, bench: Bench) -> dict[str, Any]:
    """The plain form of `benchmarks.labelling_maths`, in float32 as the authors' script, against ours."""
    device = bench.device
    model = make_model("DeiT-S").to(device)
    fast_model = hold_in_bf16(model)
    images = torch.randn(batch, 3, side, side, device=device)
    index = torch.tensor([CLASS_INDEX], device=device).expand(batch, -1)

    def find_maps(output: MCTformerOutput) -> Tensor:
        fused = compute_evidence(output, Variant.V2, index, num_layers=NUM_LAYERS).fused
        return refine_class_maps(output, fused)

    plain_s = time_median(partial(compute_maps_plainly, model, images), bench)
    own_s = time_median(lambda: find_maps(model(images)), bench)
    fast_s = time_median(lambda: find_maps(run_fast(fast_model, images)), bench)
    return {
        "images_s": batch / plain_s,
        "ours": batch / own_s,
        "ours_bf16": batch / fast_s,
        "faster": plain_s / fast_s,
    }


@torch.inference_mode()
def _measure_compilation(patches: int, bench: Bench) -> dict[str, Any]:
    """The forward pass, plain against compiled."""
    device = bench.device
    if device.type != "cuda":
        return {"skipped": "CUDA graphs need a GPU"}
    shape = find_input_shape(device, "DeiT-S", patches)
    model = hold_in_bf16(make_model("DeiT-S").to(device))
    images = torch.randn(shape, device=device)
    plain = partial(run_fast, model, images)
    plain_s = time_median(plain, bench)
    expected = plain().class_logits.float().clone()
    # Another shape would be compiled as one of any size.
    torch.compiler.reset()
    compiled = partial(run_fast, _compile(model), images)
    started_s = time.perf_counter()
    # The second call records the graph.
    for _ in range(3):
        found = compiled().class_logits.float().clone()
    wait(device)
    compile_s = time.perf_counter() - started_s
    compiled_s = time_median(compiled, bench)
    torch.compiler.reset()
    return {
        "shape": "x".join(map(str, shape)),
        "images_s": shape[0] / plain_s,
        "compiled_images_s": shape[0] / compiled_s,
        "faster": plain_s / compiled_s,
        "compile_s": compile_s,
        "difference": float((found - expected).abs().max() / expected.abs().max()),
    }


def _compile(model: MCTformer) -> Any:
    return torch.compile(model, mode="reduce-overhead")
