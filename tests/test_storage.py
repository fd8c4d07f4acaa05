"""What only a local disk does, and what S3 does when its network fails. What every store does: `contracts/`."""

import itertools
import pickle
import subprocess
import sys
import traceback
from contextlib import closing
from pathlib import Path

import fsspec
import pyarrow.fs
import pytest

from pipeline import storage, stored_objects
from pipeline.errors import StorageError
from pipeline.storage import (
    create_if_absent,
    delete,
    find_object,
    glob_objects,
    join_uri,
    list_folder,
    list_objects,
    open_for_ray,
    open_random,
    open_stream,
    put_atomic,
    read_bytes,
)
from tests.fakes import Fault, FaultyNetwork

ROOT = Path(__file__).parents[1]


def test_unfinished_files_are_never_listed(tmp_path):
    (tmp_path / ".tmp-123").write_bytes(b"half")
    assert list_objects(str(tmp_path)) == list_folder(str(tmp_path)) == []


@pytest.mark.parametrize("list_it", [list_objects, list_folder, lambda folder: glob_objects(f"{folder}/*")])
def test_file_that_goes_while_it_is_listed_is_left_out(tmp_path, monkeypatch, list_it):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    describe = stored_objects.describe_local

    def delete_and_describe(uri, path):
        if path.name == "a":
            path.unlink()
        return describe(uri, path)

    monkeypatch.setattr(stored_objects, "describe_local", delete_and_describe)
    assert [item.uri for item in list_it(str(tmp_path))] == [str(tmp_path / "b")]


def test_failed_put_leaves_nothing_behind(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError):
        put_atomic(str(tmp_path / "a"), b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.fixture
def network(s3_folder, s3_endpoint, monkeypatch):
    """The pretended S3 behind a network that fails on command."""
    hasty = storage.S3_OPTIONS["config_kwargs"] | {"read_timeout": 5}
    monkeypatch.setattr(storage, "S3_OPTIONS", {"config_kwargs": hasty})
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with FaultyNetwork(s3_endpoint) as network:
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
        *((name, Fault.CUT_REPLY) for name in ("read", "stream", "list", "delete")),
        ("put", Fault.HANG),
        ("stream", Fault.HANG),
    ],
)
def test_operation_survives_a_network_that_fails(s3_folder, network, operation, fault):
    put_atomic(join_uri(s3_folder, "a"), b"old")
    expected = {"read": b"old", "stream": b"ld"}
    num_faults = 1 if fault == Fault.HANG else 2
    # A reply without a body cannot break off in it.
    spared = {"HEAD"} if fault == Fault.CUT_REPLY else set()
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


def test_create_if_absent_waits_for_a_write_under_way(s3_folder, network):
    network.choose = lambda method, path: Fault.CONFLICT if method == "PUT" and network.num_faults < 2 else None
    assert create_if_absent(join_uri(s3_folder, "a"), b"mine")
    assert not create_if_absent(join_uri(s3_folder, "a"), b"theirs")


def test_put_that_never_gets_through_is_an_error(s3_folder, network):
    storage.S3_OPTIONS["config_kwargs"]["retries"] = {"mode": "standard", "max_attempts": 1}
    network.choose = lambda method, path: Fault.RESET if method == "PUT" else None
    with pytest.raises(StorageError, match="run/a' cannot be reached") as caught:
        put_atomic(join_uri(s3_folder, "a"), b"x")
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("open_file", [open_stream, open_random])
def test_stream_that_breaks_while_it_is_read_names_its_uri(s3_folder, network, monkeypatch, open_file):
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
    put_atomic(join_uri(s3_folder, "a"), bytes(100))
    storage.S3_OPTIONS["config_kwargs"]["retries"] = {"mode": "standard", "max_attempts": 1}
    with closing(open_file(join_uri(s3_folder, "a"))) as stream:
        network.choose = lambda method, path: Fault.RESET if method == "GET" else None
        with pytest.raises(StorageError, match="run/a' cannot be reached"):
            stream.read(10)


def test_part_costs_one_request(s3_folder, network):
    put_atomic(join_uri(s3_folder, "warm"), b"x")
    network.requests.clear()
    put_atomic(join_uri(s3_folder, "a"), bytes(20 * 2**20))
    assert [request.kind for request in network.requests] == ["put"]


def test_credentials_never_show_in_messages(s3_folder, network, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(FileNotFoundError) as caught:
        read_bytes(join_uri(s3_folder, "nothing"))
    assert "hush-hush" not in "".join(traceback.format_exception(caught.value))


def test_file_that_ray_writes_on_a_local_disk_appears_when_it_is_closed(tmp_path):
    filesystem, folder = open_for_ray(str(tmp_path))
    path = f"{folder}/snapshot.json"
    put_atomic(path, b"before")
    stream = filesystem.open_output_stream(path)
    stream.write(b"aft")
    stream.flush()
    assert read_bytes(path) == b"before"
    stream.write(b"er")
    stream.close()
    assert read_bytes(path) == b"after"
    assert [item.uri for item in list_objects(str(tmp_path))] == [path]


def test_file_that_ray_began_to_write_when_it_died_is_not_there(tmp_path):
    program = (
        "import os, sys; from pipeline.storage import open_for_ray; filesystem, folder = open_for_ray(sys.argv[1]);"
        "stream = filesystem.open_output_stream(folder + '/state.pt'); stream.write(bytes(10**6)); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False, timeout=120)
    assert list_objects(str(tmp_path)) == []


def test_folders_that_ray_copies_to_a_local_disk_arrive_whole(tmp_path):
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "a").write_bytes(bytes(range(256)) * 1000)
    filesystem, folder = pickle.loads(pickle.dumps(open_for_ray(str(tmp_path / "out"))))
    pyarrow.fs.copy_files(str(source), folder, destination_filesystem=filesystem)
    assert (tmp_path / "out" / "inner" / "a").read_bytes() == bytes(range(256)) * 1000


def test_object_stores_are_left_to_the_client_of_ray():
    assert open_for_ray("s3://bucket/run") == (None, "s3://bucket/run")
