"""Everything that can die dies, on a real Ray cluster of three nodes; and two drivers at once.

One schedule, in which each kind of part dies once. `benchmarks.chaos` runs hundreds, drawn by chance.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import Benchmark, Playground, judge, make_inputs, read_manifests, run_schedule
from jobs.qualities import balanced
from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.bundles import load_bundle
from pipeline.inputs.shards import list_shards
from pipeline.label import CALLS_PER_ACTOR, label_run
from pipeline.run.config import InputConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import load_vocabulary
from tests.fakes import SerialCluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

VICTIMS = ("worker", "node", "driver", "everything")
JOB = Benchmark(num_shards=4, num_images=30, mean_wait_s=0.5, max_kills=2, limit_s=800.0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder, JOB)
    return folder


@pytest.fixture(scope="module")
def ground(inputs: Path) -> Iterator[Any]:
    with Playground(inputs, JOB) as ground:
        yield ground


@pytest.fixture(scope="module")
def calm(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The manifests of a run that nothing disturbs, without a cluster."""
    out, model = tmp_path_factory.mktemp("calm"), str(inputs / "model")
    run = open_run(
        out_uri=str(out),
        model_uri=model,
        model_digest=load_bundle(model)[2],
        vocabulary=load_vocabulary(str(inputs / "vocabulary.json")),
        config=replace(
            balanced(), inputs=InputConfig(max_chunk_samples=JOB.chunk_samples), views=ViewConfig(num_patches=16)
        ),
        shards=list_shards([f"{inputs}/photos-*.tar"]),
    )
    label_run(run, LabelOptions(gpus_per_actor=0.0), cluster=SerialCluster())
    return read_manifests(out)


def test_run_whose_every_part_dies_ends_with_the_bytes_of_a_calm_one(ground: Any, calm: Any, tmp_path: Path) -> None:
    outcome = run_schedule(JOB, ground, tmp_path / "out", 0, VICTIMS)
    assert judge(JOB, outcome, tmp_path / "out", calm) == ""
    assert outcome.kills == Counter(VICTIMS)
    assert outcome.num_invocations >= 3


def test_two_drivers_at_once_leave_what_one_leaves_and_one_is_warned(ground: Any, calm: Any, tmp_path: Path) -> None:
    out, logs = tmp_path / "out", [tmp_path / "1.log", tmp_path / "2.log"]
    num_restarts = run_drivers(ground, out, logs)
    printed = [log_path.read_text() for log_path in logs]
    assert read_manifests(out) == calm
    assert verify_run(list_run(str(out)), FULL).failed_checks == []
    # Each labels all, and Ray may lose an actor of each on a busy machine; with a driver its actor is lost.
    num_at_most = 2 * JOB.num_chunks + CALLS_PER_ACTOR * (2 + num_restarts)
    assert JOB.num_chunks < ground.take_num_labelled() <= num_at_most
    assert any("another driver (process" in text and "stop one of them" in text for text in printed)


def run_drivers(ground: Any, out: Path, logs: list[Path]) -> int:
    """Run a driver for each log, at once, and run again one that fails, as an operator does; return how often."""
    drivers = {log_path: ground.start_driver(out, log_path, num_actors=1) for log_path in logs}
    num_restarts = 0
    while drivers:
        for log_path, driver in list(drivers.items()):
            driver.join(1)
            if driver.exitcode == 0:
                del drivers[log_path]
            elif driver.exitcode is not None:
                # Ray's core ends a driver now and then on a busy machine; none of ours may fail twice.
                printed = log_path.read_text(errors="replace")[-8000:]
                warnings.warn(f"a driver ended with {driver.exitcode}: {printed}", stacklevel=2)
                num_restarts += 1
                assert num_restarts <= len(logs)
                drivers[log_path] = ground.start_driver(out, log_path, num_actors=1)
    return num_restarts
