"""The cluster description against Ray's own schema, and the commands in its head against our jobs."""

import itertools
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.cluster.actor_count import (
    ClusterSize,
    choose_cpus,
    choose_gpus,
    choose_num_actors,
    describe_few_cpus,
    describe_no_room,
    describe_wait,
)
from jobs.cluster.connection import LOCAL_VARIABLES
from jobs.label import parse_command
from pipeline.errors import LabellingError

PATH = Path(__file__).parents[1] / "ray-cluster.yaml"


def validate(config: Any) -> None:
    validate_config(prepare_config(config))


def test_cluster_file_is_valid_for_rays_launcher() -> None:
    validate(yaml.safe_load(PATH.read_text()))


def test_cluster_has_a_head_without_work_and_gpu_and_cpu_workers() -> None:
    config = yaml.safe_load(PATH.read_text())
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert {"gpu_worker", "cpu_worker"} <= config["available_node_types"].keys()


@pytest.mark.parametrize("path", [("max_wrokers",), ("available_node_types", "gpu_worker", "minworkers")])
def test_misspelt_key_is_caught(path: tuple[str, ...]) -> None:
    config = yaml.safe_load(PATH.read_text())
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = 1
    with pytest.raises(Exception, match=path[-1]):
        validate(config)


def test_mounted_paths_are_in_the_repository() -> None:
    for local in yaml.safe_load(PATH.read_text())["file_mounts"].values():
        assert (PATH.parent / local).exists(), local


def test_workers_of_every_node_have_the_niceness_of_a_local_ray() -> None:
    config = yaml.safe_load(PATH.read_text())
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        assert f"RAY_worker_niceness={LOCAL_VARIABLES['RAY_worker_niceness']}" in shlex.split(command)


def list_commands() -> list[Any]:
    """List the commands in the head of the file, each on one line."""
    head = itertools.takewhile(lambda line: line.startswith("#"), PATH.read_text().splitlines())
    lines = [line.removeprefix("#").strip() for line in head]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.startswith("ray ")]


def test_labelling_command_starts_on_the_cluster_as_it_is_at_first() -> None:
    (command,) = (command for command in list_commands() if "jobs.label" in command)
    words = shlex.split(command)
    job = parse_command(words[words.index("jobs.label") + 1 :])
    worker = yaml.safe_load(PATH.read_text())["available_node_types"]["gpu_worker"]
    # The launcher's autoscaler does not publish how far it goes.
    nothing_yet = ClusterSize(num_cpus=0, num_gpus=0, most_gpus=0)
    assert worker["min_workers"] == 0
    num_actors = choose_num_actors(
        job.workers,
        choose_gpus(job.gpus_per_worker, nothing_yet, may_grow=True),
        choose_cpus(job.cpus_per_worker, job.gpus_per_worker, nothing_yet),
        nothing_yet,
    )
    assert num_actors * job.gpus_per_worker == worker["max_workers"] * worker["resources"]["GPU"]
    assert 2 <= job.cpus_per_worker < worker["resources"]["CPU"] / worker["resources"]["GPU"]


def test_cluster_without_gpus_is_refused_only_when_nobody_says_that_more_will_come() -> None:
    nothing_yet = ClusterSize(num_cpus=0, num_gpus=0, most_gpus=0)
    with pytest.raises(LabellingError, match="has 0 GPUs and a worker wants 0.5; .* --workers to wait"):
        choose_num_actors(None, 0.5, 1.0, nothing_yet)
    assert choose_num_actors(None, 0.5, 1.0, replace(nothing_yet, most_gpus=16)) == 32
    assert choose_num_actors(None, 0.0, 2.0, replace(nothing_yet, num_cpus=9)) == 4
    assert choose_num_actors(None, 0.0, 2.0, nothing_yet) == 1
    assert describe_wait(2, 1.0, replace(nothing_yet, num_gpus=2)) is None
    assert "has 0 GPUs now, 2 workers want 1" in describe_wait(2, 0.5, nothing_yet)
    assert describe_no_room(2, 1.0, replace(nothing_yet, num_cpus=3)) is None
    assert "give --workers 2, or" in describe_no_room(3, 1.0, replace(nothing_yet, num_cpus=3))
    assert "give --workers 1, or" in describe_no_room(1, 4.0, replace(nothing_yet, num_cpus=3))


def test_gpus_are_used_where_there_are_enough_of_them_unless_said() -> None:
    nothing_yet = ClusterSize(num_cpus=4, num_gpus=0, most_gpus=0)
    four = replace(nothing_yet, num_gpus=2, most_gpus=4)
    assert [choose_gpus("auto", size) for size in (nothing_yet, four)] == [0.0, 1.0]
    assert [choose_gpus("auto", size, may_grow=True) for size in (nothing_yet, four)] == [1.0, 1.0]
    assert [choose_gpus("auto", four, num_workers=number) for number in (4, 5)] == [1.0, 0.0]
    assert [choose_gpus(wanted, nothing_yet) for wanted in (0.5, 2.0)] == [0.5, 2.0]
    assert choose_gpus(0.0, four) == 0.0


def test_worker_takes_the_cpus_that_its_node_has_for_its_gpu() -> None:
    size = ClusterSize(num_cpus=64, num_gpus=8, most_gpus=8, cpus_by_gpu=8)
    assert [choose_cpus(None, num_gpus, size) for num_gpus in (0.0, 0.5, 1.0, 2.0)] == [1.0, 3.0, 7.0, 14.0]
    assert choose_cpus(2.5, 1.0, size) == 2.5
    assert choose_cpus(None, 1.0, replace(size, cpus_by_gpu=96)) == 16
    # Nodes with few CPUs, and those that nobody knows before they join.
    assert [choose_cpus(None, 1.0, replace(size, cpus_by_gpu=number)) for number in (0.5, None)] == [1.0, 1.0]


def test_worker_whose_gpu_would_wait_is_told_of() -> None:
    assert "its GPU waits; give --cpus-per-worker" in describe_few_cpus(1.0, 1.0)
    assert describe_few_cpus(1.0, 2.0) is None
    assert describe_few_cpus(0.0, 1.0) is None
