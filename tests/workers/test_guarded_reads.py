"""Reading that kills processes: real children that really die, and what was read before is given as ever."""

import os
import signal
from functools import partial

import pytest

from pipeline.errors import ShardError, StorageError
from pipeline.storage.outage import is_outage
from pipeline.workers.attempts import MAX_DEATHS, MAX_DEATHS_IN_ALL, AttemptCounter
from pipeline.workers.guarded_reads import read_guarded

URI = "s3://bucket/a.tar"


def read_numbers(end=None):
    yield from range(3)
    if end == "unportable":
        raise UnportableError("one", "two")
    if end == "outage":
        raise StorageError("such a store") from ConnectionResetError()
    if isinstance(end, Exception):
        raise end
    if end is not None:
        os.kill(os.getpid(), end)
    yield "last"


class UnportableError(Exception):
    """Cannot be made again from its own arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def count_deaths(number):
    attempts = AttemptCounter()
    for _ in range(number):
        attempts.begin(f"read {URI}")
    return attempts


def read(num_deaths, end=None):
    """Give what was read, and the error that ended it."""
    items = []
    try:
        for item in read_guarded(URI, partial(read_numbers, end), count_deaths(num_deaths)):
            items.append(item)
    except Exception as error:  # noqa: BLE001 (any error is what is looked at)
        return items, error
    return items, None


@pytest.mark.parametrize("num_deaths", [0, MAX_DEATHS - 1, MAX_DEATHS, MAX_DEATHS_IN_ALL - 1])
def test_shard_gives_the_same_items_however_many_processes_died_with_it(num_deaths):
    assert read(num_deaths) == ([0, 1, 2, "last"], None)


@pytest.mark.parametrize("end", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_shard_that_kills_the_child_too_gives_what_came_before_and_fails_by_name(end):
    items, error = read(MAX_DEATHS, end)
    assert items == [0, 1, 2]
    assert isinstance(error, ShardError)
    assert str(error).startswith(f"shard '{URI}' cannot be read: it ends the processes that read it (signal {end.name}")


@pytest.mark.parametrize("num_deaths", [0, MAX_DEATHS])
@pytest.mark.parametrize("end", [ShardError("such a shard"), StorageError("such a store"), PermissionError(13, "no")])
def test_errors_come_through_a_child_process_as_they_are(num_deaths, end):
    items, error = read(num_deaths, end)
    assert (items, type(error), str(error)) == ([0, 1, 2], type(end), str(end))


def test_outage_that_a_child_process_meets_is_told_as_one_and_is_no_death():
    attempts = count_deaths(MAX_DEATHS)
    for _ in range(2):
        with pytest.raises(StorageError, match="such a store") as raised:
            list(read_guarded(URI, partial(read_numbers, "outage"), attempts))
        assert is_outage(raised.value)
    assert attempts.begin(f"read {URI}") == MAX_DEATHS


def test_error_that_cannot_travel_is_told_in_its_words():
    items, error = read(MAX_DEATHS, "unportable")
    assert (items, str(error)) == ([0, 1, 2], "UnportableError: one and two")


def test_shard_with_which_processes_die_for_ever_is_not_read_at_all():
    items, error = read(MAX_DEATHS_IN_ALL)
    assert items == []
    assert isinstance(error, ShardError)


def test_only_what_did_not_end_is_a_death():
    attempts = AttemptCounter()
    list(read_guarded(URI, read_numbers, attempts))
    with pytest.raises(ShardError):
        list(read_guarded(URI, partial(read_numbers, ShardError("such a shard")), attempts))
    given_up = read_guarded(URI, read_numbers, attempts)
    next(given_up)
    given_up.close()
    assert attempts.begin(f"read {URI}") == 0


def test_shard_that_was_read_in_a_child_process_is_read_so_again_when_its_task_is_replayed():
    attempts = count_deaths(MAX_DEATHS)
    for _ in range(2):
        with pytest.raises(ShardError, match="SIGSEGV"):
            list(read_guarded(URI, partial(read_numbers, signal.SIGSEGV), attempts))
