import os
import signal
from typing import Any, Never

import pytest
import ray
import ray.exceptions

from pipeline.errors import ShardError
from pipeline.workers.ray_failures import describe_ray_failure
from tests.workers.test_ray_failures import assert_is_short


@pytest.mark.ray
def test_failure_of_ray_names_what_a_task_raised_and_what_ended_a_process(local_ray: None) -> None:
    @ray.remote(max_retries=0)
    def refuse() -> Never:
        raise ShardError("shard 'a.tar' is damaged; copy it again")

    @ray.remote(max_retries=0)
    def nest() -> Any:
        return ray.get(refuse.remote())

    @ray.remote(max_retries=0)
    def overflow() -> Any:
        return [][1]

    @ray.remote(max_retries=0)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @ray.remote
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no such model")

        def work(self) -> None:
            """Never called."""

    texts = {}
    for name, call in {
        "refuse": refuse.remote,
        "nest": nest.remote,
        "overflow": overflow.remote,
        "die": die.remote,
        "init": Broken.remote().work.remote,
    }.items():
        with pytest.raises(ray.exceptions.RayError) as caught:
            ray.get(call())
        texts[name] = describe_ray_failure(caught.value)
        assert_is_short(texts[name])
    assert texts["refuse"] == texts["nest"] == "shard 'a.tar' is damaged; copy it again"
    assert texts["overflow"] == "IndexError: list index out of range"
    assert texts["die"].startswith("WorkerCrashedError: ")
    assert "ValueError: no such model" in texts["init"]
