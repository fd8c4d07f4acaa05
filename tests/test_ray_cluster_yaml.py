"""The cluster description against Ray's own schema."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PATH = Path(__file__).parents[1] / "ray-cluster.yaml"


def validate(config):
    validate_config(prepare_config(config))


def test_cluster_file_is_valid_for_rays_launcher():
    validate(yaml.safe_load(PATH.read_text()))


def test_cluster_has_a_head_without_work_and_gpu_and_cpu_workers():
    config = yaml.safe_load(PATH.read_text())
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert {"gpu_worker", "cpu_worker"} <= config["available_node_types"].keys()


@pytest.mark.parametrize("path", [("max_wrokers",), ("available_node_types", "gpu_worker", "minworkers")])
def test_misspelt_key_is_caught(path):
    config = yaml.safe_load(PATH.read_text())
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = 1
    with pytest.raises(Exception, match=path[-1]):
        validate(config)


def test_mounted_paths_are_in_the_repository():
    for local in yaml.safe_load(PATH.read_text())["file_mounts"].values():
        assert (PATH.parent / local).exists(), local
