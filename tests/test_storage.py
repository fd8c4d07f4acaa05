"""What every storage backend must do; and what only a local disk does."""

import itertools
import pickle
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import fsspec
import pyarrow.fs
import pytest

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.storage import (
    create_if_absent,
    delete,
    exists,
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


def list_uris(objects):
    return [item.uri for item in objects]


@pytest.mark.parametrize("name", ["a.bin", "with space.bin", "Schäfchen-羊.bin", "a#b.bin", "[1]*.bin"])
def test_put_any_name_reads_back_and_is_listed(folder_uri, name):
    uri = join_uri(folder_uri, "deep", name)
    put_atomic(uri, b"first")
    put_atomic(uri, b"second!")
    assert read_bytes(uri) == b"second!"
    assert exists(uri)
    (item,) = list_objects(folder_uri)
    assert item == find_object(uri)
    assert (item.uri, item.size_bytes) == (uri, 7)
    assert '"' not in item.etag


def test_listing_of_missing_folder_is_empty(folder_uri):
    assert list_objects(folder_uri) == []
    assert list_folder(folder_uri) == []


def test_listing_leaves_out_sibling_folders_and_lower_levels(folder_uri):
    uris = [join_uri(folder_uri, *parts) for parts in (("a", "1"), ("a", "deep", "2"), ("ab", "3"))]
    for uri in uris:
        put_atomic(uri, b"x")
    assert list_uris(list_objects(join_uri(folder_uri, "a"))) == uris[:2]
    assert list_uris(list_folder(join_uri(folder_uri, "a"))) == uris[:1]
    assert list_uris(list_objects(folder_uri)) == uris


def test_listing_sees_a_new_object_at_once(folder_uri):
    put_atomic(join_uri(folder_uri, "1"), b"x")
    assert len(list_objects(folder_uri)) == 1
    put_atomic(join_uri(folder_uri, "2"), b"x")
    assert len(list_objects(folder_uri)) == len(list_folder(folder_uri)) == 2


def test_listing_of_more_than_a_page_is_whole(folder_uri):
    uris = [join_uri(folder_uri, f"{index:04d}") for index in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: put_atomic(uri, b""), uris))
    assert list_uris(list_objects(folder_uri)) == uris
    delete(uris)
    assert list_objects(folder_uri) == []


def test_etag_changes_with_the_content(folder_uri):
    uri = join_uri(folder_uri, "a")
    put_atomic(uri, b"one")
    before = find_object(uri)
    put_atomic(uri, b"two!")
    assert find_object(uri).etag != before.etag


def test_create_if_absent_second_writer_changes_nothing(folder_uri):
    uri = join_uri(folder_uri, "run.json")
    assert create_if_absent(uri, b"mine")
    assert not create_if_absent(uri, b"theirs")
    assert read_bytes(uri) == b"mine"
    assert list_uris(list_objects(folder_uri)) == [uri]


def test_create_if_absent_racing_writers_one_wins(tmp_path):
    uri = str(tmp_path / "run.json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda index: create_if_absent(uri, b"%d" % index), range(32)))
    assert sum(won) == 1
    assert int(read_bytes(uri)) == won.index(True)


def test_delete_twice_is_no_error(folder_uri):
    uris = [join_uri(folder_uri, name) for name in "abc"]
    for uri in uris:
        put_atomic(uri, b"x")
    delete(uris[:2])
    delete(uris[:2])
    assert list_uris(list_objects(folder_uri)) == uris[2:]


def test_stream_from_an_offset_reads_the_rest(folder_uri):
    uri = join_uri(folder_uri, "a")
    payload = bytes(range(256)) * 40
    put_atomic(uri, payload)
    for offset in (0, 1, 5000, len(payload)):
        with open_stream(uri, offset) as stream:
            assert stream.read(10) + stream.read() == payload[offset:]


def test_random_reads_give_what_stands_there(folder_uri):
    uri = join_uri(folder_uri, "a")
    payload = bytes(range(256)) * 40
    put_atomic(uri, payload)
    with closing(open_random(uri)) as file:
        for offset in (5000, 0, len(payload) - 3, 100):
            assert file.seek(offset) == file.tell() == offset
            assert file.read(10) == payload[offset : offset + 10]


def test_reading_what_is_missing_names_the_uri(folder_uri):
    uri = join_uri(folder_uri, "missing.tar")
    for read in (read_bytes, open_stream, open_random):
        with pytest.raises(FileNotFoundError, match="missing.tar"):
            read(uri)
    assert not exists(uri)
    assert find_object(folder_uri) is None


def test_glob_matches_one_level(folder_uri):
    for name in ("a-1.tar", "a-2.tar", "b.tar", "deep/a-3.tar"):
        put_atomic(join_uri(folder_uri, name), b"x")
    expected = [join_uri(folder_uri, name) for name in ("a-1.tar", "a-2.tar")]
    assert list_uris(glob_objects(join_uri(folder_uri, "a-*.tar"))) == expected


def test_unfinished_files_are_never_listed(tmp_path):
    (tmp_path / ".tmp-123").write_bytes(b"half")
    assert list_objects(str(tmp_path)) == list_folder(str(tmp_path)) == []


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
        ("put", Fault.HANG),
        ("stream", Fault.HANG),
    ],
)
def test_operation_survives_a_network_that_fails(s3_folder, network, operation, fault):
    put_atomic(join_uri(s3_folder, "a"), b"old")
    expected = {"read": b"old", "stream": b"ld"}
    num_faults = 1 if fault == Fault.HANG else 2
    network.choose = lambda method, path: fault if network.num_faults < num_faults else None
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
