"""Does the driver's memory grow with the run? Labels many tiny shards and prints the memory of the driver.

    python -m benchmarks.many_shards --num-shards 100000

Every shard is a tar of one photo, so the time is the minimum cost of a shard: reading, a part, a manifest, and the
tasks of Ray for them. All tars are hard links to one file. With `--wave-tasks` below the default of 5,000, a short run
has several waves. The finished run is then planned again and verified.
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
from pipeline.audit.verify import FOOTERS, FULL, list_run, verify_run
from pipeline.bundles import load_bundle
from pipeline.driver.ledger import Progress
from pipeline.driver.ray_cluster import RayCluster
from pipeline.driver.waves import Hooks
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.run.config import LabelConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.run_file import Run, open_run
from pipeline.run.vocabulary import load_vocabulary

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Benchmark:
    """Label many tiny shards."""

    num_shards: int = 100_000
    """Shards of one photo each."""
    wave_tasks: int = 5_000
    """Read tasks per wave, of up to four shards each."""
    period_s: float = 30.0
    """Seconds between two printed lines."""


def get_memory_mib() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Meter:
    """Prints the progress of the run at intervals."""

    def __init__(self, period_s: float) -> None:
        """Start the clock."""
        self.period_s = period_s
        self.started_s = self.printed_s = time.monotonic()
        self.num_printed = 0

    def show(self, progress: Progress) -> None:
        """Print a line if the interval has passed."""
        now = time.monotonic()
        if now - self.printed_s < self.period_s:
            return
        speed = (progress.num_sealed - self.num_printed) / (now - self.printed_s)
        print(
            f"{now - self.started_s:>7.0f} s  {progress.num_sealed:>7} sealed  {speed:>6.1f} shards/s  "
            f"driver {get_memory_mib():>6.0f} MiB",
            flush=True,
        )
        self.printed_s, self.num_printed = now, progress.num_sealed


def open_benchmark_run(folder: Path) -> Run:
    """Open the run, or open it again as a further invocation does."""
    model = str(folder / "model")
    return open_run(
        out_uri=str(folder / "out"),
        model_uri=model,
        model_digest=load_bundle(model)[2],
        vocabulary=load_vocabulary(str(folder / "vocabulary.json")),
        config=LabelConfig(views=ViewConfig(num_patches=16)),
        shards=list_shards([str(folder / "in")]),
    )


def main() -> None:
    """Label the shards, plan them again and verify them."""
    job = tyro.cli(Benchmark, description=__doc__)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Ray {ray.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, Inputs(num_shards=1, num_images=1))
        (folder / "in").mkdir()
        for index in range(job.num_shards):
            (folder / "in" / f"{index:06d}.tar").hardlink_to(folder / "photos-00000.tar")
        os.environ["PYTHONPATH"] = str(ROOT)
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        run = open_benchmark_run(folder)
        print(f"planned: driver {get_memory_mib():.0f} MiB", flush=True)
        options = LabelOptions(gpus_per_actor=0.0, cpus_per_actor=0.5)
        summary = label_run(
            run, options, hooks=Hooks(on_progress=Meter(job.period_s).show), cluster=RayCluster(job.wave_tasks)
        )
        print(f"{summary.num_sealed} shards in {summary.elapsed_s:.0f} s, driver {get_memory_mib():.0f} MiB")
        started_s = time.monotonic()
        again = label_run(open_benchmark_run(folder), options, cluster=RayCluster(job.wave_tasks))
        print(f"the same again: {again.num_sealed} shards, {time.monotonic() - started_s:.1f} s, nothing to do")
        for name, depth in (("footers", FOOTERS), ("every row and key", FULL)):
            started_s = time.monotonic()
            verdict = verify_run(list_run(run.out_uri), depth)
            print(
                f"tagmask verify, {name}: {verdict.counts.num_read} rows, {len(verdict.failed_checks)} checks failed, "
                f"{time.monotonic() - started_s:.0f} s, driver {get_memory_mib():.0f} MiB",
                flush=True,
            )
        ray.shutdown()


if __name__ == "__main__":
    main()
