"""Outages are waited for, and recognised by their cause; all other errors are raised immediately."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

import botocore.exceptions
import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BucketError, BundleError, ShardError, StorageError
from pipeline.storage.listing import list_objects
from pipeline.storage.outage import Patience, Resumed, is_outage
from pipeline.storage.writing import put_atomic
from tests.faulty_network import Fault, FaultyNetwork


def make_answer(status: Any) -> Any:
    answer = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "PutObject")


def wrap(cause: Any, *types: Any) -> Any:
    """Chain errors of these types to a cause; return the outermost one."""
    error = cause
    for make in types:
        outer = make("wrapped")
        outer.__cause__ = error
        error = outer
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "no space"),
        OSError(errno.EDQUOT, "quota"),
        OSError(errno.ESTALE, "stale handle"),
        ConnectionResetError(),
        TimeoutError(),
        make_answer(500),
        make_answer(503),
        make_answer(429),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://a"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://a"),
    ],
)
def test_temporary_failure_is_an_outage_however_it_is_wrapped(error: Any) -> None:
    assert is_outage(error)
    assert is_outage(wrap(error, StorageError))
    assert is_outage(wrap(error, OSError, StorageError, ShardError))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "no such bucket"),
        PermissionError(errno.EACCES, "denied"),
        NotADirectoryError(errno.ENOTDIR, "a file"),
        OSError(errno.EINVAL, "bad name"),
        OSError(errno.EROFS, "read-only"),
        OSError("Corrupt snappy compressed data"),
        make_answer(400),
        make_answer(403),
        make_answer(404),
        make_answer(411),
        botocore.exceptions.NoCredentialsError(),
        BundleError("damaged"),
        ValueError("a defect"),
        ImportError("no such store"),
    ],
)
def test_permanent_failure_is_not_an_outage(error: Any) -> None:
    assert not is_outage(error)
    assert not is_outage(wrap(error, StorageError))


@pytest.mark.parametrize(("code", "status", "passes"), [("UserSuspended", 403, False), ("QuotaExceeded", 403, True)])
def test_response_of_a_server_decides_before_the_exception_of_its_client(code: str, status: int, passes: bool) -> None:
    answer = botocore.exceptions.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )
    # s3fs makes an EIO of each code it does not know.
    error = OSError(errno.EIO, code)
    error.__cause__ = answer
    assert is_outage(wrap(error, StorageError)) == passes


def test_errors_that_are_their_own_causes_are_judged() -> None:
    first, second = OSError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_outage(first)


def test_operation_is_retried_until_the_outage_ends_and_the_waits_are_reported() -> None:
    reported, answers = [], [OSError(errno.ENOSPC, "no space left"), ConnectionRefusedError("refused"), "done"]

    def operate() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Patience(limit_s=60.0, on_wait=reported.append).call(operate) == "done"
    assert [line and line.split(" (for")[0] for line in reported] == ["[Errno 28] no space left", "refused", None]


@pytest.mark.parametrize("error", [PermissionError("denied"), ValueError("defect"), BundleError("damaged")])
def test_error_other_than_an_outage_is_raised_immediately(error: Any) -> None:
    calls = []

    def operate() -> Never:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        Patience(limit_s=60.0).call(operate)
    assert len(calls) == 1


def test_outage_beyond_the_limit_is_raised_unchanged() -> None:
    with pytest.raises(ConnectionRefusedError):
        Patience(limit_s=0.0).call(raise_refusal)


def test_wait_ends_on_a_stop() -> None:
    stop = threading.Event()
    patience = Patience(limit_s=3600.0, stop=stop, on_wait=lambda what: stop.set())
    started_s = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        patience.call(raise_refusal)
    assert time.monotonic() - started_s < 60


def raise_refusal() -> Never:
    raise ConnectionRefusedError("refused")


@given(st.lists(st.integers(), max_size=20), st.sets(st.integers(0, 19)))
def test_iterator_that_fails_anywhere_continues_after_its_last_item(items: list[int], failures: Any) -> None:
    items = list(enumerate(items))
    left = set(failures)

    def start(last: Any) -> Iterator[Any]:
        for item in items[0 if last is None else last[0] + 1 :]:
            if item[0] in left:
                left.discard(item[0])
                raise ConnectionResetError
            yield item

    resumed, given_items = Resumed(start), []
    while True:
        try:
            item = resumed.advance()
        except ConnectionResetError:
            continue
        if item is None:
            break
        given_items.append(item)
    assert given_items == items


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.RESET])
def test_error_of_a_real_client_in_an_outage_is_an_outage(
    s3_folder: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    # One attempt per call keeps the test short.
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    with FaultyNetwork(s3_endpoint, choose=lambda method, path: fault) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        for operate in (lambda: put_atomic(f"{s3_folder}/a", b"1"), lambda: list_objects(s3_folder)):
            with pytest.raises(StorageError) as raised:
                operate()
            assert is_outage(raised.value)


def test_error_of_a_real_client_for_a_missing_bucket_is_not_an_outage(s3_folder: str) -> None:
    with pytest.raises(BucketError) as raised:
        put_atomic("s3://no-such-bucket-here/a", b"1")
    assert not is_outage(raised.value)


def test_error_of_a_full_disk_contains_the_file_and_the_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: Any) -> Never:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(
        StorageError, match=r"new/a' cannot be written: No space left on device, \d+ of \d+ bytes"
    ) as raised:
        put_atomic(str(tmp_path / "new" / "a"), b"1")
    assert is_outage(raised.value)
