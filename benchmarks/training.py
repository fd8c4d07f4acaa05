"""How near does training come to a plain loop over tensors in memory, and what does a second worker bring?

    python -m benchmarks.training --shards 'train-{00000..00003}.tar' --vocabulary vocabulary.json

The plain loop is the ceiling: same network, loss and optimiser, uint8 images that are there already, no decoding, no
Ray, all cores. Then `pipeline.training` itself trains over the shards with each number of workers: reading, decoding
and RandAugment run on the same machine, so on a few cores they cost what they cost.
"""

import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass

import ray
import torch
import tyro

from models.losses import compute_loss
from models.mctformer import Variant
from pipeline.shards import list_shards
from pipeline.training import fit, survey_run
from pipeline.training_config import AugmentConfig, ModelConfig, OptimizerConfig, TrainConfig, WorkerConfig
from pipeline.training_log import read_records
from pipeline.training_loop import normalise
from pipeline.training_model import InitialModel, build_initial_model
from pipeline.training_run import open_training
from pipeline.training_schedule import make_optimizer, set_learning_rate
from pipeline.vocabulary import Vocabulary, load_vocabulary

WARM_UP_SHARE = 0.25
"""Of the steps, the first ones: processes start."""
DATA_SLOTS = 2


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Train for an epoch, plainly and through Ray."""

    shards: tuple[str, ...]
    vocabulary: str
    batch_size: int = 32
    """Images of a step, over all workers."""
    image_size: int = 224
    """Side of the crops, in pixels."""
    backbone: str = "vit_tiny_patch16_224"
    """timm name; its weights are random."""
    num_plain_steps: int = 20
    """Steps of the plain loop."""
    num_workers: tuple[int, ...] = (1, 2)
    """Numbers of workers to try."""
    plain_augment: bool = False
    """Crop and flip only, instead of RandAugment."""


def time_plain_loop(job: Benchmark, config: TrainConfig, initial: InitialModel) -> float:
    """Give the images per second of a plain loop over tensors in memory."""
    network = initial.network.train()
    optimizer = make_optimizer(network, config.optimizer)
    set_learning_rate(optimizer, 1e-4)
    images = torch.randint(0, 255, (job.batch_size, 3, job.image_size, job.image_size), dtype=torch.uint8)
    labels = torch.rand(job.batch_size, network.config.num_classes) < 0.3
    num_warm_up = max(2, round(WARM_UP_SHARE * job.num_plain_steps))
    for step in range(job.num_plain_steps):
        if step == num_warm_up:
            started_s = time.monotonic()
        output = network(normalise(images, initial.input_mean, initial.input_std))
        optimizer.zero_grad(set_to_none=True)
        compute_loss(output, labels, Variant.V2).total.backward()
        optimizer.step()
    return job.batch_size * (job.num_plain_steps - num_warm_up) / (time.monotonic() - started_s)


def time_training(job: Benchmark, config: TrainConfig, vocabulary: Vocabulary, num_workers: int) -> tuple[float, float]:
    """Give the images per second of training over the shards, and the share of time that it waits for images."""
    with tempfile.TemporaryDirectory() as out:
        run = open_training(
            out_uri=out,
            config=config,
            vocabulary=vocabulary,
            train_shards=list_shards(job.shards),
            validation_shards=(),
        )
        ray.init(
            address="local",
            num_cpus=num_workers + max(os.cpu_count() or 1, DATA_SLOTS),
            include_dashboard=False,
            log_to_driver=False,
        )
        initial = build_initial_model(config.model, vocabulary.classes, config.rng_seed)
        fit(run, initial, survey_run(run), WorkerConfig(num_workers=num_workers, log_steps=2), lambda event: None)
        ray.shutdown()
        steps = [record for record in read_records(out) if record["kind"] == "step"]
    counted = steps[round(WARM_UP_SHARE * len(steps)) :]
    # Every record is about equally many images, so that seconds per image are averaged, not images per second.
    seconds = [1 / record["images_per_s"] for record in counted]
    waiting = sum(record["wait_share"] * s for record, s in zip(counted, seconds, strict=True)) / sum(seconds)
    return len(seconds) / sum(seconds), waiting


def main() -> None:
    """Measure and print a table."""
    job = tyro.cli(Benchmark, description=__doc__)
    vocabulary = load_vocabulary(job.vocabulary)
    config = TrainConfig(
        model=ModelConfig(backbone=job.backbone, backbone_weights="none", image_size=job.image_size),
        augment=AugmentConfig(rand_augment="", color_jitter=0.0) if job.plain_augment else AugmentConfig(),
        optimizer=OptimizerConfig(epochs=1, warmup_epochs=0.0, batch_size=job.batch_size),
    )
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, PyTorch {torch.__version__}, Ray {ray.__version__}")
    plain = time_plain_loop(job, config, build_initial_model(config.model, vocabulary.classes, config.rng_seed))
    print(f"{'plain loop, tensors in memory':<34} {plain:>7.2f} images/s  ratio 1.00", flush=True)
    for num_workers in job.num_workers:
        speed, waiting = time_training(job, config, vocabulary, num_workers)
        name = f"jobs.train, {num_workers} worker" + "s" * (num_workers > 1)
        print(f"{name:<34} {speed:>7.2f} images/s  ratio {speed / plain:.2f}  waiting {waiting:.1%}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
