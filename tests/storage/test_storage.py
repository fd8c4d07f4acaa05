"""Behaviour of local disks only, and of S3 with a failing network. Behaviour of all stores: `test_storage_contract`."""

import itertools
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.errors import BucketError, StorageError
from pipeline.storage.listing import find_object, glob_objects, list_folder, list_objects
from pipeline.storage.reading import open_random, open_stream, read_bytes
from pipeline.storage.store_errors import describe_store_failure
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import create_if_absent, delete, put_atomic
from tests.factories import make_certificate
from tests.faulty_network import Fault, FaultyNetwork, HastyS3, OneTryS3, Refusal, use_s3_client


def test_unfinished_files_are_never_listed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-123").write_bytes(b"half")
    assert list_objects(str(tmp_path)) == list_folder(str(tmp_path)) == []


@pytest.mark.parametrize("list_it", [list_objects, list_folder, lambda folder: glob_objects(f"{folder}/*")])
def test_file_deleted_during_a_listing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, list_it: Any
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    is_file = Path.is_file

    def look_and_delete(path: Path) -> Any:
        found = is_file(path)
        if path.name == "a":
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", look_and_delete)
    assert [item.uri for item in list_it(str(tmp_path))] == [str(tmp_path / "b")]


def test_failed_put_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError):
        put_atomic(str(tmp_path / "a"), b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.fixture
def network(s3_folder: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyNetwork]:
    """The emulated S3 behind a network that fails on command."""
    with FaultyNetwork(s3_endpoint) as network, use_s3_client(HastyS3):
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        yield network


OPERATIONS = {
    "put": lambda folder: put_atomic(join_uri(folder, "a"), b"new"),
    "create": lambda folder: create_if_absent(join_uri(folder, "b"), b"new"),
    "read": lambda folder: read_bytes(join_uri(folder, "a")),
    "stream": lambda folder: open_stream(join_uri(folder, "a"), 1).read(),
    "list": lambda folder: list_objects(folder),
    "find": lambda folder: find_object(join_uri(folder, "a")),
    "delete": lambda folder: delete([join_uri(folder, "a")]),
}


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        *itertools.product(OPERATIONS, [Fault.SLOW_DOWN, Fault.RESET, Fault.LOST_REPLY]),
        *((name, Fault.TRUNCATED_REPLY) for name in ("read", "stream", "list", "delete")),
        ("put", Fault.HANG),
        ("stream", Fault.HANG),
    ],
)
def test_operation_survives_a_network_that_fails(
    s3_folder: str, network: FaultyNetwork, operation: Any, fault: Any
) -> None:
    put_atomic(join_uri(s3_folder, "a"), b"old")
    expected = {"read": b"old", "stream": b"ld"}
    num_faults = 1 if fault == Fault.HANG else 2
    # A reply without a body cannot be truncated.
    spared = {"HEAD"} if fault == Fault.TRUNCATED_REPLY else set()
    network.choose = lambda method, path: fault if method not in spared and network.num_faults < num_faults else None
    answer = OPERATIONS[operation](s3_folder)
    assert network.num_faults == num_faults
    network.choose = lambda method, path: None
    stored = {item.uri.rpartition("/")[2]: read_bytes(item.uri) for item in list_objects(s3_folder)}
    assert stored == {
        "put": {"a": b"new"},
        "create": {"a": b"old", "b": b"new"},
        "delete": {},
    }.get(operation, {"a": b"old"})
    assert operation not in expected or answer == expected[operation]


def test_create_if_absent_waits_for_a_write_in_progress(s3_folder: str, network: FaultyNetwork) -> None:
    network.choose = lambda method, path: Fault.CONFLICT if method == "PUT" and network.num_faults < 2 else None
    assert create_if_absent(join_uri(s3_folder, "a"), b"mine")
    assert not create_if_absent(join_uri(s3_folder, "a"), b"theirs")


def test_put_without_a_connection_is_an_error(s3_folder: str, network: FaultyNetwork) -> None:
    network.choose = lambda method, path: Fault.RESET if method == "PUT" else None
    with use_s3_client(OneTryS3), pytest.raises(StorageError, match="run/a' cannot be reached") as caught:
        put_atomic(join_uri(s3_folder, "a"), b"x")
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("open_file", [open_stream, open_random])
def test_error_of_a_broken_stream_contains_its_uri(s3_folder: str, network: FaultyNetwork, open_file: Any) -> None:
    put_atomic(join_uri(s3_folder, "a"), bytes(100))
    with use_s3_client(OneTryS3), closing(open_file(join_uri(s3_folder, "a"))) as stream:
        network.choose = lambda method, path: Fault.RESET if method == "GET" else None
        with pytest.raises(StorageError, match="run/a' cannot be reached"):
            stream.read(10)


def test_part_costs_one_request(s3_folder: str, network: FaultyNetwork) -> None:
    put_atomic(join_uri(s3_folder, "warm"), b"x")
    network.requests.clear()
    put_atomic(join_uri(s3_folder, "a"), bytes(20 * 2**20))
    assert [request.kind for request in network.requests] == ["put"]


def test_credentials_never_show_in_messages(
    s3_folder: str, network: FaultyNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(FileNotFoundError) as caught:
        read_bytes(join_uri(s3_folder, "nothing"))
    assert "hush-hush" not in "".join(traceback.format_exception(caught.value))


def test_upload_over_tls_has_a_length(
    s3_folder: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with FaultyNetwork(s3_endpoint, certificate=certificate) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        put_atomic(join_uri(s3_folder, "a"), b"whole")
        assert create_if_absent(join_uri(s3_folder, "b"), bytes(110 * 2**20))
        delete([join_uri(s3_folder, "b")])
        assert [read_bytes(item.uri) for item in list_objects(s3_folder)] == [b"whole"]
        assert {request.kind for request in network.requests} >= {"put", "get", "list", "delete"}
        assert network.num_without_length == 0


REFUSALS = {
    "AccessDenied (HTTP 403)": Refusal(403, "AccessDenied", None),
    "AccessDenied (HTTP 403): not yours": Refusal(403, "AccessDenied", "not yours"),
    "MissingContentLength (HTTP 411)": Refusal(411, "MissingContentLength", None),
    "SignatureDoesNotMatch (HTTP 403)": Refusal(403, "SignatureDoesNotMatch", ""),
}


def test_refusal_of_a_store_contains_its_code(s3_folder: str, network: FaultyNetwork) -> None:
    for operation, expected in itertools.product(OPERATIONS, REFUSALS):
        network.refusal = REFUSALS[expected]
        with pytest.raises(StorageError) as caught:
            OPERATIONS[operation](s3_folder)
        # A reply to HEAD has no body, and so no code.
        assert expected in str(caught.value) or f"HTTP {network.refusal.status}: " in str(caught.value)
        assert "None" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [OSError(None), OSError(5, None), TimeoutError(), PermissionError("None"), RuntimeError("a: None")]
)
def test_failure_without_a_message_is_described_by_its_type(error: Any) -> None:
    assert describe_store_failure(error) == type(error).__name__


def test_failure_without_a_message_is_described_by_its_cause() -> None:
    error = OSError(None)
    error.__cause__ = ConnectionResetError("peer is gone")
    assert describe_store_failure(error) == "peer is gone"


def test_missing_bucket_is_named_by_every_operation(s3_folder: str, network: FaultyNetwork) -> None:
    for operation, refusal in itertools.product(OPERATIONS, [None, Refusal(404, "NoSuchBucket", None)]):
        network.refusal = refusal
        with pytest.raises(BucketError, match="bucket 'nobody-has-this' of 's3://nobody-has-this/.*create it"):
            OPERATIONS[operation]("s3://nobody-has-this/run")
