"""What do seeds cost a training step, from class maps of the network or of the averaged network?

    python -m benchmarks.seed_loss [--device cuda --batch-size 64]

Recipe `seeded` with random weights and random images in memory; no Ray, no decoding. The three kinds of step alternate.
Each figure is a multiple of the step without seeds.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import tyro

from jobs.recipes import seeded
from models.losses import SeedTerm, score_soft_margin
from pipeline.training.config import TrainConfig
from pipeline.training.data.prefetch import TrainingBatch
from pipeline.training.worker.network import build_initial_model
from pipeline.training.worker.schedule import choose_seed_term
from pipeline.training.worker.step import TrainingStep

NUM_CLASSES = 20
TAGGED_SHARE = 0.1
"""Share of the labels of the random images that are set."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time training steps with and without seeds."""

    device: str = "cpu"
    """cpu or cuda."""
    backbone: str = "vit_tiny_patch16_224"
    """Name in timm; the weights are random."""
    image_size: int = 224
    """Side of the images, in pixels."""
    batch_size: int = 32
    """Images per step."""
    num_rounds: int = 5
    """Timed steps of each kind; the median is reported."""


def make_batch(job: Benchmark) -> TrainingBatch:
    """Random images with at least one tag each."""
    images = torch.randint(0, 256, (job.batch_size, 3, job.image_size, job.image_size), dtype=torch.uint8)
    labels = torch.rand(job.batch_size, NUM_CLASSES) < TAGGED_SHARE
    labels[:, 0] |= ~labels.any(-1)
    return TrainingBatch(("",) * job.batch_size, images, labels, torch.ones(job.batch_size))


def make_work(job: Benchmark, config: TrainConfig, term: SeedTerm | None, batch: TrainingBatch) -> Callable[[], object]:
    """Function that takes a training step."""
    initial = build_initial_model(config.model, tuple(f"class {number}" for number in range(NUM_CLASSES)), 0)
    step = TrainingStep(
        initial.network,
        config,
        input_mean=initial.input_mean,
        input_std=initial.input_std,
        device=torch.device(job.device),
    )
    return lambda: step.update(batch, score_soft_margin, term)


def main() -> None:
    """Print the comparison."""
    job = tyro.cli(Benchmark, description=__doc__)
    torch.manual_seed(0)
    config = seeded()
    model = replace(config.model, backbone=job.backbone, backbone_weights="none", image_size=job.image_size)
    average = replace(config, model=model)
    own = replace(average, loss=replace(config.loss, seed_from_average=False))
    term, batch = choose_seed_term(config.loss, config.optimizer.epochs), make_batch(job)
    works = {
        "no seeds": make_work(job, own, None, batch),
        "seeds of the network's maps": make_work(job, own, term, batch),
        "seeds of the average's maps": make_work(job, average, term, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + job.num_rounds):
        for name, work in works.items():
            started_s = time.perf_counter()
            # A step returns its losses as numbers, so the GPU has finished by then.
            work()
            seconds[name].append(time.perf_counter() - started_s)
    medians = {name: statistics.median(of_kind[1:]) for name, of_kind in seconds.items()}
    machine = torch.cuda.get_device_name() if job.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{job.backbone}, {job.image_size} px, batch {job.batch_size}, {machine}, torch {torch.__version__}")
    for name, step_s in medians.items():
        print(f"{name:28}{job.batch_size / step_s:8.2f} images/s {step_s / medians['no seeds']:6.2f}x the time")


if __name__ == "__main__":
    main()
