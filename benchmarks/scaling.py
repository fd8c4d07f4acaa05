"""Does labelling keep up with more workers? Images per second with 1, 2, 4, 8 and 16 workers that mostly sleep.

    python -m benchmarks.scaling

Decoding sleeps, so that cores are not the limit and the figures show how Ray Data feeds workers. Each number of workers
labels as many shards into an empty output. The speed counts between the first and the last quarter of the images, when
all workers are busy. Efficiency is the speed divided by that of one worker times the number of workers.
"""

import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import ray
import tyro

from benchmarks.chaos import Benchmark as Inputs
from benchmarks.chaos import make_inputs
from pipeline.bundles import load_bundle
from pipeline.driver.ledger import Progress
from pipeline.driver.waves import Hooks
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.run.config import InputConfig, LabelConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.run_file import Run, open_run
from pipeline.run.vocabulary import load_vocabulary

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Benchmark:
    """Measure how labelling scales with workers that sleep."""

    num_workers: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of workers."""
    chunks_per_worker: int = 16
    """Chunks per worker."""
    chunk_samples: int = 10
    """Images per chunk."""
    image_s: float = 1.0
    """Seconds of sleep per decoded image."""


def open_benchmark_run(folder: Path, out: Path, num_shards: int, job: Benchmark) -> Run:
    """Open a run over the first shards."""
    model = str(folder / "model")
    return open_run(
        out_uri=str(out),
        model_uri=model,
        model_digest=load_bundle(model)[2],
        vocabulary=load_vocabulary(str(folder / "vocabulary.json")),
        config=LabelConfig(inputs=InputConfig(max_chunk_samples=job.chunk_samples), views=ViewConfig(num_patches=16)),
        shards=list_shards([f"{folder}/photos-*.tar"])[:num_shards],
    )


def measure_speed(run: Run, num_workers: int, job: Benchmark) -> float:
    """Label a run; return images per second while all workers are busy."""
    seen: list[tuple[float, int]] = []

    def note(progress: Progress) -> None:
        if not seen or seen[-1][1] != progress.counts.num_read:
            seen.append((time.monotonic(), progress.counts.num_read))

    options = LabelOptions(gpus_per_actor=0.0, cpus_per_actor=0.5, num_actors=num_workers)
    label_run(run, options, hooks=Hooks(on_progress=note))
    total = num_workers * job.chunks_per_worker * job.chunk_samples
    # Workers start and end one after the other: the first and the last quarter do not count.
    busy = [(moment, number) for moment, number in seen if total / 4 <= number <= total * 3 / 4]
    return (busy[-1][1] - busy[0][1]) / (busy[-1][0] - busy[0][0])


def main() -> None:
    """Measure each number of workers."""
    job = tyro.cli(Benchmark, description=__doc__)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Ray {ray.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        most = max(job.num_workers)
        make_inputs(
            folder,
            Inputs(
                num_shards=most,
                num_images=job.chunks_per_worker * job.chunk_samples,
                chunk_samples=job.chunk_samples,
                image_s=job.image_s,
            ),
        )
        os.environ["PYTHONPATH"] = f"{folder / 'slow'}{os.pathsep}{ROOT}"
        ray.init(address="local", num_cpus=most + 4, include_dashboard=False, log_to_driver=False)
        first = 0.0
        print("workers  images/s  efficiency")
        for number in job.num_workers:
            run = open_benchmark_run(folder, folder / f"out-{number}", number, job)
            speed = measure_speed(run, number, job)
            first = first or speed / number
            print(f"{number:>7}  {speed:>8.2f}  {speed / number / first:>9.0%}", flush=True)
        ray.shutdown()


if __name__ == "__main__":
    main()
