"""What a driver makes of silence: it looks, warns of waits, and ends a wave only when no wait explains the silence."""

from typing import Any

import pytest

from pipeline.driver.cluster import Resources, WaveState
from pipeline.driver.silence import (
    LOOK_PERIOD_S,
    NOTICE_PERIOD_S,
    START_TIMEOUT_S,
    SilenceError,
    SilenceWatch,
    WaitNotices,
)
from pipeline.workers.pulse import Beat
from tests.fakes import SerialCluster

LIMIT_S = 300.0
FREE = Resources(asked={"GPU": 1.0, "CPU": 1.0}, free={"GPU": 2.0, "CPU": 4.0}, largest={"GPU": 1.0, "CPU": 4.0})


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class SeenEngine(SerialCluster):
    """An cluster of which the tests say what is seen."""

    signs = WaveState()

    def look(self) -> Any:
        return self.signs


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def warnings() -> list[Any]:
    return []


@pytest.fixture
def watch(clock: Clock, warnings: list[Any]) -> Any:
    notices = WaitNotices(warnings.append, clock)
    return SilenceWatch(cluster=SeenEngine(), limit_s=LIMIT_S, notices=notices, clock=clock)


def pass_time(watch: Any, clock: Any, seconds: float) -> None:
    for _ in range(round(seconds / LOOK_PERIOD_S)):
        clock.now_s += LOOK_PERIOD_S
        watch.look()


def test_wave_that_nothing_is_heard_of_ends_with_what_was_seen(watch: Any, clock: Clock) -> None:
    watch.cluster.signs = WaveState(num_actors=4, num_alive=3, resources=FREE)
    pass_time(watch, clock, LIMIT_S - LOOK_PERIOD_S)
    with pytest.raises(SilenceError) as raised:
        pass_time(watch, clock, LOOK_PERIOD_S)
    assert "for 300 s: 3 of 4 labelling actors alive; no report of any worker" in str(raised.value)
    assert "GPU: 1 asked for one worker, 2 free" in str(raised.value)
    assert not raised.value.may_be_others


def test_actors_that_start_may_take_longer_than_those_that_run(watch: Any, clock: Clock) -> None:
    watch.cluster.signs = WaveState(num_actors=4, num_alive=0, resources=FREE)
    pass_time(watch, clock, START_TIMEOUT_S - LOOK_PERIOD_S)
    with pytest.raises(SilenceError, match="for 600 s: 0 of 4 labelling actors alive"):
        pass_time(watch, clock, LOOK_PERIOD_S)


def test_chunks_that_come_keep_a_wave_alive(watch: Any, clock: Clock) -> None:
    for _ in range(5):
        pass_time(watch, clock, LIMIT_S - LOOK_PERIOD_S)
        watch.hear()


def test_worker_that_is_busy_keeps_a_wave_alive_and_one_that_was_does_not(watch: Any, clock: Clock) -> None:
    watch.cluster.signs = WaveState(beats={"a:1": Beat(2.0, "reading 'a.tar'", None)}, num_alive=1, resources=FREE)
    pass_time(watch, clock, 10 * LIMIT_S)
    watch.cluster.signs = WaveState(beats={"a:1": Beat(900.0, "reading 'a.tar'", None)}, num_alive=1, resources=FREE)
    with pytest.raises(SilenceError, match=r"the last report 900 s ago \(reading 'a.tar'\)"):
        pass_time(watch, clock, LIMIT_S + LOOK_PERIOD_S)


def test_gpus_that_the_cluster_does_not_have_yet_are_waited_for_and_told(
    watch: Any, clock: Clock, warnings: list[Any]
) -> None:
    none = Resources(asked={"GPU": 1.0}, free={"GPU": 0.0}, largest={"GPU": 0.0})
    watch.cluster.signs = WaveState(num_actors=2, resources=none)
    pass_time(watch, clock, 10 * LIMIT_S)
    wanted = "waiting: no worker can start: it asks for 1 GPU, and no node of the cluster has more than 0"
    assert set(warnings) == {wanted}
    assert len(warnings) <= 10 * LIMIT_S / NOTICE_PERIOD_S + 1


def test_resources_that_others_hold_are_told_and_the_wave_is_tried_again_later(
    watch: Any, clock: Clock, warnings: list[Any]
) -> None:
    taken = Resources(asked={"CPU": 2.0}, free={"CPU": 0.5}, largest={"CPU": 4.0})
    watch.cluster.signs = WaveState(num_actors=2, resources=taken)
    with pytest.raises(SilenceError) as raised:
        pass_time(watch, clock, START_TIMEOUT_S)
    assert raised.value.may_be_others
    assert warnings[0] == "waiting: no worker can start: it asks for 2 CPU, and 0.5 are free in the cluster"


def test_tasks_that_hold_what_is_taken_themselves_are_no_fault_of_others(watch: Any, clock: Clock) -> None:
    taken = Resources(asked={"CPU": 1.0}, free={"CPU": 0.0}, largest={"CPU": 4.0})
    beat = Beat(2.0, "making masks of a/000003", None)
    watch.cluster.signs = WaveState(beats={"a:1": beat}, resources=taken)
    pass_time(watch, clock, LIMIT_S)
    watch.cluster.signs = WaveState(beats={"a:1": beat._replace(age_s=600.0)}, resources=taken)
    with pytest.raises(SilenceError) as raised:
        pass_time(watch, clock, LIMIT_S + LOOK_PERIOD_S)
    assert not raised.value.may_be_others


def test_actors_that_leave_no_cpu_to_readers_are_no_fault_of_others(watch: Any, clock: Clock) -> None:
    taken = Resources(asked={"CPU": 0.5}, free={"CPU": 0.0}, largest={"CPU": 4.0})
    watch.cluster.signs = WaveState(num_actors=4, num_alive=4, resources=taken)
    with pytest.raises(SilenceError) as raised:
        pass_time(watch, clock, LIMIT_S)
    assert not raised.value.may_be_others


def test_wait_for_a_store_is_told_at_once_every_minute_and_when_it_is_over(
    watch: Any, clock: Clock, warnings: list[Any]
) -> None:
    beat = Beat(1.0, "committing a/000003", "'s3://b/k' cannot be reached: refused")
    watch.cluster.signs = WaveState(beats={"a:1": beat, "b:2": beat}, num_alive=2, resources=FREE)
    pass_time(watch, clock, LOOK_PERIOD_S)
    assert warnings == ["waiting: 2 workers wait for a store: 's3://b/k' cannot be reached: refused"]
    # Chunks of other workers are no end of it.
    for _ in range(24):
        pass_time(watch, clock, LOOK_PERIOD_S)
        watch.hear()
    assert len(warnings) == 3
    watch.cluster.signs = WaveState(beats={"a:1": beat._replace(waiting_for=None)}, num_alive=2, resources=FREE)
    watch.hear()
    pass_time(watch, clock, 2 * LOOK_PERIOD_S)
    assert warnings[3:] == ["resumed after a wait of 125 s"]
