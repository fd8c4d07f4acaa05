"""What does training cost beside its steps? `tagmask train` against a plain loop over tensors in memory.

    python -m benchmarks.training --shards 'train-{00000..00003}.tar' --vocabulary vocabulary.json

The plain loop is the upper bound: same network, loss and optimiser, uint8 images in memory, no decoding, no Ray, all
cores. The step of `tagmask train` alternates with it over the same tensors: it adds checks, sample weights, random
erasing and the gradient norm. Then `pipeline.train` trains over the shards with each number of workers. Reading,
decoding and RandAugment take CPU time of the same machine. That time is measured separately, and from it follows the
ratio of a trainer without overhead. The table of CPU time by kind of process shows the rest.

    python -m benchmarks.training --shards ... --vocabulary ... --gpu --batch-size 256 --num-workers 1

With `--gpu` the plain loop and the workers compute in bf16 on GPUs. Speeds are then also shown as a share of the GPU's
peak: PyTorch's FlopCounterMode counts the operations, and large bf16 matrix products in the same run show the peak.
"""

import copy
import os
import platform
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from jobs.cluster.connection import connect
from models.losses import compute_loss
from models.mctformer import Variant
from pipeline.images.frames import normalise
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.vocabulary import Vocabulary, load_vocabulary
from pipeline.train import fit, survey_run
from pipeline.training.config import AugmentConfig, ModelConfig, OptimizerConfig, TrainConfig, WorkerConfig
from pipeline.training.data.augmentation import augment_samples
from pipeline.training.data.epoch_order import group_shards, list_pieces
from pipeline.training.data.prefetch import TrainingBatch
from pipeline.training.data.stream import DECODE_BATCH, read_piece
from pipeline.training.data.survey import survey_shards
from pipeline.training.driver.log import read_records
from pipeline.training.driver.run import open_training
from pipeline.training.worker.network import InitialModel, build_initial_model
from pipeline.training.worker.schedule import choose_tag_loss, make_optimizer, set_learning_rate
from pipeline.training.worker.step import TrainingStep

WARM_UP_SHARE = 0.25
"""Share of the steps, at the start, that does not count."""
DATA_SLOTS = 2
"""Least number of CPU slots for reading and decoding."""
NUM_COSTED = 256
"""Images for the cost of reading, decoding and augmenting."""
PEAK_SIDE = 8192
"""Side of the matrices whose product shows the peak of a GPU."""
PEAK_REPEATS = 30
WATCH_PERIOD_S = 2.0
LEARNING_RATE = 1e-4
KINDS = {
    "RayTrainWorker": "training",
    "augment_batch": "decoding and augmenting",
    "TrainingSamples": "reading",
    "SplitCoordinator": "Ray Data's scheduler",
}
"""Kinds of processes, by a part of their titles; the rest is Ray and the driver."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Train for an epoch, in a plain loop and with Ray."""

    shards: tuple[str, ...]
    """Training shards."""
    vocabulary: str
    """Vocabulary of the tags."""
    batch_size: int = 32
    """Images per step, over all workers."""
    image_size: int = 224
    """Side of the crops, in pixels."""
    backbone: str = "vit_tiny_patch16_224"
    """Name in timm; the weights are random."""
    num_plain_steps: int = 20
    """Steps of the plain loop, and of `tagmask train` over the same tensors."""
    num_workers: tuple[int, ...] = (1, 2)
    """Numbers of workers."""
    plain_augment: bool = False
    """Crop and flip only, instead of RandAugment."""
    compile: bool = False
    """Compile the network in the workers; not in the plain loop."""
    gpu: bool = False
    """Compute in bf16 on GPUs, one per worker."""

    @property
    def device(self) -> str:
        """Device of the plain loop, as PyTorch names it."""
        return "cuda" if self.gpu else "cpu"


@dataclass
class CpuWatch:
    """Sums the CPU time of this process and its descendants, by kind of process."""

    ticks: Counter[str] = field(default_factory=Counter)
    """Clock ticks of CPU time, by kind of process."""
    _kinds: dict[int, str] = field(default_factory=dict)
    _seen: dict[int, int] = field(default_factory=dict)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Count from now on."""
        self._seen = {pid: ticks for pid, (ticks, _) in self._list_processes().items()}
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Stop counting."""
        self._is_over.set()
        self._count()

    def _watch(self) -> None:
        while not self._is_over.wait(WATCH_PERIOD_S):
            self._count()

    def _count(self) -> None:
        for pid, (ticks, title) in self._list_processes().items():
            # Between two tasks Ray names a process IDLE; it keeps its kind.
            found = next((kind for part, kind in KINDS.items() if part in title), None)
            kind = self._kinds[pid] = found or self._kinds.get(pid, "Ray and the driver")
            self.ticks[kind] += ticks - self._seen.get(pid, 0)
            self._seen[pid] = ticks

    @staticmethod
    def _list_processes() -> dict[int, tuple[int, str]]:
        """Clock ticks of CPU time and title of this process and of its descendants."""
        found: dict[int, tuple[int, int, str]] = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit():
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    ticks = int(fields[11]) + int(fields[12])
                    title = (folder / "cmdline").read_bytes().decode(errors="replace")
                    found[int(folder.name)] = (int(fields[1]), ticks, title)
            except OSError:
                continue
        ours, before = {os.getpid()}, 0
        while len(ours) > before:
            before = len(ours)
            ours |= {pid for pid, (parent, *_) in found.items() if parent in ours}
        return {pid: found[pid][1:] for pid in ours if pid in found}


def measure_data_cost(job: Benchmark, config: TrainConfig, vocabulary: Vocabulary) -> float:
    """CPU seconds per image for reading, decoding and augmenting."""
    shards = list_shards(job.shards)[:1]
    usable = survey_shards(shards, vocabulary, InputConfig()).usable_per_shard
    groups = group_shards(shards, usable, window=config.shuffle_window, rng_seed=0, epoch=0)
    number = min(NUM_COSTED, sum(usable.values()))
    (piece,) = list_pieces(groups, [(0, number)], 0)
    started_s = time.process_time()
    samples: dict[str, list[Any]] = {name: [] for name in ("key", "epoch", "image", "class_ids")}
    for table in read_piece(piece, vocabulary, config):
        for name, values in table.to_pydict().items():
            samples[name] += values
    for start in range(0, number, DECODE_BATCH):
        batch: dict[str, Any] = {name: values[start : start + DECODE_BATCH] for name, values in samples.items()}
        augment_samples(batch, config, len(vocabulary.classes), lambda key, error: None)
    return (time.process_time() - started_s) / number


def measure_peak() -> float:
    """Operations per second of the GPU in products of large bf16 matrices."""
    left, right = (torch.randn(PEAK_SIDE, PEAK_SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for repeat in range(2 * PEAK_REPEATS):
        if repeat == PEAK_REPEATS:
            torch.cuda.synchronize()
            started_s = time.monotonic()
        left @ right
    torch.cuda.synchronize()
    return 2 * PEAK_SIDE**3 * PEAK_REPEATS / (time.monotonic() - started_s)


def count_operations(job: Benchmark, initial: InitialModel) -> float:
    """Number of operations per image, forward and backward."""
    network = initial.network.train().to(job.device)
    images = torch.zeros(2, 3, job.image_size, job.image_size, device=job.device)
    labels = torch.ones(2, network.config.num_classes, dtype=torch.bool, device=job.device)
    with FlopCounterMode(display=False) as counter:
        with torch.autocast(job.device, torch.bfloat16, enabled=job.gpu):
            output = network(images)
        compute_loss(output, labels, Variant.V2).total.backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(images)


def make_plain_step(job: Benchmark, config: TrainConfig, initial: InitialModel) -> Callable[[], object]:
    """Step of a plain loop over one batch in memory: forward, backward and optimiser."""
    network = copy.deepcopy(initial.network).train().to(job.device)
    optimizer = make_optimizer(network, config.optimizer)
    set_learning_rate(optimizer, LEARNING_RATE)
    images, labels = (values.to(job.device) for values in make_tensors(job, network.config.num_classes))

    def take() -> None:
        with torch.autocast(job.device, torch.bfloat16, enabled=job.gpu):
            output = network(normalise(images, initial.input_mean, initial.input_std))
        optimizer.zero_grad(set_to_none=True)
        compute_loss(output, labels, Variant.V2).total.backward()
        optimizer.step()

    return take


def make_training_step(job: Benchmark, config: TrainConfig, initial: InitialModel) -> Callable[[], object]:
    """Step of `tagmask train` over one batch in memory, with sample weights, erasing, gradient norm and checks."""
    step = TrainingStep(
        copy.deepcopy(initial.network),
        config,
        input_mean=initial.input_mean,
        input_std=initial.input_std,
        device=torch.device(job.device),
    )
    set_learning_rate(step.optimizer, LEARNING_RATE)
    images, labels = make_tensors(job, initial.network.config.num_classes)
    if job.gpu:
        images = images.pin_memory()
    batch = TrainingBatch(tuple(map(str, range(job.batch_size))), images, labels, torch.ones(job.batch_size))
    score_tags = choose_tag_loss(config.loss, torch.ones(labels.shape[1]), epoch=0)
    return lambda: step.update(batch, score_tags, None)


def make_tensors(job: Benchmark, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random batch: uint8 images and boolean labels."""
    images = torch.randint(0, 255, (job.batch_size, 3, job.image_size, job.image_size), dtype=torch.uint8)
    return images, torch.rand(job.batch_size, num_classes) < 0.3


def time_steps(job: Benchmark, steps: Sequence[Callable[[], object]]) -> list[float]:
    """Images per second of several kinds of steps, which alternate so that other load affects all of them."""
    seconds = [0.0 for _ in steps]
    num_warm_up = max(2, round(WARM_UP_SHARE * job.num_plain_steps))
    for number in range(job.num_plain_steps):
        for index, take in enumerate(steps):
            _synchronize(job)
            started_s = time.monotonic()
            take()
            _synchronize(job)
            if number >= num_warm_up:
                seconds[index] += time.monotonic() - started_s
    return [job.batch_size * (job.num_plain_steps - num_warm_up) / one for one in seconds]


def _synchronize(job: Benchmark) -> None:
    if job.gpu:
        torch.cuda.synchronize()


def time_training(
    job: Benchmark, config: TrainConfig, vocabulary: Vocabulary, num_workers: int, watch: CpuWatch
) -> tuple[float, float]:
    """Images per second of training over the shards, and the share of time that it waits for images.

    `watch` counts CPU time after the warm-up.
    """
    with tempfile.TemporaryDirectory() as out:
        run = open_training(
            out_uri=out,
            config=config,
            vocabulary=vocabulary,
            train_shards=list_shards(job.shards),
            validation_shards=(),
        )
        connect("local", num_cpus=num_workers + max(os.cpu_count() or 1, DATA_SLOTS))
        initial = build_initial_model(config.model, vocabulary.classes, config.rng_seed)
        workers = WorkerConfig(
            num_workers=num_workers, log_steps=2, gpus_per_worker=float(job.gpu), compile=job.compile
        )

        def start_and_stop(event: Any) -> None:
            if isinstance(event, dict) and event["kind"] == "step":
                first = 2 * round(WARM_UP_SHARE * event["num_steps"] / 2)
                if event["step"] == max(2, first):
                    watch.start()
                elif event["step"] == event["num_steps"]:
                    watch.stop()

        fit(run, initial, survey_run(run), workers, start_and_stop)
        ray.shutdown()
        steps = [record for record in read_records(out) if record["kind"] == "step"]
    counted = steps[round(WARM_UP_SHARE * len(steps)) :]
    # Records have about the same number of images, so the mean is over seconds per image, not images per second.
    seconds = [1 / record["images_per_s"] for record in counted]
    waiting = sum(record["wait_share"] * s for record, s in zip(counted, seconds, strict=True)) / sum(seconds)
    return len(seconds) / sum(seconds), waiting


def main() -> None:
    """Print the comparison."""
    job = tyro.cli(Benchmark, description=__doc__)
    vocabulary = load_vocabulary(job.vocabulary)
    config = TrainConfig(
        model=ModelConfig(backbone=job.backbone, backbone_weights="none", image_size=job.image_size),
        augment=AugmentConfig(rand_augment="", color_jitter=0.0) if job.plain_augment else AugmentConfig(),
        optimizer=OptimizerConfig(epochs=1, warmup_epochs=0.0, batch_size=job.batch_size),
    )
    device = torch.cuda.get_device_name() if job.gpu else f"{os.cpu_count()} CPUs"
    print(f"{platform.machine()}, {device}, PyTorch {torch.__version__}, Ray {ray.__version__}")
    initial = build_initial_model(config.model, vocabulary.classes, config.rng_seed)
    peak = measure_peak() if job.gpu else None
    num_operations = count_operations(job, initial)
    print(f"operations per image, forward and backward: {num_operations / 1e9:.2f} billion")
    if peak:
        print(f"peak of the GPU: {peak / 1e12:.0f} trillion bf16 operations/s, by {PEAK_SIDE} x {PEAK_SIDE} products")

    def describe_share(speed: float) -> str:
        return f"  {speed * num_operations / peak:.1%} of the peak" if peak else ""

    makers = {
        "plain loop, tensors in memory": make_plain_step,
        "tagmask train step, tensors in memory": make_training_step,
    }
    speeds = time_steps(job, [make(job, config, initial) for make in makers.values()])
    plain = speeds[0]
    for name, speed in zip(makers, speeds, strict=True):
        print(f"{name:<38} {speed:>7.2f} images/s  ratio {speed / plain:.2f}{describe_share(speed)}", flush=True)
    cost_s = measure_data_cost(job, config, vocabulary)
    print(f"reading, decoding and augmenting: {1000 * cost_s:.1f} ms of one core per image", flush=True)
    if not job.gpu:
        ceiling = 1 / (1 + cost_s * plain / (os.cpu_count() or 1))
        print(
            f"{'plain loop, same cores decode':<38} {plain * ceiling:>7.2f} images/s  ratio {ceiling:.2f}  (computed)"
        )
    for num_workers in job.num_workers:
        watch = CpuWatch()
        speed, waiting = time_training(job, config, vocabulary, num_workers, watch)
        name = f"tagmask train, {num_workers} worker" + "s" * (num_workers > 1) + ", compiled" * job.compile
        share = describe_share(speed / num_workers)
        print(f"{name:<38} {speed:>7.2f} images/s  ratio {speed / plain:.2f}  waiting {waiting:.1%}{share}")
        total = max(watch.ticks.total(), 1)
        kinds = ", ".join(f"{kind} {ticks / total:.1%}" for kind, ticks in watch.ticks.most_common())
        print(f"    CPU time: {kinds}", flush=True)


if __name__ == "__main__":
    main()
