"""The heartbeat of a driver."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import pytest

from pipeline.driver.heartbeat import LOOK_PERIOD_S, MAX_SILENCE_S, PERIOD_S, Driver, Heartbeat
from pipeline.driver.silence import WaitNotices
from pipeline.storage.listing import exists
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.fakes import FaultyStore


class Clock:
    """A clock that stands still until it is moved."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


class Beating:
    """A heartbeat with the warnings of its driver."""

    def __init__(self, out_uri: Any, pid: int, clock: Any) -> None:
        self.warnings: list[str] = []
        notices = WaitNotices(self.warnings.append, clock)
        self.heartbeat = Heartbeat(out_uri, notices, Driver(host="node-1", pid=pid, started_s=1.0), clock)

    def beat(self) -> Any:
        """Write the heartbeat; return the warnings that this caused."""
        before = len(self.warnings)
        self.heartbeat.beat()
        return self.warnings[before:]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_heartbeat(tmp_path: Path, clock: Clock) -> Callable[..., Any]:
    return lambda pid, out_uri=tmp_path: Beating(str(out_uri), pid, clock)


def test_single_driver_is_not_warned_and_leaves_nothing(
    make_heartbeat: Callable[..., Any], clock: Clock, tmp_path: Path
) -> None:
    driver = make_heartbeat(1)
    for _ in range(5):
        assert driver.beat() == []
        clock.now += PERIOD_S
    driver.heartbeat.end()
    assert list(tmp_path.iterdir()) == []


def test_both_of_two_drivers_are_warned_once(make_heartbeat: Callable[..., Any], clock: Clock) -> None:
    first, second = make_heartbeat(1), make_heartbeat(2)
    warnings = []
    for _ in range(4):
        warnings += [first.beat(), second.beat()]
        clock.now += PERIOD_S
    assert [len(warning) for warning in warnings] == [0, 1, 1, 0, 0, 0, 0, 0]
    assert "process 1 on node-1" in warnings[1][0]


def test_drivers_that_start_at_the_same_moment_are_warned_within_seconds(
    make_heartbeat: Callable[..., Any], clock: Clock, tmp_path: Path
) -> None:
    first, second = make_heartbeat(1), make_heartbeat(2)
    file = tmp_path / "driver.json"
    first.beat()
    # The second one looked before the first one wrote, and wrote after it.
    file.rename(tmp_path / "aside")
    assert second.beat() == []
    clock.now += LOOK_PERIOD_S
    (warning,) = first.beat()
    assert "process 2 on node-1" in warning
    assert second.beat() == []


def test_driver_that_was_killed_long_ago_is_not_mentioned(make_heartbeat: Callable[..., Any], clock: Clock) -> None:
    make_heartbeat(1).beat()
    clock.now += MAX_SILENCE_S
    assert make_heartbeat(2).beat() == []


def test_end_keeps_the_heartbeat_of_another_driver(make_heartbeat: Callable[..., Any], tmp_path: Path) -> None:
    first, second = make_heartbeat(1), make_heartbeat(2)
    first.beat()
    second.beat()
    first.heartbeat.end()
    assert exists(join_uri(str(tmp_path), "driver.json"))
    second.heartbeat.end()
    assert not exists(join_uri(str(tmp_path), "driver.json"))


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"pid": 1}', b'{"beat_s": "x"}', b"\xff"])
def test_damaged_heartbeat_is_ignored(make_heartbeat: Callable[..., Any], tmp_path: Path, payload: bytes) -> None:
    put_atomic(join_uri(str(tmp_path), "driver.json"), payload)
    assert make_heartbeat(1).beat() == []


def test_store_is_asked_only_when_a_look_is_due(
    make_heartbeat: Callable[..., Any], clock: Clock, tmp_path: Path
) -> None:
    first = make_heartbeat(1)
    first.beat()
    make_heartbeat(2).beat()
    clock.now += LOOK_PERIOD_S / 2
    assert first.beat() == []
    clock.now += LOOK_PERIOD_S / 2
    assert len(first.beat()) == 1


def test_store_that_fails_is_a_warning_until_it_is_back(
    make_heartbeat: Callable[..., Any], clock: Clock, faulty_uri: str
) -> None:
    driver = make_heartbeat(1, faulty_uri)

    def refuse(number: int, name: str) -> Never:
        raise OSError("no route to host")

    FaultyStore.before_write = staticmethod(refuse)
    (warning,) = driver.beat()
    assert "the heartbeat cannot be written" in warning
    FaultyStore.heal()
    clock.now += PERIOD_S
    assert "resumed after a wait" in driver.beat()[0]
