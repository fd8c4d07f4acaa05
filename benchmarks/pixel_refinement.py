"""What does pixel refinement (PAR) cost beside the model that computes the class maps?

    python -m benchmarks.pixel_refinement [--device cuda --bf16 --batch-size 16]

Random weights, random images of 448 px (784 patches), maps of two classes per image. One line per network: time per
image of one view (forward pass, class maps and affinity refinement), and the time of each setting of pixel refinement
as a multiple of that.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from models.class_maps import compute_evidence, refine_class_maps
from models.mctformer import MCTformer, MCTformerConfig, Variant
from models.pixel_refinement import refine_by_pixels

NUM_CLASSES = 20
CLASS_INDEX = (0, 7)
IMAGE_SIDE_PX = 448
NETWORKS = {"ViT-Tiny": (192, 3), "DeiT-S": (384, 6)}
"""Width and number of heads; 12 blocks each."""
SETTINGS = ((224, 5), (224, 10), (448, 10), (448, 20))
"""Side of the image for the refinement in pixels, and iterations."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compare the time of pixel refinement with that of the model."""

    device: str = "cpu"
    """cpu or cuda."""
    batch_size: int = 1
    """Images per forward pass and per call of the refinement."""
    bf16: bool = False
    """Run the model under bfloat16 autocast, as labelling does on GPUs."""
    num_repeats: int = 3
    """Timed runs; the median is reported."""


def measure(job: Benchmark, work: Callable[[], Tensor]) -> float:
    """Median seconds per image of some work on a batch, after a run to warm up."""
    seconds = []
    for _ in range(1 + job.num_repeats):
        started_s = time.perf_counter()
        work()
        if job.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds[1:]) / job.batch_size


def make_maps(job: Benchmark, model: MCTformer, images: Tensor) -> Tensor:
    """Refined maps of a view."""
    with torch.autocast(job.device, dtype=torch.bfloat16, enabled=job.bf16):
        output = model(images)
    index = torch.tensor(CLASS_INDEX, device=images.device).expand(len(images), -1)
    return refine_class_maps(output, compute_evidence(output, Variant.V2, index).fused)


@torch.inference_mode()
def main() -> None:
    """Print the comparison."""
    job = tyro.cli(Benchmark, description=__doc__)
    machine = torch.cuda.get_device_name() if job.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"batch {job.batch_size}, {'bf16' if job.bf16 else 'float32'} model, {machine}, torch {torch.__version__}")
    torch.manual_seed(0)
    images = torch.randn(job.batch_size, 3, IMAGE_SIDE_PX, IMAGE_SIDE_PX, device=job.device)
    refining_s = {}
    for side_px, num_iterations in SETTINGS:
        image_rgb = functional.interpolate(images.sigmoid(), size=(side_px, side_px))
        maps = image_rgb[:, : len(CLASS_INDEX)]

        def refine(maps: Tensor = maps, image_rgb: Tensor = image_rgb, num_iterations: int = num_iterations) -> Tensor:
            return refine_by_pixels(maps, image_rgb, num_iterations=num_iterations)

        refining_s[side_px, num_iterations] = measure(job, refine)
    heading = "".join(f"{f'{side_px} px, {rounds} iterations':>24}" for side_px, rounds in refining_s)
    print(f"{'':10}{'model':>12}{heading}")
    for name, (width, num_heads) in NETWORKS.items():
        config = MCTformerConfig(variant=Variant.V2, num_classes=NUM_CLASSES, width=width, num_heads=num_heads)
        model = MCTformer(config).eval().to(job.device)
        model_s = measure(job, partial(make_maps, job, model, images))
        cells = (f"{1000 * cost_s:10.1f} ms ({cost_s / model_s:5.2f}x)" for cost_s in refining_s.values())
        print(f"{name:10}{1000 * model_s:9.1f} ms" + "".join(f"{cell:>24}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
