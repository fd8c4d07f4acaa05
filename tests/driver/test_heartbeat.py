"""The sign of life of a driver."""

import pytest

from pipeline.driver.heartbeat import LOOK_PERIOD_S, MAX_SILENCE_S, PERIOD_S, Driver, Heartbeat
from pipeline.storage.storage import exists, join_uri, put_atomic


class Clock:
    """A clock that stands still until it is moved."""

    now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture
def make_heartbeat(tmp_path):
    clock = Clock()

    def make(pid):
        return Heartbeat(str(tmp_path), Driver(host="node-1", pid=pid, started_s=1.0), clock)

    make.clock = clock
    return make


def test_driver_alone_is_not_warned_and_leaves_nothing(make_heartbeat, tmp_path):
    heartbeat = make_heartbeat(1)
    for _ in range(5):
        assert heartbeat.beat() is None
        make_heartbeat.clock.now += PERIOD_S
    heartbeat.end()
    assert list(tmp_path.iterdir()) == []


def test_both_of_two_drivers_are_warned_once(make_heartbeat):
    first, second = make_heartbeat(1), make_heartbeat(2)
    warnings = []
    for _ in range(4):
        warnings += [first.beat(), second.beat()]
        make_heartbeat.clock.now += PERIOD_S
    assert [bool(warning) for warning in warnings] == [False, True, True, False, False, False, False, False]
    assert "process 1 on node-1" in warnings[1]


def test_drivers_that_start_at_the_same_moment_are_told_within_seconds(make_heartbeat, tmp_path):
    first, second = make_heartbeat(1), make_heartbeat(2)
    sign = tmp_path / "driver.json"
    first.beat()
    # The second one looked before the first one wrote, and wrote after it.
    sign.rename(tmp_path / "aside")
    assert second.beat() is None
    make_heartbeat.clock.now += LOOK_PERIOD_S
    assert "process 2 on node-1" in first.beat()
    assert second.beat() is None


def test_driver_that_was_killed_long_ago_is_not_mentioned(make_heartbeat):
    make_heartbeat(1).beat()
    make_heartbeat.clock.now += MAX_SILENCE_S
    assert make_heartbeat(2).beat() is None


def test_end_leaves_the_sign_of_another_driver(make_heartbeat, tmp_path):
    first, second = make_heartbeat(1), make_heartbeat(2)
    first.beat()
    second.beat()
    first.end()
    assert exists(join_uri(str(tmp_path), "driver.json"))
    second.end()
    assert not exists(join_uri(str(tmp_path), "driver.json"))


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"pid": 1}', b'{"beat_s": "x"}', b"\xff"])
def test_damaged_sign_decides_nothing(make_heartbeat, tmp_path, payload):
    put_atomic(join_uri(str(tmp_path), "driver.json"), payload)
    assert make_heartbeat(1).beat() is None


def test_heartbeat_is_due_only_when_the_store_would_be_asked(tmp_path):
    now = [1000.0]
    heartbeat = Heartbeat(str(tmp_path), Driver(host="a", pid=1, started_s=1.0), clock=lambda: now[0])
    assert heartbeat.is_due
    heartbeat.beat()
    assert not heartbeat.is_due
    now[0] += LOOK_PERIOD_S
    assert heartbeat.is_due
