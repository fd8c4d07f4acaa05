"""What does an image cost until a training worker has it, and what do its random operations cost there?

    python -m benchmarks.training_input --shards train-00000.tar --vocabulary vocabulary.json --baseline ../before

One process of one thread reads, decodes and augments images of the first shard, by recipe. With `--baseline`, another
checkout does the same in a process of its own, in turns with this one. The operations of the images are then applied in
batches, on one thread of the CPU and on a GPU if there is one; before they moved there they were part of augmentation.
"""

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from jobs.recipes import RECIPES
from pipeline.training.config import TrainConfig
from pipeline.training.data.augmentation import make_variation
from pipeline.training.worker.image_operations import apply_operations

ROOT = Path(__file__).parents[1]
NUM_VARIED = 64
"""Images of the batch whose operations are timed."""

INPUT_CODE = """
import sys
import torch
from benchmarks.training import Benchmark, load_vocabulary, measure_data_cost
from jobs.recipes import RECIPES
torch.set_num_threads(1)
shards, vocabulary, recipe = sys.argv[1].split(","), sys.argv[2], sys.argv[3]
job = Benchmark(shards=tuple(shards), vocabulary=vocabulary)
costs = [measure_data_cost(job, RECIPES[recipe](), load_vocabulary(vocabulary)) for _ in range(3)]
print(min(costs))
"""
"""Least of three measurements; runs in older checkouts, too."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time the input of training."""

    shards: tuple[str, ...]
    """Training shards; images are read from the first."""
    vocabulary: str
    """Vocabulary of the tags."""
    recipes: tuple[str, ...] = ("v2", "seeded", "plus")
    """Recipes whose size and augmentation are used."""
    baseline: Path | None = None
    """Another checkout, measured beside this one."""
    num_rounds: int = 3
    """Turns of the two checkouts."""


def measure_input(job: Benchmark, recipe: str, checkout: Path) -> float:
    """CPU seconds per image in a process that runs the code of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-c",
        INPUT_CODE,
        ",".join(str(Path(shard).resolve()) for shard in job.shards),
        str(Path(job.vocabulary).resolve()),
        recipe,
    ]
    return float(
        subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True, text=True).stdout
    )


def measure_operations(config: TrainConfig, device: str) -> float:
    """Seconds per image for the operations of a batch: CPU time, or time until a GPU is done."""
    generator = torch.Generator().manual_seed(0)
    side = config.model.image_size
    images = torch.randint(0, 256, (NUM_VARIED, 3, side, side), dtype=torch.uint8, generator=generator).to(device)
    variation = make_variation(side, config.augment)
    seconds = []
    for repeat in range(8):
        draws = [variation.draw_operations(np.random.default_rng((repeat, place))) for place in range(NUM_VARIED)]
        _wait(device)
        started_s = time.process_time() if device == "cpu" else time.monotonic()
        apply_operations(images, np.stack(draws))
        _wait(device)
        seconds.append((time.process_time() if device == "cpu" else time.monotonic()) - started_s)
    return float(np.median(seconds)) / NUM_VARIED


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    """Print the costs."""
    job = tyro.cli(Benchmark, description=__doc__)
    torch.set_num_threads(1)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, PyTorch {torch.__version__}")
    print("ms of a core per image, and images/s of a core; operations: ms per image")
    checkouts = {"now": ROOT} | ({"baseline": job.baseline.resolve()} if job.baseline else {})
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for recipe in job.recipes:
        costs: dict[str, list[float]] = {name: [] for name in checkouts}
        for _ in range(job.num_rounds):
            for name, checkout in checkouts.items():
                costs[name].append(measure_input(job, recipe, checkout))
        shown = [f"{name} {1000 * min(of):.2f} ms, {1 / min(of):.0f}/s" for name, of in costs.items()]
        gain = f"; {min(costs['baseline']) / min(costs['now']):.2f}x" if job.baseline else ""
        ops = [f"{device} {1000 * measure_operations(RECIPES[recipe](), device):.3f}" for device in devices]
        print(f"{recipe:8} {'; '.join(shown)}{gain}; operations: {', '.join(ops)}", flush=True)


if __name__ == "__main__":
    main()
