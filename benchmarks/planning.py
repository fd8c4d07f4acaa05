"""What do listing and planning many shards cost, in time and in memory of the driver?

    python -m benchmarks.planning --num-shards 100000

Three plans of a run over the same shards: nothing done, half of the shards sealed, and finished. Shards are empty files
in one local folder, because planning reads only their names, sizes and etags.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import tyro

from benchmarks.peak_memory import read_peak_bytes
from pipeline.commit.names import locate_manifest
from pipeline.commit.plan import plan_run
from pipeline.inputs.shards import list_shards
from pipeline.run.config import LabelConfig
from pipeline.run.records import InputShard
from pipeline.run.run_file import Run, open_run
from pipeline.run.vocabulary import Vocabulary

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Benchmark:
    """Plan a run over many shards."""

    num_shards: int = 100_000
    """Input shards."""


def measure(title: str, function: Callable[[], Outcome]) -> Outcome:
    """Run a function; print its seconds and the peak memory of the process so far."""
    started_s = time.perf_counter()
    outcome = function()
    seconds = time.perf_counter() - started_s
    peak_mib = read_peak_bytes() / 2**20
    print(f"{title:44s} {seconds:7.2f} s   peak {peak_mib:6.0f} MiB", flush=True)
    return outcome


def main() -> None:
    """Print the figures."""
    job = tyro.cli(Benchmark, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        inputs, out = Path(folder) / "in", Path(folder) / "out"
        inputs.mkdir()
        (out / "labels").mkdir(parents=True)
        for index in range(job.num_shards):
            (inputs / f"photos-{index:06d}.tar").touch()
        measure("before the first step", lambda: None)
        pattern = f"{inputs}/photos-{{000000..{job.num_shards - 1:06d}}}.tar"
        shards = measure(f"list {job.num_shards} shards by brace pattern", lambda: list_shards([pattern]))

        def start(shards: Sequence[InputShard] = shards, extend: bool = False) -> Run:
            return open_run(
                out_uri=str(out),
                model_uri="model",
                model_digest="0" * 64,
                vocabulary=Vocabulary(classes=("cat",)),
                config=LabelConfig(),
                shards=shards,
                extend=extend,
            )

        run = measure("open the run (write run.json)", start)
        measure("open the run again (compare run.json)", start)
        grown = [*shards, replace(shards[0], uri=f"{inputs}/new.tar", name="new")]
        measure("extend the run by a shard", lambda: start(grown, extend=True))
        measure("open the extended run again", lambda: start(grown))
        measure("plan, nothing done", lambda: plan_run(run))
        for shard in shards[::2]:
            Path(locate_manifest(str(out), shard.name)).touch()
        plan = measure("plan, half of the shards sealed", lambda: plan_run(run))
        assert len(plan.work) == job.num_shards // 2
        for shard in shards[1::2]:
            Path(locate_manifest(str(out), shard.name)).touch()
        plan = measure("plan, finished", lambda: plan_run(run))
        assert not plan.work


if __name__ == "__main__":
    main()
