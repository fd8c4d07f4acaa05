"""`tagmask label` and `tagmask remask` without Ray, as a user runs them: killed as a whole, on S3, and remasked."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.label import main as label
from jobs.verify import main as verify
from pipeline.kept_maps.kept_run import open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.remask import remask_run
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.factories import make_photo, make_tar, save_small_model
from tests.fakes import SerialCluster

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]
NUM_SHARDS, NUM_PER_SHARD = 3, 9


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for shard in range(NUM_SHARDS):
        samples = {
            f"{shard}/photo {i}": {"jpg": make_photo(10 * shard + i), "json": json.dumps({"tags": tags}).encode()}
            for i, tags in enumerate([["cat"], ["dog", "cat"], ["sunset"]] * (NUM_PER_SHARD // 3))
        }
        make_tar(folder / f"{shard}.tar", samples)
    (folder / "vocabulary.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    save_small_model(str(folder / "model"))
    return folder


def list_arguments(inputs: str, out: str, *flags: str) -> list[str]:
    return [
        *("--shards", f"{inputs}/*.tar", "--vocabulary", f"{inputs}/vocabulary.json", "--model", f"{inputs}/model"),
        *("--out", out, "--cluster", "local", "--views.num-patches", "16", "--inputs.max-chunk-samples", "2"),
        *("--workers", "2", "--cpus-per-worker", "1", "--maps.keep-maps", *flags),
    ]


def start(job: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", f"jobs.{job}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def run(job: str, *arguments: str) -> str:
    running = start(job, *arguments)
    printed, _ = running.communicate(timeout=500)
    assert running.returncode == 0, printed
    return str(printed)


def read_manifests(out_uri: str) -> dict[str, bytes]:
    return {item.uri.rpartition("/")[2]: read_bytes(item.uri) for item in list_objects(join_uri(out_uri, "labels"))}


def read_masks(out_uri: str) -> list[Any]:
    tables = [pq.read_table(io.BytesIO(payload)) for payload in read_manifests(out_uri).values()]
    return [table.select(["key", "mask", "class_maps", "quality"]).to_pylist() for table in tables]


@pytest.fixture(scope="module")
def calm(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("calm") / "masks"
    assert "labelling without Ray: 2 processes of 1 CPUs each" in run("label", *list_arguments(str(inputs), str(out)))
    return out


def list_descendants(pid: int) -> set[int]:
    """The processes below a process."""
    try:
        below = {
            int(name) for path in Path(f"/proc/{pid}/task").glob("*/children") for name in path.read_text().split()
        }
    except OSError:
        return set()
    return below.union(*map(list_descendants, below)) if below else below


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_driver_killed_again_and_again_loses_no_row_and_leaves_no_process(
    inputs: Path, calm: Path, tmp_path: Path
) -> None:
    out, rng = tmp_path / "masks", random.Random(7)
    num_kills = 0
    for place in range(40):
        committed = len(list_objects(str(out)))
        running = start("label", *list_arguments(str(inputs), str(out)))
        # Killed once something more is committed, so that the run comes to its end.
        while running.poll() is None and len(list_objects(str(out))) <= committed:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        below = list_descendants(running.pid)
        if running.poll() is not None:
            assert running.returncode == 0, running.communicate()[0]
            break
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=60)
        num_kills += 1
        deadline_s = time.monotonic() + 30
        while any(map(is_alive, below)):
            assert time.monotonic() < deadline_s, f"after kill {place}, workers outlive their driver"
            time.sleep(0.05)
    else:
        pytest.fail("the run does not come to its end")
    assert num_kills >= 2
    assert read_manifests(str(out)) == read_manifests(str(calm))
    assert verify(["--labels", str(out)]) == 0


def test_label_and_remask_without_ray_read_and_write_s3(
    inputs: Path, calm: Path, s3_folder: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in sorted(inputs.rglob("*")):
        if path.is_file():
            put_atomic(join_uri(s3_folder, path.relative_to(inputs).as_posix()), path.read_bytes())
    out, again = join_uri(s3_folder, "masks"), join_uri(s3_folder, "again")
    # The workers get the endpoint from their driver.
    environment = dict(os.environ)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    endpoint = ("--endpoint-url", s3_endpoint)
    run("label", *list_arguments(s3_folder, out, *endpoint))
    printed = run("remask", "--labels", out, "--out", again, "--cluster", "local", *endpoint)
    monkeypatch.setattr(os, "environ", environment)
    assert "making masks without Ray" in printed
    # Not the whole rows: they name their shards, which lie elsewhere.
    assert read_masks(out) == read_masks(str(calm))
    assert verify(["--labels", out, *endpoint]) == 0
    assert verify(["--labels", again, *endpoint]) == 0


def test_remask_without_ray_gives_the_bytes_of_one_process(calm: Path, tmp_path: Path) -> None:
    flags = ["--labels", str(calm), "--cluster", "local", "--maps.foreground-threshold", "0.7"]
    run("remask", *flags, "--out", f"{tmp_path}/out", "--limit", "1")
    assert len(read_manifests(f"{tmp_path}/out")) == 1
    run("remask", *flags, "--out", f"{tmp_path}/out")
    kept = open_kept_run(str(calm))
    maps = replace(kept.config.maps, foreground_threshold=0.7)
    remask_run(open_remask(f"{tmp_path}/serial", kept, maps), cluster=SerialCluster())
    made = read_manifests(f"{tmp_path}/out")
    assert made == read_manifests(f"{tmp_path}/serial")
    assert made != read_manifests(str(calm))
    assert verify(["--labels", f"{tmp_path}/out"]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--address", "auto"), "--cluster local does without Ray, so leave --address out"),
        (("--gpus-per-worker", "1"), "--cluster local labels on CPUs"),
        (("--device", "cuda"), "--cluster local labels on CPUs"),
    ],
)
def test_options_that_need_ray_are_refused_before_anything_is_written(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    assert label(list_arguments(str(inputs), f"{tmp_path}/out", *flags)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("chosen", ["", "active"])
def test_threads_of_children_do_not_spin_unless_the_user_wants_that(chosen: str) -> None:
    program = (
        "from jobs.cluster.choice import make_local_cluster\n"
        "from pipeline.driver.steps import Tasks\n"
        "from pipeline.local_cluster.child import Child\n"
        "from pipeline.local_cluster.messages import Setup\n"
        "make_local_cluster(1)\n"
        "workers = Tasks(find=print, arguments={}, num_cpus=1.0)\n"
        "child = Child(Setup(plan_read=print, workers=workers, store_outage_s=0.0))\n"
        "print(open(f'/proc/{child.pid}/environ').read())\n"
        "child.end()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": chosen} if chosen else {}
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert f"OMP_WAIT_POLICY={chosen or 'passive'}\0" in found.stdout, found.stderr
