"""What a wave leaves behind when it ends: nothing, although others hold the handles of its actors."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray

from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import Report, ShardFailure, make_row
from pipeline.driver.cluster_state import list_actors
from pipeline.driver.ray_cluster import RayCluster
from pipeline.driver.steps import Steps, Tasks
from pipeline.errors import WaveError
from pipeline.labelling.chunk_rows import CHUNK_SCHEMA
from pipeline.run.records import InputShard
from pipeline.workers.read_part import ReadPart

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


def test_worker_that_raises_ends_its_wave_with_the_cause(local_ray: None) -> None:
    failure = ShardFailure(shard_name="a", error="x", is_store_error=False)

    # Functions within a function travel by value: workers cannot import a test module.
    def read_failure() -> Iterator[pa.Table]:
        yield make_row(failure, CHUNK_SCHEMA)

    def report_failure(row: pa.Table, **_: Any) -> pa.Table:
        return make_row(failure)

    def raise_error(row: pa.Table, **_: Any) -> pa.Table:
        raise ArithmeticError("the worker has a defect")

    def run_wave(function: Callable[..., pa.Table]) -> list[Report]:
        steps = Steps(
            name="read",
            make_plan=lambda: pytest.fail("a wave plans nothing"),
            plan_read=lambda *_: ReadPart(read_failure, 1),
            read_schema=CHUNK_SCHEMA,
            workers=Tasks(find=lambda: function, arguments={}, num_cpus=0.25),
            publish=lambda _: pytest.fail("a wave publishes nothing"),
        )
        work = [ShardWork(shard=InputShard(uri="a.tar", name="a", size_bytes=1, etag="1"))]
        return [report for report in RayCluster().run_chunks(steps, work, 0.0) if report is not None]

    assert run_wave(report_failure) == [failure]
    with pytest.raises(WaveError, match="the worker has a defect"):
        run_wave(raise_error)
