"""A Ray cluster on the hosts of `benchmarks.network_hosts` that labels generated photos, and checks of its output."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError

from benchmarks.host_stores import Store, wait_until
from benchmarks.network_hosts import Network
from jobs.execution.demo_photos import CLASSES, write_collection
from models.bundle import ModelBundle
from models.mctformer import MCTformer, MCTformerConfig, Variant
from pipeline.bundles import save_bundle
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic

ROOT = Path(__file__).parents[1]
WORKERS = ("w1", "w2")
RAY_PORT = 6379
OBJECT_STORE_BYTES = 200_000_000
NUM_STARTS = 3
"""Ray waits 30 seconds for a node to start; on a busy machine that may not suffice."""
LABELLED = re.compile(r"(\S+): labelled \d+ images in")
"""Log line of a worker that has labelled a chunk, before its commit."""


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Size of the input."""

    num_shards: int
    samples_per_shard: int
    chunk_samples: int
    num_patches: int
    """Patches of a view; more patches make chunks slower."""

    @property
    def num_chunks(self) -> int:
        """Chunks in all shards."""
        return self.num_shards * -(-self.samples_per_shard // self.chunk_samples)


@dataclass(kw_only=True)
class Verdict:
    """Output of a run, compared with its input and with the output of an undisturbed run."""

    num_lost: int = 0
    num_doubled: int = 0
    num_out_of_order: int = 0
    """Shards whose rows are not in the order of their samples."""
    num_byte_equal: int = 0
    """Shards whose manifest equals that of the undisturbed run byte for byte."""
    num_shards: int = 0
    num_chunks: int = 0
    num_labelled: int = 0
    """Chunks labelled by workers, repetitions included."""
    num_labelled_again: int = 0
    """Repetitions among them."""
    verify_exit_code: int | None = None


@dataclass(kw_only=True)
class LabellingCluster:
    """A head and two workers, inputs in a store, and runs of `tagmask label`."""

    network: Network
    store: Store
    photos: Photos
    keys: dict[str, list[str]] = field(default_factory=dict)
    """Keys of the samples of each shard, in order."""
    calm_manifests: dict[str, bytes] = field(default_factory=dict)
    """Manifests of the undisturbed run, by name."""

    def make_inputs(self) -> None:
        """Draw the photos, make a small model with random weights, and put both into the store."""
        folder = self.network.folder / "inputs"
        counts = {"photos": self.photos.num_shards * self.photos.samples_per_shard}
        write_collection(folder, counts, samples_per_shard=self.photos.samples_per_shard)
        torch.manual_seed(0)
        config = MCTformerConfig(
            variant=Variant.V2, num_classes=len(CLASSES), image_size=32, patch_size=16, width=48, depth=2, num_heads=3
        )
        bundle = ModelBundle(config=config, class_names=CLASSES, input_mean=(0.5,) * 3, input_std=(0.5,) * 3)
        save_bundle(str(folder / "model"), MCTformer(config), bundle)
        for path in sorted(folder.glob("photos-*.tar")):
            with tarfile.open(path) as archive:
                # Each key once, in order.
                self.keys[path.stem] = list(dict.fromkeys(name.partition(".")[0] for name in archive.getnames()))
        for path in (*folder.glob("photos-*.tar"), folder / "vocabulary.json", *(folder / "model").iterdir()):
            put_atomic(join_uri(self._inputs_uri, path.relative_to(folder).as_posix()), path.read_bytes())

    @property
    def _inputs_uri(self) -> str:
        return join_uri(self.store.root_uri, "inputs")

    @property
    def _address(self) -> str:
        return f"{self.network.hosts['head'].address}:{RAY_PORT}"

    def _get_variables(self) -> dict[str, str]:
        """Environment of a user whose shell has no variables of Ray."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
        ours = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "RAY_AUTH_MODE": "disabled"}
        return kept | ours | {"RAY_USAGE_STATS_ENABLED": "0"} | dict(self.store.get_variables())

    def start(self) -> None:
        """Start the head, then the workers."""
        head = ("--head", "--port", str(RAY_PORT), "--temp-dir", str(self.network.ray_folder))
        self._start_node("head", *head, "--num-cpus", "1", "--include-dashboard", "false")
        for name in WORKERS:
            self._start_node(name, "--address", self._address, "--num-cpus", "2")

    def _start_node(self, name: str, *arguments: str) -> None:
        host = self.network.hosts[name]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address", host.address]
        command += ["--num-gpus", "0", "--object-store-memory", str(OBJECT_STORE_BYTES), *arguments]
        for attempt in range(NUM_STARTS):
            process = self.network.start(name, command, self._get_variables(), log=f"ray-{name}")

            def has_joined(process: "subprocess.Popen[bytes]" = process) -> bool:
                return process.poll() is not None or host.address in self._list_alive()

            try:
                wait_until(has_joined, 90, f"Ray's node of '{name}' did not join")
            except RuntimeError:
                if attempt == NUM_STARTS - 1:
                    raise
            if process.poll() is None and host.address in self._list_alive():
                return
            self.network.end(name)
        raise RuntimeError(f"Ray's node of '{name}' ended; see {self.network.get_log_path(f'ray-{name}')}")

    def _list_alive(self) -> set[str]:
        """Addresses of the nodes that Ray counts as alive; none without a head."""
        if not self.network.list_processes("head", "gcs_server"):
            return set()
        try:
            nodes = GcsClient(address=self._address).get_all_node_info(timeout=5).values()
        except (RayError, RuntimeError, OSError):
            # The head is still starting.
            return set()
        return {node.node_manager_address for node in nodes if node.state == 0}

    def stop(self) -> None:
        """End all nodes and drivers, and remove their logs."""
        for name in ("head", *WORKERS):
            self.network.end(name)
        for name in ("head", *WORKERS):
            for path in self.network.hosts[name].folder.iterdir():
                shutil.rmtree(path, ignore_errors=True)

    def start_job(self, out_uri: str, *, host: str, log: str) -> "subprocess.Popen[bytes]":
        """Start `tagmask label` on a host."""
        command = [
            *(sys.executable, "-m", "jobs.label", "--shards", join_uri(self._inputs_uri, "photos-*.tar")),
            *("--vocabulary", join_uri(self._inputs_uri, "vocabulary.json")),
            *("--model", join_uri(self._inputs_uri, "model"), "--out", out_uri, "--address", self._address),
            *("--device", "cpu", "--gpus-per-worker", "0", "--cpus-per-worker", "0.5", "--workers", "2"),
            *("--views.num-patches", str(self.photos.num_patches)),
            *("--inputs.max-chunk-samples", str(self.photos.chunk_samples)),
        ]
        return self.network.start(host, command, self._get_variables(), log=log)

    def count_committed(self, out_uri: str) -> int:
        """Number of committed chunks: parts, and chunks of published shards."""
        per_shard = self.photos.num_chunks // self.photos.num_shards
        parts = [item for item in list_objects(join_uri(out_uri, "parts")) if item.uri.endswith(".parquet")]
        return len(parts) + per_shard * len(self._list_manifests(out_uri))

    def _list_manifests(self, out_uri: str) -> dict[str, str]:
        listed = list_objects(join_uri(out_uri, "labels"))
        return {Path(item.uri).stem: item.uri for item in listed if item.uri.endswith(".parquet")}

    def read_manifests(self, out_uri: str) -> dict[str, bytes]:
        """Read all manifests, by the name of their shard."""
        return {name: read_bytes(uri) for name, uri in self._list_manifests(out_uri).items()}

    def count_labelled(self) -> Counter[str]:
        """How often each chunk was labelled, from the logs of the workers."""
        counts: Counter[str] = Counter()
        for name in ("head", *WORKERS):
            for path in self.network.hosts[name].folder.glob("session_2*/logs/worker-*.err"):
                counts.update(LABELLED.findall(path.read_text(errors="replace")))
        return counts

    def judge(self, out_uri: str, labelled: Counter[str]) -> Verdict:
        """Compare the rows with the samples, and the manifests with those of the undisturbed run.

        Args:
            out_uri: Output folder of the run.
            labelled: How often each chunk was labelled.
        """
        manifests = self.read_manifests(out_uri)
        verdict = Verdict(
            num_shards=len(self.keys),
            num_chunks=self.photos.num_chunks,
            num_labelled=labelled.total(),
            num_labelled_again=labelled.total() - len(labelled),
            num_byte_equal=sum(manifests.get(name) == payload for name, payload in self.calm_manifests.items()),
            verify_exit_code=self._verify(out_uri),
        )
        for name, keys in self.keys.items():
            rows: list[Any] = []
            if name in manifests:
                rows = pq.read_table(BytesIO(manifests[name]), columns=["key"])["key"].to_pylist()
            verdict.num_lost += len(set(keys) - set(rows))
            verdict.num_doubled += len(rows) - len(set(rows))
            verdict.num_out_of_order += bool(rows) and rows != keys
        return verdict

    def _verify(self, out_uri: str) -> int:
        """Run `tagmask verify` on this machine, which reaches the store over the bridge; return its exit code."""
        command = [sys.executable, "-m", "jobs.verify", "--labels", out_uri, "--address", "local"]
        log = self.network.open_log("verify")
        variables: Mapping[str, str] = self._get_variables()
        return subprocess.run(command, env=variables, cwd=ROOT, stdout=log, stderr=log, check=False).returncode
