import importlib.metadata
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu import NEEDED, find_missing
from benchmarks.gpu_parts.labelling import CALLS_IN_FLIGHT, label_for
from benchmarks.gpu_parts.parity import ODD_GRIDS
from benchmarks.gpu_parts.plan import list_cases
from benchmarks.gpu_parts.process_tree import read_descendants_cpu_s
from benchmarks.plain_form import NUM_CLASSES
from pipeline.label import CALLS_PER_ACTOR
from pipeline.run.records import Sample, Status

ROOT = Path(__file__).parents[2]

HIDE = """
import importlib.machinery, sys

class Hiding(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {names!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hiding
"""

BURN = """
import sys, time
def burn():
    while time.process_time() < 0.3:
        pass
"""
GRANDCHILD = BURN + "burn(); print('done', flush=True); sys.stdin.read()"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GRANDCHILD!r}], check=True)"


def list_distributions(names: Iterable[str]) -> set[str]:
    """The named distributions, and all that they install."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        found.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [one.name for one in map(Requirement, required) if one.marker is None or one.marker.evaluate()]
    return found


def list_children(pid: int) -> list[int]:
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for own in lists for child in own]


def test_needed_packages_are_enough() -> None:
    """Nothing else is imported: a machine with a GPU has neither Ray nor what it brings."""
    own = {"tagmask"}
    allowed = own | list_distributions(NEEDED.values())
    hidden = {
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(name) for name in distributions} & allowed
    }
    assert {"ray", "tyro", "psutil"} <= hidden
    program = HIDE.format(names=hidden) + "import benchmarks.gpu_parts.plan"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


@pytest.mark.parametrize("module", ["simplejpeg", "zlib_ng"])
def test_package_that_is_missing_is_named_with_its_command_before_anything_is_measured(
    module: str, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text("raise ImportError('it is not here')")
    path = tmp_path / "figures.json"
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", "--json", str(path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        f"error: cannot import {module}: it is not here\nrun: python -m pip install {NEEDED[module]}\n"
    )
    assert not path.exists()


def test_packages_that_are_there_are_not_missing() -> None:
    assert list(find_missing(["json", "no_such_module"])) == ["no_such_module"]
    assert find_missing(NEEDED) == {}


def test_most_important_cases_come_first() -> None:
    cases = list_cases(is_small=False)
    settings = {"model": "DeiT-S", "quality": "balanced", "patches": 196}
    assert [case.settings for case in cases[:5]] == [settings | {"workers": number} for number in (16, 8, 4, 2, 1)]
    parts = list(dict.fromkeys(case.part for case in cases[5:]))
    assert parts[:4] == ["device", "parity", "out of memory", "training step"]
    labelled = {tuple(case.settings.values())[:3] for case in cases if case.part == "labelling"}
    assert len(labelled) == 3 * 3 * 2
    names = [(case.part, *case.settings.values()) for case in cases]
    assert len(set(names)) == len(names)


def test_as_many_chunks_are_in_flight_as_in_an_actor() -> None:
    together = threading.Barrier(CALLS_PER_ACTOR, timeout=30)

    def label(chunk: Sequence[Sample]) -> pa.Table:
        together.wait()
        return pa.table({"status": [str(Status.LABELLED), str(Status.REJECTED)]})

    assert CALLS_IN_FLIGHT == CALLS_PER_ACTOR
    labelled = label_for(label, [], 0)
    assert (labelled.num_images, labelled.num_rejected) == (2 * CALLS_PER_ACTOR, CALLS_PER_ACTOR)


def test_odd_grids_have_one_token_more_than_a_multiple_of_32() -> None:
    assert [(NUM_CLASSES + rows * columns) % 32 for rows, columns in ODD_GRIDS] == [1, 1]


def test_cpu_time_of_grandchildren_counts_while_they_run() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        assert read_descendants_cpu_s(child.pid) >= 0.25
        assert read_descendants_cpu_s(os.getpid()) >= read_descendants_cpu_s(child.pid)


CASE = """
import json, os, torch
from benchmarks.gpu_parts.labelling import list_worker_cases
from benchmarks.gpu_parts.machine import Bench
from tests.benchmarks.test_gpu import list_children

if __name__ == "__main__":
    case = list_worker_cases(is_small=True)[0]
    figures = case.measure(Bench(torch.device("cpu"), 1.0, True))
    # The fork server stays; the processes that it started do not.
    left = [list_children(child) for child in list_children(os.getpid()) if list_children(child)]
    print(json.dumps({"workers": case.settings["workers"], "left": left} | figures))
"""


def test_case_ends_the_processes_that_it_started(tmp_path: Path) -> None:
    # In a process of its own: this one may have processes of other tests.
    program = tmp_path / "case.py"
    program.write_text(CASE)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["workers"] > 1
    assert (found["images"], found["rejected"], found["left"]) == (16, 0, [])
    assert found["workers_cpu_ms"] >= 0
