"""The local cluster with real processes: same bytes as one process, and as without deaths."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import BundleError, LabellingError
from pipeline.label import label_run
from pipeline.local_cluster.child import list_import_path
from pipeline.local_cluster.cluster import LocalCluster
from pipeline.run.run_file import Run
from tests.factories import save_small_model
from tests.small_run import OPTIONS, read_all

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def expected(label_small_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of the run in one process."""
    out = str(tmp_path_factory.mktemp("serial") / "out")
    label_small_run(out)
    return read_all(out)


def list_children() -> set[str]:
    """The child processes of this process."""
    return {name for path in Path("/proc/self/task").glob("*/children") for name in path.read_text().split()}


def test_local_cluster_gives_the_bytes_of_one_process(
    open_small_run: Callable[..., Run], tmp_path: Path, expected: dict[str, bytes]
) -> None:
    summary = label_run(open_small_run(str(tmp_path)), OPTIONS, cluster=LocalCluster(2))
    assert (summary.num_sealed, summary.num_shards_left) == (2, 0)
    assert read_all(str(tmp_path)) == expected


def test_killed_child_is_replaced_and_no_row_is_lost(
    open_small_run: Callable[..., Run], tmp_path: Path, expected: dict[str, bytes]
) -> None:
    killed: list[int] = []

    before = list_children()

    class KillingCluster(LocalCluster):
        def run_chunks(self, *arguments: Any) -> Any:
            for report in super().run_chunks(*arguments):
                yield report
                if report is not None and len(killed) < 2:
                    victim = next(iter(list_children() - before))
                    killed.append(int(victim))
                    os.kill(int(victim), signal.SIGKILL)

    summary = label_run(open_small_run(str(tmp_path)), OPTIONS, cluster=KillingCluster(1))
    assert len(killed) == 2
    assert summary.num_shards_left == 0
    assert summary.counts.num_read == 10
    assert read_all(str(tmp_path)) == expected


def test_children_find_our_packages_where_the_driver_did(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = [entry for entry in sys.path if entry not in ("", str(ROOT))]
    monkeypatch.setattr(sys, "path", ["", *elsewhere])
    assert list_import_path() == [str(ROOT), *elsewhere]
    monkeypatch.setattr(sys, "path", [*elsewhere, str(ROOT)])
    assert list_import_path() == [*elsewhere, str(ROOT)]


def test_damaged_model_ends_the_run_with_its_own_error(open_small_run: Callable[..., Run], tmp_path: Path) -> None:
    run = replace(open_small_run(str(tmp_path / "out")), model_uri=str(tmp_path / "other"))
    save_small_model(run.model_uri)
    (tmp_path / "other" / "model.safetensors").write_bytes(b"no weights")
    before = list_children()
    with pytest.raises((BundleError, LabellingError), match="weights|changed"):
        label_run(run, OPTIONS, cluster=LocalCluster(1))
    assert list_children() <= before


def test_children_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pipeline.driver.steps import Tasks\n"
        "from pipeline.local_cluster.child import Child\n"
        "from pipeline.local_cluster.messages import Setup\n"
        "workers = Tasks(find=print, arguments={}, num_cpus=1)\n"
        "child = Child(Setup(plan_read=print, workers=workers, store_outage_s=0.0))\n"
        "child.connection.recv()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert driver.stdout is not None
    child = int(driver.stdout.readline())
    os.kill(child, 0)
    driver.kill()
    driver.wait()
    deadline_s = time.monotonic() + 30
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline_s, "the child outlives its driver"
        time.sleep(0.05)
