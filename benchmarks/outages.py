"""What do faults of machines cost a labelling run? One fault at a time: are all rows there once, what is done twice?

    sudo python -m benchmarks.outages --scenarios calm partition store-outage head-killed frozen-host full-disk
    sudo python -m benchmarks.outages --store rgw --json outages.json

Four hosts run as network namespaces of this machine: a head, two workers, and a store. The store is moto's S3 server,
or with `--store rgw` Ceph RGW (Debian packages ceph-mon, ceph-osd, ceph-common and radosgw). Each scenario starts a Ray
cluster and `tagmask label` on the same generated photos, waits until some chunks are committed, and injects a fault:

    calm           no fault; always the first, because the manifests of the others are compared with its manifests
    partition      the link of a worker is down for `--fault-s`
    store-outage   the store is unreachable for `--fault-s`: moto's link is down, RGW's gateway is killed and restarted
    head-killed    all processes of the head are killed; then the same command runs on a fresh cluster
    frozen-host    all processes of a worker are stopped for `--fault-s`
    full-disk      --out is on a small disk, which is enlarged `--fault-s` after it is full

If the command fails, it runs once more on a fresh cluster. An invocation longer than `--limit-s` counts as hung and is
killed. Needs root and iproute2. All addresses are in one private subnet of this machine, and everything is removed at
the end. With `--keep` the logs are copied to a folder.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import ray
import tyro

from benchmarks.host_stores import HOST, CephRgw, Disk, Moto, Store
from benchmarks.labelling_cluster import LabellingCluster, Photos
from benchmarks.network_hosts import Network, find_obstacle
from benchmarks.outage_table import Outcome, is_good, print_outcomes
from pipeline.storage.uris import join_uri

VICTIM = "w1"
NUM_LAST_LINES = 3
FULL_BYTES = 8192
"""A disk with fewer free bytes is full."""
DISK_FRACTION = 0.4
"""Size of the small disk, as a fraction of the manifests of the calm run."""
ENLARGED = "size=256m"

Name = Literal["calm", "partition", "store-outage", "head-killed", "frozen-host", "full-disk"]


@dataclass(frozen=True)
class Benchmark:
    """Inject faults of machines into a labelling run."""

    scenarios: tuple[Name, ...] = ("calm", "partition", "store-outage", "head-killed", "frozen-host", "full-disk")
    """Faults to inject, one scenario each."""
    store: Literal["moto", "rgw", "disk"] = "moto"
    """Store of inputs and outputs."""
    fault_s: float = 60.0
    """Seconds that a fault lasts."""
    begin_chunks: int = 4
    """Committed chunks after which the fault begins."""
    limit_s: float = 600.0
    """Seconds for an invocation; a longer one counts as hung."""
    num_shards: int = 12
    """Shards to label."""
    samples_per_shard: int = 32
    """Photos in a shard."""
    chunk_samples: int = 4
    """Photos in a chunk."""
    num_patches: int = 1600
    """Patches of a view; more patches make chunks slower."""
    subnet: str = "10.77.0"
    """First three numbers of the hosts' addresses."""
    json: Path | None = None
    """JSON file for the outcomes."""
    keep: Path | None = None
    """Folder for the logs; None: they are removed."""


@dataclass(kw_only=True)
class Scenario:
    """A scenario while it runs."""

    job: Benchmark
    cluster: LabellingCluster
    outcome: Outcome
    out_uri: str
    started_s: float = field(default_factory=time.monotonic)

    def say(self, what: str) -> None:
        """Print an event and its time."""
        print(f"  [{time.monotonic() - self.started_s:5.0f} s] {what}", flush=True)

    def start(self, host: str = "head") -> "subprocess.Popen[bytes]":
        """Start the command on a host."""
        return self.cluster.start_job(self.out_uri, host=host, log=self._log)

    @property
    def _log(self) -> str:
        return f"{self.outcome.scenario}-{len(self.outcome.exit_codes) + 1}"

    def wait_for_chunks(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait until enough chunks are committed.

        Raises:
            RuntimeError: The command ended before that, or it took too long.
        """
        deadline_s = time.monotonic() + self.job.limit_s
        while (number := self.cluster.count_committed(self.out_uri)) < self.job.begin_chunks:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the run did not commit {self.job.begin_chunks} chunks; see its log '{self._log}'")
            time.sleep(0.5)
        self.say(f"{number} chunks are committed")

    def finish(self, process: "subprocess.Popen[bytes]", host: str = "head") -> int | None:
        """Wait for the end of an invocation; kill it if it hangs."""
        try:
            code: int | None = process.wait(self.job.limit_s)
        except subprocess.TimeoutExpired:
            code = None
            self.cluster.network.end(host, "jobs.label")
        words = self.cluster.network.read_log(self._log).strip().splitlines()[-NUM_LAST_LINES:]
        self.outcome.exit_codes.append(code)
        self.outcome.last_words += words
        self.say(f"the command {'hangs' if code is None else f'ends with {code}'}: {words[-1] if words else ''}")
        return code

    def wait_out(self) -> None:
        """Wait while the fault lasts."""
        time.sleep(self.job.fault_s)


def stay_calm(scenario: Scenario) -> None:
    """Run without a fault."""
    process = scenario.start()
    if scenario.finish(process) == 0:
        scenario.cluster.calm_manifests = scenario.cluster.read_manifests(scenario.out_uri)


def part(scenario: Scenario) -> None:
    """Take the link of a worker down, then up."""
    process = scenario.start()
    scenario.wait_for_chunks(process)
    scenario.cluster.network.set_link(VICTIM, is_up=False)
    scenario.say(f"the link of {VICTIM} is down")
    scenario.wait_out()
    scenario.cluster.network.set_link(VICTIM, is_up=True)
    scenario.say("the link is up")
    scenario.finish(process)


def lose_store(scenario: Scenario) -> None:
    """Make the store unreachable, then reachable."""
    process = scenario.start()
    scenario.wait_for_chunks(process)
    scenario.say(scenario.cluster.store.fail())
    scenario.wait_out()
    scenario.cluster.store.recover()
    scenario.say("the store is back")
    scenario.finish(process)


def kill_head(scenario: Scenario) -> None:
    """Kill the head while the driver runs on another host."""
    process = scenario.start(host="w2")
    scenario.wait_for_chunks(process)
    scenario.cluster.network.end("head")
    scenario.say("the head is killed")
    scenario.finish(process, host="w2")


def freeze(scenario: Scenario) -> None:
    """Stop all processes of a worker, then continue them."""
    process = scenario.start()
    scenario.wait_for_chunks(process)
    network = scenario.cluster.network
    frozen = network.list_processes(VICTIM)
    network.send(VICTIM, signal.SIGSTOP)
    scenario.say(f"{len(frozen)} processes of {VICTIM} are stopped")
    scenario.wait_out()
    network.send(VICTIM, signal.SIGCONT)
    scenario.say("the processes continue")
    scenario.finish(process)


def fill_disk(scenario: Scenario) -> None:
    """Label onto a disk that is too small, then enlarge it."""
    process = scenario.start()
    disk = Path(scenario.out_uri).parent
    deadline_s = time.monotonic() + scenario.job.limit_s
    while shutil.disk_usage(disk).free > FULL_BYTES and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.5)
    scenario.say(f"{shutil.disk_usage(disk).free} bytes are free")
    scenario.wait_out()
    subprocess.run(["mount", "-o", f"remount,{ENLARGED}", str(disk)], check=True)
    scenario.say(f"the disk is larger: {ENLARGED}")
    scenario.finish(process)


FAULTS: dict[str, Callable[[Scenario], None]] = {
    "calm": stay_calm,
    "partition": part,
    "store-outage": lose_store,
    "head-killed": kill_head,
    "frozen-host": freeze,
    "full-disk": fill_disk,
}


@contextmanager
def open_out(name: str, cluster: LabellingCluster) -> Iterator[str]:
    """Prepare the output folder of a scenario."""
    if name != "full-disk":
        yield join_uri(cluster.store.root_uri, name)
        return
    disk = cluster.network.folder / "disk"
    disk.mkdir()
    size_kib = int(DISK_FRACTION * sum(map(len, cluster.calm_manifests.values()))) // 1024
    # Mounted before any host starts, so that all hosts have it.
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(disk)], check=True)
    try:
        yield str(disk / "out")
    finally:
        # Lazily: processes that are about to end may still use it.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def run_scenario(name: str, job: Benchmark, cluster: LabellingCluster) -> Outcome:
    """Run a scenario; run the command once more if it failed."""
    print(f"{name}:", flush=True)
    outcome = Outcome(scenario=name)
    with open_out(name, cluster) as out_uri:
        try:
            cluster.start()
            scenario = Scenario(job=job, cluster=cluster, outcome=outcome, out_uri=out_uri)
            FAULTS[name](scenario)
            num_labelled = cluster.count_labelled()
            if outcome.exit_codes[-1] != 0:
                cluster.stop()
                cluster.start()
                scenario.finish(scenario.start())
                num_labelled += cluster.count_labelled()
            outcome.elapsed_s = time.monotonic() - scenario.started_s
            outcome.verdict = cluster.judge(out_uri, num_labelled)
        except RuntimeError as error:
            # The other scenarios can still run.
            outcome.error = str(error)
            print(f"  failed: {error}", flush=True)
        finally:
            cluster.stop()
    return outcome


def open_store(kind: str, network: Network) -> Store:
    """Make the store, not started."""
    if kind == "rgw":
        return CephRgw(network)
    if kind == "moto":
        return Moto(network)
    return Disk(network.folder / "store")


def run_all(job: Benchmark, folder: Path) -> list[Outcome]:
    """Run the scenarios, the calm one first."""
    outcomes = []
    with Network(("head", "w1", "w2", HOST), folder, job.subnet) as network:
        store = open_store(job.store, network)
        store.start()
        os.environ.update(store.get_variables())
        photos = Photos(
            num_shards=job.num_shards,
            samples_per_shard=job.samples_per_shard,
            chunk_samples=job.chunk_samples,
            num_patches=job.num_patches,
        )
        cluster = LabellingCluster(network=network, store=store, photos=photos)
        cluster.make_inputs()
        for name in ("calm", *(name for name in job.scenarios if name != "calm")):
            outcomes.append(run_scenario(name, job, cluster))
            print_outcomes(outcomes[-1:])
            if not cluster.calm_manifests:
                print("the calm run failed, so the other scenarios have no manifests to compare with; see its log")
                break
    return outcomes


def main() -> int:
    """Run the scenarios, print their outcomes and return an exit code."""
    job = tyro.cli(Benchmark, description=__doc__)
    if obstacle := find_obstacle():
        print(f"error: {obstacle}", file=sys.stderr)
        return 2
    if "store-outage" in job.scenarios and job.store == "disk":
        print(
            "error: a shared disk cannot become unreachable; leave out store-outage or give another --store",
            file=sys.stderr,
        )
        return 2
    # A signal must not skip the removal of namespaces and mounts.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Ray {ray.__version__}, store {job.store}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="tm", dir="/tmp"))
    try:
        outcomes = run_all(job, folder)
    finally:
        if job.keep is not None:
            shutil.copytree(folder / "logs", job.keep, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    print_outcomes(outcomes)
    if job.json is not None:
        job.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    return 0 if all(is_good(outcome) for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
