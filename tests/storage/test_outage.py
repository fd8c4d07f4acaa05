"""Outages are told from refusals by their cause, and waited for; everything else is raised at once."""

import errno
import os
import threading
import time

import botocore.exceptions
import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BucketError, BundleError, ShardError, StorageError
from pipeline.storage.outage import Patience, Resumed, is_outage
from pipeline.storage.storage import list_objects, put_atomic
from tests.faulty_network import Fault, FaultyNetwork


def make_answer(status):
    answer = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "PutObject")


def wrap(cause, *types):
    """Raise errors from one another, the cause first."""
    error = cause
    for make in types:
        outer = make("told")
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
def test_what_passes_is_an_outage_however_it_is_wrapped(error):
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
def test_what_does_not_pass_is_no_outage(error):
    assert not is_outage(error)
    assert not is_outage(wrap(error, StorageError))


@pytest.mark.parametrize(("code", "status", "passes"), [("UserSuspended", 403, False), ("QuotaExceeded", 403, True)])
def test_answer_of_a_server_counts_more_than_what_its_client_made_of_it(code, status, passes):
    answer = botocore.exceptions.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )
    # s3fs makes an EIO of each code it does not know.
    error = OSError(errno.EIO, code)
    error.__cause__ = answer
    assert is_outage(wrap(error, StorageError)) == passes


def test_errors_that_are_their_own_causes_are_judged():
    first, second = OSError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_outage(first)


def test_operation_is_called_until_the_outage_is_over_and_the_wait_is_told():
    told, answers = [], [OSError(errno.ENOSPC, "no space left"), ConnectionRefusedError("refused"), "done"]

    def operate():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Patience(limit_s=60.0, on_wait=told.append).call(operate) == "done"
    assert [line and line.split(" (for")[0] for line in told] == ["[Errno 28] no space left", "refused", None]


@pytest.mark.parametrize("error", [PermissionError("denied"), ValueError("defect"), BundleError("damaged")])
def test_what_is_no_outage_is_raised_at_once(error):
    calls = []

    def operate():
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        Patience(limit_s=60.0).call(operate)
    assert len(calls) == 1


def test_outage_that_lasts_too_long_is_raised_as_it_is():
    with pytest.raises(ConnectionRefusedError):
        Patience(limit_s=0.0).call(raise_refusal)


def test_wait_ends_when_a_stop_is_asked_for():
    stop = threading.Event()
    patience = Patience(limit_s=3600.0, stop=stop, on_wait=lambda what: stop.set())
    started_s = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        patience.call(raise_refusal)
    assert time.monotonic() - started_s < 60


def raise_refusal():
    raise ConnectionRefusedError("refused")


@given(st.lists(st.integers(), max_size=20), st.sets(st.integers(0, 19)))
def test_iterator_that_fails_anywhere_goes_on_behind_its_last_item(items, failures):
    items = list(enumerate(items))
    left = set(failures)

    def start(last):
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
def test_what_a_real_client_raises_in_an_outage_is_told_as_one(s3_folder, s3_endpoint, monkeypatch, fault):
    # One try of each call, so that the test is short.
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    with FaultyNetwork(s3_endpoint, choose=lambda method, path: fault) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        for operate in (lambda: put_atomic(f"{s3_folder}/a", b"1"), lambda: list_objects(s3_folder)):
            with pytest.raises(StorageError) as raised:
                operate()
            assert is_outage(raised.value)


def test_what_a_real_client_raises_of_a_bucket_that_is_not_there_is_no_outage(s3_folder):
    with pytest.raises(BucketError) as raised:
        put_atomic("s3://no-such-bucket-here/a", b"1")
    assert not is_outage(raised.value)


def test_full_disk_tells_what_is_written_and_how_much_is_free(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(
        StorageError, match=r"new/a' cannot be written: No space left on device, \d+ of \d+ bytes"
    ) as raised:
        put_atomic(str(tmp_path / "new" / "a"), b"1")
    assert is_outage(raised.value)
