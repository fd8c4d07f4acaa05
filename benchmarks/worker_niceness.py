"""What do Ray's workers get of a machine on which other programs run, and who waits for whom?

    python -m benchmarks.worker_niceness [--niceness 15 0 15 0]

Each run is a local Ray of its own, with an actor for each core that labels images (ViT-Tiny with random weights, 196
patches) while the driver times small tasks: first alone, then beside a program for each core that only computes, at
nice 0. Two runs of one niceness show the noise.
"""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
import torch
import tyro
from ray._private.ray_constants import RAY_WORKER_NICENESS

from benchmarks.gpu_parts.labelling import make_labeler, make_photos
from jobs.cluster.connection import connect

TASK_PAUSE_S = 0.2
"""Between two small tasks."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compare the niceness of workers."""

    niceness: tuple[int, ...] = (15, 0, 15, 0)
    """Of the workers of each run."""
    alone_s: float = 15.0
    """Seconds of labelling without other programs."""
    beside_s: float = 30.0
    """Seconds of labelling beside them."""


class Figures(NamedTuple):
    """What a Ray does in some seconds."""

    images_per_s: float
    """Of all actors."""
    task_ms: float
    """Median time of a task that does nothing, until the driver has its result."""


@ray.remote(num_cpus=1)
class Labeler:
    """An actor that labels one image after the other."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._photos = make_photos(1)
        self._labeler = make_labeler(torch.device("cpu"), "ViT-Tiny", "balanced", 196, 1)
        self._labeler.label_chunk(self._photos)

    def label(self, seconds: float) -> float:
        """Label for some seconds; return images per second."""
        started_s, num_images = time.perf_counter(), 0
        while time.perf_counter() - started_s < seconds:
            self._labeler.label_chunk(self._photos)
            num_images += 1
        return num_images / (time.perf_counter() - started_s)


@ray.remote(num_cpus=1)
def do_nothing() -> None:
    """A task without work."""


def measure(actors: list[Any], seconds: float) -> Figures:
    """Label with all actors and time small tasks meanwhile."""
    running = [actor.label.remote(seconds) for actor in actors]
    ends_s, waited_s = time.perf_counter() + seconds - 1, []
    while time.perf_counter() < ends_s:
        started_s = time.perf_counter()
        ray.get(do_nothing.remote())
        waited_s.append(time.perf_counter() - started_s)
        time.sleep(TASK_PAUSE_S)
    return Figures(sum(ray.get(running)), 1e3 * statistics.median(waited_s))


def run(job: Benchmark, niceness: int) -> tuple[Figures, Figures]:
    """Measure workers of a niceness alone and beside other programs."""
    os.environ[RAY_WORKER_NICENESS] = str(niceness)
    num_cores = os.cpu_count() or 1
    connect("local", num_cpus=num_cores + 1)
    actors = [Labeler.remote() for _ in range(num_cores)]  # type: ignore[attr-defined]
    ray.get([actor.label.remote(1.0) for actor in actors])
    ray.get(do_nothing.remote())
    alone = measure(actors, job.alone_s)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_cores)]
    try:
        beside = measure(actors, job.beside_s)
    finally:
        for other in others:
            other.kill()
            other.wait()
        ray.shutdown()
    return alone, beside


def main() -> None:
    """Print a line for each run."""
    job = tyro.cli(Benchmark, description=__doc__)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, ray {ray.__version__}")
    for niceness in job.niceness:
        alone, beside = run(job, niceness)
        print(
            f"nice {niceness:2d}  alone {alone.images_per_s:6.2f} images/s, task {alone.task_ms:5.1f} ms   "
            f"beside {beside.images_per_s:6.2f} images/s, task {beside.task_ms:5.1f} ms",
            flush=True,
        )


if __name__ == "__main__":
    main()
