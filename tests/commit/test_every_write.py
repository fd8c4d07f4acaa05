"""Every write of a run, crashed: before it, after it, and with its reply lost. The same command mends all of them."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.driver.totals import RunSummary
from tests.fakes import CrashError, FaultyStore, SerialCluster
from tests.small_run import read_all

OUT = "faulty://out"
NUM_WRITES = 17
"""run.json, a heartbeat, 3 parts and their deletion and a manifest for each of 2 shards, and the heartbeat's end.
Checked below: a new kind of write changes it, and then is crashed too."""


@pytest.fixture(scope="module")
def clean(label_small_run: Callable[..., RunSummary]) -> tuple[Any, list[Any], dict[str, bytes]]:
    """A run that nothing disturbs: what it did, the names of its writes, and what it leaves behind."""
    FaultyStore.reset()
    summary = label_small_run(OUT)
    return summary, list(FaultyStore.writes), read_all(OUT)


def test_clean_run_writes_what_the_protocol_says(clean: tuple[Any, list[Any], dict[str, bytes]]) -> None:
    summary, writes, files = clean
    assert (summary.num_sealed, summary.num_chunks, summary.failed_shards) == (2, 6, {})
    assert sorted(files) == ["/labels/photos-0.parquet", "/labels/photos-1.parquet", "/run.json"]
    assert len(writes) == NUM_WRITES
    assert [writes[0].rpartition("/")[2], writes[1].rpartition("/")[2]] == ["run.json", "driver.json"]


def crash_before(number: int, name: str, wanted: Any) -> None:
    if number == wanted:
        raise CrashError(name)


def lose_reply(number: int, name: str, wanted: Any) -> None:
    if number == wanted:
        raise ConnectionResetError(f"reply to the write of {name} lost")


@pytest.mark.parametrize("number", range(NUM_WRITES))
@pytest.mark.parametrize("fault", ["crash_before", "crash_after", "lost_reply", "failed_write"])
def test_run_resumes_after_a_fault_at_any_write_with_the_same_bytes(
    label_small_run: Callable[..., RunSummary],
    clean: tuple[Any, list[Any], dict[str, bytes]],
    faulty_uri: str,
    fault: str,
    number: int,
) -> None:
    _, _, expected = clean
    disturb = crash_before if fault.startswith("crash") else lose_reply
    moment = "before_write" if fault in ("crash_before", "failed_write") else "after_write"
    setattr(FaultyStore, moment, staticmethod(lambda count, name: disturb(count, name, number)))
    first = SerialCluster()
    with contextlib.suppress(CrashError, OSError):
        label_small_run(OUT, first)
    FaultyStore.heal()
    second = SerialCluster()
    summary = label_small_run(OUT, second)
    assert summary.num_shards_left == 0
    assert read_all(OUT) == expected
    # What is done twice is what was in flight: the one chunk whose commit was disturbed.
    assert len(first.labelled) + len(second.labelled) <= 6 + 1


def test_run_survives_five_crashes_one_after_the_other(
    label_small_run: Callable[..., RunSummary], clean: tuple[Any, list[Any], dict[str, bytes]], faulty_uri: str
) -> None:
    _, _, expected = clean
    for number in (4, 2, 3, 5, 1):
        FaultyStore.heal()
        FaultyStore.after_write = staticmethod(lambda count, name, n=number: crash_before(count, name, n))
        with pytest.raises(CrashError):
            label_small_run(OUT)
    FaultyStore.heal()
    label_small_run(OUT)
    assert read_all(OUT) == expected


@pytest.mark.parametrize("number", range(NUM_WRITES))
def test_two_drivers_leave_what_one_leaves(
    label_small_run: Callable[..., RunSummary],
    clean: tuple[Any, list[Any], dict[str, bytes]],
    faulty_uri: str,
    number: int,
) -> None:
    """The second driver does the whole run between two writes of the first, wherever that is."""
    _, _, expected = clean
    warnings: list[Any] = []

    def let_the_other_run(count: Any, name: str) -> None:
        if count == number:
            FaultyStore.before_write = staticmethod(lambda count, name: None)
            label_small_run(OUT, on_warning=warnings.append)

    FaultyStore.before_write = staticmethod(let_the_other_run)
    summary = label_small_run(OUT)
    assert (summary.failed_shards, summary.num_shards_left) == ({}, 0)
    left = read_all(OUT)
    leftovers = {name for name in left if name.startswith("/parts/")}
    assert {name: data for name, data in left.items() if name not in leftovers} == expected
    label_small_run(OUT)
    assert read_all(OUT) == expected


def test_second_driver_warns_of_the_first(label_small_run: Callable[..., RunSummary], faulty_uri: str) -> None:
    warnings: list[Any] = []

    def let_the_other_run(count: Any, name: str) -> None:
        if count == 4:
            label_small_run(OUT, on_warning=warnings.append)

    FaultyStore.after_write = staticmethod(let_the_other_run)
    label_small_run(OUT)
    assert len(warnings) == 1
    assert "another driver (process" in warnings[0]
    assert "stop one of them" in warnings[0]
