"""What is saved by not forming attention matrices? Class maps as labelling computes them, against the plain form.

    python -m benchmarks.labelling_maths [--width 384 --num-heads 6]

Both forms run the same network with the same weights on the same images and return refined maps of three classes.
The plain form follows the definition: it computes the attention matrix of every layer, stacks all of them, averages
over heads, sums over layers, and multiplies the patch affinity with the maps. Each form and size runs in a separate
process, so that peak memory is measured per form. The benchmark fails if the maps of the two forms differ.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from benchmarks.peak_memory import read_peak_bytes
from benchmarks.plain_form import CLASS_INDEX, NUM_CLASSES, NUM_LAYERS, compute_maps_plainly
from models.class_maps import compute_evidence, refine_class_maps
from models.mctformer import MCTformer, MCTformerConfig, Variant

SIZES = ((448, 8), (768, 1), (1024, 1))
"""Side of the images in pixels, and images in the batch."""


@dataclass(frozen=True)
class Benchmark:
    """Compare class maps as labelling computes them with the plain form."""

    width: int = 192
    """Channels of a token: 192 in ViT-Tiny, 384 in ViT-Small."""
    num_heads: int = 3
    """Attention heads."""
    num_repeats: int = 3
    """Timed runs; the median is reported."""


def make_model(job: Benchmark) -> MCTformer:
    """V2 network with random weights."""
    torch.manual_seed(0)
    config = MCTformerConfig(variant=Variant.V2, num_classes=NUM_CLASSES, width=job.width, num_heads=job.num_heads)
    return MCTformer(config).eval()


def compute_maps(model: MCTformer, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k gh gw"]:
    """Refined maps as labelling computes them."""
    index = torch.tensor(CLASS_INDEX).expand(len(images), -1)
    output = model(images)
    return refine_class_maps(output, compute_evidence(output, Variant.V2, index, num_layers=NUM_LAYERS).fused)


FORMS: dict[str, Callable[[MCTformer, Tensor], Tensor]] = {"plain": compute_maps_plainly, "tagmask": compute_maps}


@torch.inference_mode()
def measure(form: str, job: Benchmark, side: int, batch: int) -> tuple[float, float, Tensor]:
    """Median seconds, peak memory in MiB above that of the idle process, and the maps."""
    model = make_model(job)
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    model(images[:, :, :64, :64])
    idle_bytes = read_peak_bytes()
    seconds = []
    for _ in range(1 + job.num_repeats):
        started_s = time.perf_counter()
        maps = FORMS[form](model, images)
        seconds.append(time.perf_counter() - started_s)
    peak_bytes = read_peak_bytes() - idle_bytes
    return statistics.median(seconds[1:]), peak_bytes / 2**20, maps


def main() -> None:
    """Print the comparison."""
    job = tyro.cli(Benchmark, description=__doc__)
    print(f"V2, width {job.width}, depth 12, float32, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    print(f"{'input':>14s}{'plain':>18s}{'tagmask':>18s}{'faster':>9s}{'smaller':>9s}{'error':>10s}")
    # Spawned, not forked: a forked process inherits the peak memory of its parent.
    context = multiprocessing.get_context("spawn")
    for side, batch in SIZES:
        found = {}
        for form in FORMS:
            with context.Pool(1) as pool:
                found[form] = pool.apply(measure, (form, job, side, batch))
        (plain_s, plain_mib, expected), (own_s, own_mib, maps) = found["plain"], found["tagmask"]
        error = float((maps - expected).norm() / expected.norm())
        assert error < 1e-5, f"the maps of the two forms differ by {error:.0e}"
        print(
            f"{batch:5d} x {side}px{plain_s:8.2f} s {plain_mib:5.0f} MiB{own_s:8.2f} s {own_mib:5.0f} MiB"
            f"{plain_s / own_s:8.1f}x{plain_mib / own_mib:8.1f}x{error:10.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
