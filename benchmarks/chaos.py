"""What do random kills cost a labelling run? Are all rows there once, and how much work is done twice?

    python -m benchmarks.chaos --num-schedules 200

Each schedule runs `tagmask label` over the same small shards, on a real Ray cluster of a head and two nodes on this
machine, each node with a simulated GPU. It sends SIGKILL to a labelling worker, to a node with all its workers (another
node joins), to the driver, or to all of them. Two kills of three wait for a committed chunk. The others come at any
time, so that starting processes are killed too. When the driver is gone, the same command runs again, until it exits
with 0. Then the manifests must equal those of an undisturbed run byte for byte, and `tagmask verify` must pass.
The logs of the workers show the chunks that were labelled more than once. There may be no more of them than were in
flight at the kills.

The cluster stays from schedule to schedule, unless everything is killed. A driver is a process forked from one that has
imported PyTorch, because importing takes longer than labelling. With `--report FILE` each schedule is also a line of
that file, and schedules that passed in it are not repeated.
"""

import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import tyro
from PIL import Image

from benchmarks.cluster_host import ClusterHost
from jobs import label
from models.bundle import ModelBundle
from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.bundles import save_bundle
from pipeline.label import CALLS_PER_ACTOR

ROOT = Path(__file__).parents[1]
MARK = "TAGMASK_CHAOS"
"""Environment variable of every process of a cluster; no other process is killed."""
NUM_NODES = 2
PROCESSES = multiprocessing.get_context("forkserver")
POLL_S = 0.1

SLOW_DECODER = """
import time
import PIL.Image

open_image = PIL.Image.open

def open_slowly(*arguments, **options):
    time.sleep({seconds})
    return open_image(*arguments, **options)

PIL.Image.open = open_slowly
"""


@dataclass(frozen=True)
class Benchmark:
    """Kill processes of a labelling cluster at random."""

    num_schedules: int = 200
    """Number of random schedules of kills."""
    first_rng_seed: int = 0
    """Random seed of the first schedule; each further schedule adds one."""
    num_shards: int = 6
    """Shards per schedule."""
    num_images: int = 40
    """Images per shard."""
    chunk_samples: int = 5
    """Images per chunk."""
    image_s: float = 0.2
    """Seconds added to the decoding of an image, so that kills hit a running chunk."""
    mean_wait_s: float = 2.0
    """Mean seconds to the next kill, from the next committed chunk or from the last kill."""
    max_kills: int = 6
    """Kills per schedule; after these the run can finish."""
    limit_s: float = 600.0
    """Seconds for a schedule; a longer one has failed."""
    report: Path | None = None
    """File with a line of JSON per schedule; schedules that passed in it are not repeated."""

    @property
    def num_chunks(self) -> int:
        """Chunks in all shards."""
        return self.num_shards * -(-self.num_images // self.chunk_samples)


@dataclass
class Outcome:
    """Outcome of a schedule."""

    kills: Counter[str] = field(default_factory=Counter)
    num_labelled: int = 0
    """Chunks labelled by workers, repetitions included."""
    num_invocations: int = 0
    """Invocations of the command."""
    elapsed_s: float = 0.0
    error: str = ""
    """Why the schedule failed; empty if it passed."""


def make_inputs(folder: Path, job: Benchmark) -> None:
    """Write shards, a vocabulary, a small model, and a `sitecustomize` that slows decoding."""
    rng = np.random.default_rng(0)
    for shard in range(job.num_shards):
        with tarfile.open(folder / f"photos-{shard:05d}.tar", "w") as archive:
            for place in range(job.num_images):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)).save(buffer, "PNG")
                for suffix, payload in (("png", buffer.getvalue()), ("json", b'{"tags": ["cat"]}')):
                    header = tarfile.TarInfo(f"{shard:05d}-{place:05d}.{suffix}")
                    header.size = len(payload)
                    archive.addfile(header, io.BytesIO(payload))
    (folder / "vocabulary.json").write_text('{"classes": ["cat", "dog"]}')
    torch.manual_seed(0)
    config = MCTformerConfig(
        variant=Variant.V2, num_classes=2, image_size=32, patch_size=16, width=48, depth=2, num_heads=3
    )
    bundle = ModelBundle(config=config, class_names=("cat", "dog"), input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
    save_bundle(str(folder / "model"), MCTformer(config), bundle)
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(SLOW_DECODER.format(seconds=job.image_s))


def drive(arguments: Sequence[str], variables: dict[str, str], log_path: Path) -> None:
    """Run `tagmask label` in this process."""
    os.environ.update(variables)
    os.chdir(ROOT)
    with log_path.open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    code = label.main(arguments)
    # A forked process does not run the exit handlers of `ray.init`.
    ray.shutdown()
    sys.exit(code)


class Playground:
    """A cluster, its drivers, and ways to kill them."""

    def __init__(self, inputs: Path, job: Benchmark) -> None:
        """Prepare the environment; nothing is started."""
        self._inputs = inputs
        self._job = job
        self._sessions = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))
        self._variables = {
            MARK: uuid.uuid4().hex,
            "PYTHONPATH": f"{inputs / 'slow'}{os.pathsep}{ROOT}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }
        self._cluster: ClusterHost | None = None
        PROCESSES.set_forkserver_preload(["jobs.execution.label"])

    def __enter__(self) -> "Playground":
        """Start the cluster."""
        self.start_cluster()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the cluster and remove its files."""
        self.stop_cluster()
        shutil.rmtree(self._sessions, ignore_errors=True)

    def start_cluster(self) -> None:
        """Start a head and the nodes with simulated GPUs."""
        self._cluster = ClusterHost(str(self._sessions), self._variables, num_cpus=2)
        for _ in range(NUM_NODES):
            self.add_node()

    def add_node(self) -> None:
        """Start a node that joins the cluster."""
        self._require_cluster().add_node(num_cpus=2, num_gpus=1)

    def stop_cluster(self) -> None:
        """Kill all nodes and all processes that they started."""
        if self._cluster is not None:
            self._cluster.stop()
            self._cluster = None
        for pid in self._find_marked():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_driver(self, out: Path, log_path: Path, num_actors: int = NUM_NODES) -> Any:
        """Start the command in a separate process; append its output to the log."""
        arguments = [
            *("--shards", f"{self._inputs}/photos-*.tar", "--vocabulary", f"{self._inputs}/vocabulary.json"),
            *("--model", f"{self._inputs}/model", "--out", str(out), "--device", "cpu"),
            *("--workers", str(num_actors), "--cpus-per-worker", "0.5", "--views.num-patches", "16"),
            *("--inputs.max-chunk-samples", str(self._job.chunk_samples), "--address", self._require_cluster().address),
        ]
        driver = PROCESSES.Process(target=drive, args=(arguments, self._variables, log_path))
        driver.start()
        return driver

    def kill_worker(self) -> bool:
        """Kill a random labelling worker; False if there is none."""
        workers = self._find_workers()
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(workers), signal.SIGKILL)
        return bool(workers)

    def kill_node(self) -> None:
        """Kill a node with all its workers, and start another one."""
        self._require_cluster().kill_node()
        self.add_node()

    def kill_everything(self) -> None:
        """Kill all nodes, the head included, and start another cluster."""
        self.stop_cluster()
        self.start_cluster()

    def take_num_labelled(self) -> int:
        """Number of chunks labelled since the last call, from the workers' logs; no driver may be running."""
        end_s = time.monotonic() + 30
        while self._find_workers() and time.monotonic() < end_s:
            time.sleep(POLL_S)
        number = 0
        for path in self._sessions.glob("ray/session_2*/logs/worker-*.err"):
            number += len(re.findall(r": labelled \d+ images in", path.read_text(errors="replace")))
            path.unlink()
        return number

    def _require_cluster(self) -> ClusterHost:
        assert self._cluster is not None, "the cluster is started on entry"
        return self._cluster

    def _find_marked(self) -> list[int]:
        """Process ids of the cluster and their children, by the mark in their environment."""
        mark = f"{MARK}={self._variables[MARK]}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def _find_workers(self) -> list[int]:
        """Process ids of the labelling workers."""
        found = []
        for pid in self._find_marked():
            with contextlib.suppress(OSError):
                if b"LabelChunks" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found


class Schedule:
    """One labelling run, resumed after each kill of its driver."""

    def __init__(self, ground: Playground, out: Path, limit_s: float) -> None:
        """Prepare the schedule; nothing is started."""
        self._ground = ground
        self._out = out
        self._end_s = time.monotonic() + limit_s
        self._log_path = out.with_suffix(".log")
        self._driver: Any = None
        self.outcome = Outcome()

    def start_driver(self) -> None:
        """Start the command."""
        self._driver = self._ground.start_driver(self._out, self._log_path)
        self.outcome.num_invocations += 1

    @property
    def exit_code(self) -> int | None:
        """Exit code of the driver; None while it runs."""
        return self._driver.exitcode

    @property
    def is_late(self) -> bool:
        """Whether the schedule has exceeded its time limit."""
        return time.monotonic() > self._end_s

    def kill(self, kind: str) -> bool:
        """Kill a victim of a kind and count it; False if there is none."""
        if kind == "worker" and not self._ground.kill_worker():
            return False
        if kind in ("driver", "everything"):
            self.kill_driver()
        if kind == "node":
            self._ground.kill_node()
        if kind == "everything":
            self._ground.kill_everything()
        self.outcome.kills[kind] += 1
        return True

    def kill_driver(self) -> None:
        """Kill the driver if it runs."""
        if self._driver is not None:
            self._driver.kill()
            self._driver.join()

    def wait(self, mean_s: float, *, for_chunk: bool) -> None:
        """Wait a random time or until the driver ends; with `for_chunk` the time starts at the next committed chunk."""
        wait_s = random.expovariate(1 / mean_s)
        before = self._list_parts()
        started_s = None if for_chunk else time.monotonic()
        while self.exit_code is None and not self.is_late:
            if started_s is None and self._list_parts() - before:
                started_s = time.monotonic()
            if started_s is not None and time.monotonic() >= started_s + wait_s:
                return
            time.sleep(POLL_S)

    def read_log(self) -> str:
        """End of the drivers' output."""
        return self._log_path.read_text(errors="replace")[-2000:] if self._log_path.exists() else ""

    def _list_parts(self) -> set[str]:
        return {str(path) for path in (self._out / "parts").glob("*/[!.]*")}


def run_schedule(
    job: Benchmark, ground: Playground, out: Path, rng_seed: int, victims: Sequence[str] | None = None
) -> Outcome:
    """Label under kills, until all shards are published.

    Args:
        job: Sizes and frequencies.
        ground: The cluster.
        out: Output folder of the run.
        rng_seed: Random seed of victims and times.
        victims: Kinds of victims, in order; None: chosen at random.
    """
    random.seed(rng_seed)
    if victims is None:
        victims = random.choices(["worker", "node", "driver", "everything"], weights=[4, 3, 2, 1], k=job.max_kills)
    remaining = list(victims)
    schedule = Schedule(ground, out, job.limit_s)
    outcome = schedule.outcome
    started_s = time.monotonic()
    try:
        schedule.start_driver()
        while schedule.exit_code != 0:
            if schedule.is_late:
                outcome.error = f"not finished after {job.limit_s:g} s: {schedule.read_log()}"
                break
            if schedule.exit_code is not None:
                schedule.start_driver()
            if not remaining:
                time.sleep(POLL_S)
                continue
            schedule.wait(job.mean_wait_s, for_chunk=random.random() < 2 / 3)
            if schedule.exit_code is None and schedule.kill(remaining[0]):
                del remaining[0]
    finally:
        schedule.kill_driver()
    outcome.elapsed_s = time.monotonic() - started_s
    outcome.num_labelled = ground.take_num_labelled()
    return outcome


def count_in_flight(outcome: Outcome) -> int:
    """Largest number of chunks that were in flight at the kills."""
    kills = outcome.kills
    return CALLS_PER_ACTOR * (kills["worker"] + kills["node"] + NUM_NODES * (kills["driver"] + kills["everything"]))


def read_manifests(out: Path) -> dict[str, bytes]:
    """Published manifests of a run, by name."""
    return {path.name: path.read_bytes() for path in (out / "labels").iterdir()}


def judge(job: Benchmark, outcome: Outcome, out: Path, expected: dict[str, bytes]) -> str:
    """Why a schedule failed; empty if it passed."""
    if outcome.error:
        return outcome.error
    if read_manifests(out) != expected:
        return "its manifests differ from those of the undisturbed run"
    if checks := verify_run(list_run(str(out)), FULL).failed_checks:
        return f"tagmask verify fails: {', '.join(checks)}"
    redone = outcome.num_labelled - job.num_chunks
    if not 0 <= redone <= count_in_flight(outcome):
        return f"{redone} chunks were labelled again, at most {count_in_flight(outcome)} were in flight"
    return ""


def describe(job: Benchmark, outcomes: Sequence[Outcome]) -> str:
    """Totals of some schedules, in one line."""
    kills = sum((outcome.kills for outcome in outcomes), Counter())
    redone = sum(outcome.num_labelled - job.num_chunks for outcome in outcomes)
    return (
        f"kills {json.dumps(dict(sorted(kills.items())))}, {sum(o.num_invocations for o in outcomes)} invocations, "
        f"{redone} chunks labelled again (at most {sum(map(count_in_flight, outcomes))} in flight), "
        f"{sum(o.elapsed_s for o in outcomes):.0f} s"
    )


class Report:
    """A file with a line per schedule, from which an interrupted series resumes."""

    def __init__(self, path: Path | None, job: Benchmark) -> None:
        """Use a file, or none; lines with other settings are ignored."""
        self._path = path
        self._settings = {
            name: value
            for name, value in asdict(job).items()
            if name not in ("num_schedules", "first_rng_seed", "report", "limit_s")
        }

    def read_passed(self) -> dict[int, Outcome]:
        """Outcomes that passed before, by random seed."""
        if self._path is None or not self._path.exists():
            return {}
        records = [json.loads(line) for line in self._path.read_text().splitlines()]
        return {
            record["seed"]: Outcome(**record["outcome"] | {"kills": Counter(record["outcome"]["kills"])})
            for record in records
            if record["settings"] == self._settings and not record["outcome"]["error"]
        }

    def append(self, rng_seed: int, outcome: Outcome) -> None:
        """Append the outcome of a schedule."""
        if self._path is not None:
            with self._path.open("a") as file:
                print(json.dumps({"seed": rng_seed, "outcome": vars(outcome), "settings": self._settings}), file=file)


def main() -> int:
    """Run the schedules, print each, and return an exit code."""
    job = tyro.cli(Benchmark, description=__doc__)
    report = Report(job.report, job)
    rng_seeds = range(job.first_rng_seed, job.first_rng_seed + job.num_schedules)
    outcomes = {rng_seed: outcome for rng_seed, outcome in report.read_passed().items() if rng_seed in rng_seeds}
    print(f"{job.num_schedules} schedules of {job.num_chunks} chunks, {len(outcomes)} of them passed before")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, job)
        with Playground(folder, job) as ground:
            calm = run_schedule(job, ground, folder / "calm", 0, ())
            print(
                f"undisturbed: {calm.num_labelled} chunks labelled in {calm.elapsed_s:.0f} s {calm.error}", flush=True
            )
            expected = read_manifests(folder / "calm")
            for rng_seed in sorted(set(rng_seeds) - outcomes.keys()):
                out = folder / f"out-{rng_seed}"
                outcome = run_schedule(job, ground, out, rng_seed)
                outcome.error = judge(job, outcome, out, expected)
                outcomes[rng_seed] = outcome
                report.append(rng_seed, outcome)
                verdict = f"FAILED: {outcome.error}" if outcome.error else "ok"
                print(f"schedule {rng_seed}: {describe(job, [outcome])}: {verdict}", flush=True)
                shutil.rmtree(out, ignore_errors=True)
    failed = [rng_seed for rng_seed, outcome in sorted(outcomes.items()) if outcome.error]
    print(f"{len(outcomes)} schedules: {describe(job, list(outcomes.values()))}")
    print(f"{len(failed)} failed{': ' if failed else ''}{', '.join(map(str, failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
