"""Reads that kill their process: real child processes die, and earlier items are kept."""

import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from pipeline.errors import ShardError, StorageError
from pipeline.storage.outage import is_outage
from pipeline.workers.attempts import MAX_DEATHS, MAX_DEATHS_IN_ALL, AttemptCounter
from pipeline.workers.guarded_reads import read_guarded

URI = "s3://bucket/a.tar"


def read_numbers(end: Any = None) -> Iterator[Any]:
    yield from range(3)
    if end == "unportable":
        raise UnportableError("one", "two")
    if end == "outage":
        raise StorageError("such a store") from ConnectionResetError()
    if isinstance(end, Exception):
        raise end
    if end is not None:
        signal.raise_signal(end)
    yield "last"


class UnportableError(Exception):
    """Cannot be rebuilt from its own arguments."""

    def __init__(self, one: Any, two: Any) -> None:
        super().__init__(f"{one} and {two}")


def count_deaths(number: int) -> Any:
    attempts = AttemptCounter()
    for _ in range(number):
        attempts.begin(f"read {URI}")
    return attempts


def read(num_deaths: int, end: Any = None) -> Any:
    """Read the items; return them and the error at their end."""
    items = []
    try:
        for item in read_guarded(URI, partial(read_numbers, end), count_deaths(num_deaths)):
            items.append(item)
    except Exception as error:  # noqa: BLE001 (any error is returned)
        return items, error
    return items, None


@pytest.mark.parametrize("num_deaths", [0, MAX_DEATHS - 1, MAX_DEATHS, MAX_DEATHS_IN_ALL - 1])
def test_shard_yields_the_same_items_after_any_number_of_deaths(num_deaths: Any) -> None:
    assert read(num_deaths) == ([0, 1, 2, "last"], None)


@pytest.mark.parametrize("end", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_shard_that_also_kills_the_child_yields_earlier_items_and_fails_by_name(end: Any) -> None:
    items, error = read(MAX_DEATHS, end)
    assert items == [0, 1, 2]
    assert isinstance(error, ShardError)
    assert str(error).startswith(f"shard '{URI}' cannot be read: it ends the processes that read it (signal {end.name}")


@pytest.mark.parametrize("num_deaths", [0, MAX_DEATHS])
@pytest.mark.parametrize("end", [ShardError("such a shard"), StorageError("such a store"), PermissionError(13, "no")])
def test_errors_pass_through_a_child_process_unchanged(num_deaths: Any, end: Any) -> None:
    items, error = read(num_deaths, end)
    assert (items, type(error), str(error)) == ([0, 1, 2], type(end), str(end))


def test_outage_in_a_child_process_is_an_outage_and_not_a_death() -> None:
    attempts = count_deaths(MAX_DEATHS)
    for _ in range(2):
        with pytest.raises(StorageError, match="such a store") as raised:
            list(read_guarded(URI, partial(read_numbers, "outage"), attempts))
        assert is_outage(raised.value)
    assert attempts.begin(f"read {URI}") == MAX_DEATHS


def test_error_that_cannot_be_pickled_keeps_its_text() -> None:
    items, error = read(MAX_DEATHS, "unportable")
    assert (items, str(error)) == ([0, 1, 2], "UnportableError: one and two")


def test_shard_with_too_many_deaths_is_not_read() -> None:
    items, error = read(MAX_DEATHS_IN_ALL)
    assert items == []
    assert isinstance(error, ShardError)


def test_only_an_unfinished_read_is_a_death() -> None:
    attempts = AttemptCounter()
    list(read_guarded(URI, read_numbers, attempts))
    with pytest.raises(ShardError):
        list(read_guarded(URI, partial(read_numbers, ShardError("such a shard")), attempts))
    given_up = read_guarded(URI, read_numbers, attempts)
    next(given_up)
    given_up.close()
    assert attempts.begin(f"read {URI}") == 0


def test_replayed_task_reads_its_shard_in_a_child_process_again() -> None:
    attempts = count_deaths(MAX_DEATHS)
    for _ in range(2):
        with pytest.raises(ShardError, match="SIGSEGV"):
            list(read_guarded(URI, partial(read_numbers, signal.SIGSEGV), attempts))
