"""What a wave leaves behind when it ends: nothing, although others hold the handles of its actors."""

import pytest
import ray

from pipeline.driver.cluster import RayCluster
from pipeline.driver.cluster_state import list_actors

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0.1, max_restarts=-1)
class Worker:
    def wait(self) -> None:
        """Be there."""


def test_actors_of_an_ended_wave_are_gone_although_their_handles_are_held(local_ray: None) -> None:
    before = Worker.remote()
    ray.get(before.wait.remote())
    cluster = RayCluster()
    actors_before = list_actors()
    cluster.begin_wave()
    held = [Worker.remote() for _ in range(3)]
    ray.get([worker.wait.remote() for worker in held])
    assert len(list_actors() - actors_before) == 3
    cluster.end_wave()
    assert list_actors() == actors_before
    # The actors that were there before the wave are not its own.
    ray.get(before.wait.remote())
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(held[0].wait.remote())
