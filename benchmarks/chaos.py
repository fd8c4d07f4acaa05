"""Kill parts of a labelling cluster at random, again and again: is every row there once, and how much was done twice?

    python -m benchmarks.chaos --num-schedules 200

Each schedule labels the same small shards with `python -m jobs.label` on a real Ray cluster of a head and two
nodes on this machine, each with a simulated GPU. At random times something dies by SIGKILL: a labelling worker,
a node with all its workers (another one joins), the driver, or all of them. Whenever the driver is gone the same
command is run again, until it says that all is published. Then the manifests must be those of a run that nothing
disturbed, byte for byte, and `jobs.verify` must agree. What was labelled more than once is counted in the
workers' logs; it may not exceed what was in flight when something died.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from ray.cluster_utils import Cluster

from jobs import verify
from models.bundle import ModelBundle
from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.bundles import save_bundle

ROOT = Path(__file__).parents[1]
MARK = "TAGMASK_CHAOS"
"""Environment variable of every process that a schedule starts: only these may be killed."""
NUM_NODES = 2
CALLS_PER_ACTOR = 2
"""Chunks that an actor labels at the same time (`RayEngine`)."""
WAITING_PER_ACTOR = 4
"""Labelled chunks an actor's node may hold until their commit task has run."""

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
    """Kill parts of a labelling cluster at random."""

    num_schedules: int = 200
    """Random schedules of kills."""
    first_seed: int = 0
    """Seed of the first schedule; the others count on from it."""
    num_shards: int = 6
    """Shards to label in each schedule."""
    num_images: int = 40
    """Images a shard."""
    chunk_samples: int = 5
    """Images a chunk."""
    image_s: float = 0.1
    """Seconds that decoding an image is made to take, so that there is something to interrupt."""
    mean_wait_s: float = 12.0
    """Mean time between two kills."""
    max_kills: int = 6
    """Kills in a schedule; after these it may finish."""
    limit_s: float = 600.0
    """A schedule that takes longer has failed."""

    @property
    def num_chunks(self) -> int:
        """Chunks in all shards."""
        return self.num_shards * -(-self.num_images // self.chunk_samples)


@dataclass
class Outcome:
    """What a schedule did."""

    kills: Counter[str] = field(default_factory=Counter)
    num_labelled: int = 0
    """Chunks that workers finished labelling, counting repetitions."""
    num_invocations: int = 0
    elapsed_s: float = 0.0
    error: str = ""


def make_inputs(folder: Path, job: Benchmark) -> None:
    """Write shards, a vocabulary, a small model, and a decoder that takes its time."""
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


class Playground:
    """A cluster, a driver, and the means to kill them."""

    def __init__(self, inputs: Path, out: Path, job: Benchmark) -> None:
        """Nothing is started yet."""
        self._inputs = inputs
        self._out = out
        self._job = job
        self._sessions = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))
        (self._sessions / "ray").mkdir()
        self._mark = uuid.uuid4().hex
        self._cluster: Any = None
        self._driver: subprocess.Popen[str] | None = None
        self.log = (self._sessions / "driver.log").open("w+")
        self.outcome = Outcome()

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """Let what is started now inherit the mark, the slow decoder and folders of its own."""
        changes = {
            MARK: self._mark,
            "PYTHONPATH": f"{self._inputs / 'slow'}{os.pathsep}{ROOT}",
            "RAY_TMPDIR": str(self._sessions),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
        }
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def start_cluster(self) -> None:
        """Start a head and the nodes with GPUs."""
        with self.environment():
            head = {"num_cpus": 2, "include_dashboard": False, "temp_dir": str(self._sessions / "ray")}
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
            for _ in range(NUM_NODES):
                self.add_node()

    def add_node(self) -> None:
        """Let a node join."""
        with self.environment():
            self._cluster.add_node(wait=False, num_cpus=2, num_gpus=1)

    def start_driver(self) -> None:
        """Run the one command."""
        arguments = [
            *(sys.executable, "-m", "jobs.label", "--shards", f"{self._inputs}/photos-*.tar"),
            *("--vocabulary", f"{self._inputs}/vocabulary.json", "--model", f"{self._inputs}/model"),
            *("--out", str(self._out), "--device", "cpu", "--num-actors", str(NUM_NODES)),
            *("--inputs.max-chunk-samples", str(self._job.chunk_samples), "--views.num-patches", "16"),
            *("--address", self._cluster.address, "--cpus-per-actor", "0.5"),
        ]
        with self.environment():
            self._driver = subprocess.Popen(arguments, cwd=ROOT, stdout=self.log, stderr=self.log, text=True)
        self.outcome.num_invocations += 1

    @property
    def exit_code(self) -> int | None:
        """Exit code of the driver; None while it runs."""
        assert self._driver is not None
        return self._driver.poll()

    def kill_worker(self) -> bool:
        """Kill a process that labels; False when there is none."""
        workers = self._find_workers()
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(workers), signal.SIGKILL)
        return bool(workers)

    def kill_node(self) -> bool:
        """Kill a node with all its workers, and let another one join."""
        nodes = list(self._cluster.worker_nodes)
        if not nodes:
            return False
        self._cluster.remove_node(random.choice(nodes), allow_graceful=False)
        self.add_node()
        return True

    def kill_driver(self) -> bool:
        """Kill the driver."""
        assert self._driver is not None
        self._driver.kill()
        self._driver.wait()
        return True

    def kill_everything(self) -> bool:
        """Kill the driver and all nodes, the head too, and start another cluster."""
        self.kill_driver()
        self.stop_cluster()
        self.start_cluster()
        return True

    def stop_cluster(self) -> None:
        """Kill all nodes; what their workers have labelled is counted."""
        if self._cluster is not None:
            for node in [*self._cluster.worker_nodes, self._cluster.head_node]:
                self._cluster.remove_node(node, allow_graceful=False)
            self._cluster = None
        for pid in self._find_marked():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.outcome.num_labelled += self._count_labelled()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._driver is not None:
            self._driver.kill()
            self._driver.wait()
        self.stop_cluster()
        self.log.close()
        shutil.rmtree(self._sessions, ignore_errors=True)

    def _find_marked(self) -> list[int]:
        """List the processes that this schedule has started, and their children, by the mark in their environment."""
        mark = f"{MARK}={self._mark}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def _find_workers(self) -> list[int]:
        found = []
        for pid in self._find_marked():
            with contextlib.suppress(OSError):
                if b"LabelChunks" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def _count_labelled(self) -> int:
        """Count what the workers' logs say they have labelled, and remove the logs."""
        number = 0
        for path in self._sessions.glob("ray/session_2*/logs/worker-*.err"):
            number += len(re.findall(r": labelled \d+ images in", path.read_text(errors="replace")))
            path.unlink()
        return number


def run_schedule(job: Benchmark, inputs: Path, out: Path, rng_seed: int, victims: Sequence[str] = ()) -> Outcome:
    """Label while things die, until all is published.

    Args:
        job: How much and how often.
        inputs: What `make_inputs` wrote.
        out: Output folder of the run.
        rng_seed: Decides what dies when.
        victims: What dies, one after the other; empty: by chance.
    """
    random.seed(rng_seed)
    remaining = list(victims)
    ground = Playground(inputs, out, job)
    started_s = time.monotonic()
    kinds = {
        "worker": ground.kill_worker,
        "node": ground.kill_node,
        "driver": ground.kill_driver,
        "everything": ground.kill_everything,
    }
    try:
        ground.start_cluster()
        ground.start_driver()
        while ground.exit_code != 0:
            if time.monotonic() - started_s > job.limit_s:
                ground.log.seek(0)
                ground.outcome.error = f"not finished after {job.limit_s:g} s: {ground.log.read()[-2000:]}"
                break
            if ground.exit_code is not None:
                ground.start_driver()
            wait_s = random.expovariate(1 / job.mean_wait_s)
            if sum(ground.outcome.kills.values()) >= job.max_kills:
                time.sleep(0.5)
                continue
            if not _is_finished_within(ground, wait_s):
                kind = remaining.pop(0) if remaining else random.choices([*kinds], weights=[4, 3, 2, 1])[0]
                ground.outcome.kills[kind] += kinds[kind]()
    finally:
        ground.close()
    ground.outcome.elapsed_s = time.monotonic() - started_s
    return ground.outcome


def _is_finished_within(ground: Playground, wait_s: float) -> bool:
    end_s = time.monotonic() + wait_s
    while time.monotonic() < end_s:
        if ground.exit_code is not None:
            return True
        time.sleep(0.1)
    return False


def count_in_flight(outcome: Outcome) -> int:
    """Give how many chunks may have been lost in flight, at most, by what was killed."""
    per_actor = CALLS_PER_ACTOR + WAITING_PER_ACTOR
    kills = outcome.kills
    return per_actor * (kills["worker"] + kills["node"] + NUM_NODES * (kills["driver"] + kills["everything"]))


def read_manifests(out: Path) -> dict[str, bytes]:
    """Read what a run published, by name."""
    return {path.name: path.read_bytes() for path in (out / "labels").iterdir()}


def main() -> int:
    """Run the schedules, print each, and give an exit code."""
    job = tyro.cli(Benchmark, description=__doc__)
    num_failed = 0
    totals = Outcome()
    num_redone = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, job)
        calm = run_schedule(_without_kills(job), folder, folder / "calm", 0)
        expected = read_manifests(folder / "calm")
        print(f"undisturbed: {calm.num_labelled} of {job.num_chunks} chunks labelled in {calm.elapsed_s:.0f} s")
        for seed in range(job.first_seed, job.first_seed + job.num_schedules):
            out = folder / f"out-{seed}"
            outcome = run_schedule(job, folder, out, seed)
            same = not outcome.error and read_manifests(out) == expected
            balanced = not outcome.error and verify.main(["--out", str(out)]) == 0
            redone = outcome.num_labelled - job.num_chunks
            passed = same and balanced and redone <= count_in_flight(outcome)
            num_failed += not passed
            num_redone += redone
            totals.kills += outcome.kills
            totals.num_invocations += outcome.num_invocations
            print(
                f"schedule {seed}: {'ok' if passed else 'FAILED'}, kills {json.dumps(dict(outcome.kills))}, "
                f"{outcome.num_invocations} invocations, {redone} chunks labelled again "
                f"(at most {count_in_flight(outcome)} in flight), {outcome.elapsed_s:.0f} s {outcome.error}",
                flush=True,
            )
            shutil.rmtree(out, ignore_errors=True)
    print(
        f"{job.num_schedules} schedules, {num_failed} failed; kills {json.dumps(dict(totals.kills))}, "
        f"{totals.num_invocations} invocations, {num_redone} chunks labelled again of {job.num_chunks} in each"
    )
    return 1 if num_failed else 0


def _without_kills(job: Benchmark) -> Benchmark:
    return Benchmark(**{**vars(job), "max_kills": 0})


if __name__ == "__main__":
    sys.exit(main())
