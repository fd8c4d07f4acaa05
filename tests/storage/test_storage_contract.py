"""The contract of all stores, tested on a local disk, in memory, and on S3 over HTTP."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from pipeline.storage.listing import exists, find_object, glob_objects, is_folder, list_folder, list_objects
from pipeline.storage.reading import open_random, open_stream, read_bytes, read_head
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import create_if_absent, delete, delete_folder, put_atomic


def list_uris(objects: Any) -> list[Any]:
    return [item.uri for item in objects]


@pytest.mark.parametrize("name", ["a.bin", "with space.bin", "Schäfchen-羊.bin", "a#b.bin", "[1]*.bin"])
def test_put_any_name_reads_back_and_is_listed(folder_uri: str, name: str) -> None:
    uri = join_uri(folder_uri, "deep", name)
    put_atomic(uri, b"first")
    put_atomic(uri, b"second!")
    assert read_bytes(uri) == b"second!"
    assert exists(uri)
    (item,) = list_objects(folder_uri)
    assert item == find_object(uri)
    assert (item.uri, item.size_bytes) == (uri, 7)
    assert '"' not in item.etag


def test_listing_of_missing_folder_is_empty(folder_uri: str) -> None:
    assert list_objects(folder_uri) == []
    assert list_folder(folder_uri) == []


def test_listing_leaves_out_sibling_folders_and_lower_levels(folder_uri: str) -> None:
    uris = [join_uri(folder_uri, *parts) for parts in (("a", "1"), ("a", "deep", "2"), ("ab", "3"))]
    for uri in uris:
        put_atomic(uri, b"x")
    assert list_uris(list_objects(join_uri(folder_uri, "a"))) == uris[:2]
    assert list_uris(list_folder(join_uri(folder_uri, "a"))) == uris[:1]
    assert list_uris(list_objects(folder_uri)) == uris


def test_listing_sees_a_new_object_at_once(folder_uri: str) -> None:
    put_atomic(join_uri(folder_uri, "1"), b"x")
    assert len(list_objects(folder_uri)) == 1
    put_atomic(join_uri(folder_uri, "2"), b"x")
    assert len(list_objects(folder_uri)) == len(list_folder(folder_uri)) == 2


def test_listing_of_more_than_a_page_is_whole(folder_uri: str) -> None:
    uris = [join_uri(folder_uri, f"{index:04d}") for index in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: put_atomic(uri, b""), uris))
    assert list_uris(list_objects(folder_uri)) == uris
    delete(uris)
    assert list_objects(folder_uri) == []


def test_etag_changes_with_the_content(folder_uri: str) -> None:
    uri = join_uri(folder_uri, "a")
    put_atomic(uri, b"one")
    before = find_object(uri)
    put_atomic(uri, b"two!")
    assert find_object(uri).etag != before.etag


def test_create_if_absent_second_writer_changes_nothing(folder_uri: str) -> None:
    uri = join_uri(folder_uri, "run.json")
    assert create_if_absent(uri, b"mine")
    assert not create_if_absent(uri, b"theirs")
    assert read_bytes(uri) == b"mine"
    assert list_uris(list_objects(folder_uri)) == [uri]


def test_delete_twice_is_no_error(folder_uri: str) -> None:
    uris = [join_uri(folder_uri, name) for name in "abc"]
    for uri in uris:
        put_atomic(uri, b"x")
    delete(uris[:2])
    delete(uris[:2])
    assert list_uris(list_objects(folder_uri)) == uris[2:]


def test_stream_from_an_offset_reads_the_rest(folder_uri: str) -> None:
    uri = join_uri(folder_uri, "a")
    payload = bytes(range(256)) * 40
    put_atomic(uri, payload)
    for offset in (0, 1, 5000, len(payload)):
        with open_stream(uri, offset) as stream:
            assert stream.read(10) + stream.read() == payload[offset:]


def test_random_reads_return_the_bytes_at_their_offset(folder_uri: str) -> None:
    uri = join_uri(folder_uri, "a")
    payload = bytes(range(256)) * 40
    put_atomic(uri, payload)
    with closing(open_random(uri)) as file:
        for offset in (5000, 0, len(payload) - 3, 100):
            assert file.seek(offset) == file.tell() == offset
            assert file.read(10) == payload[offset : offset + 10]


def test_reading_what_is_missing_names_the_uri(folder_uri: str) -> None:
    uri = join_uri(folder_uri, "missing.tar")
    for read in (read_bytes, open_stream, open_random):
        with pytest.raises(FileNotFoundError, match="missing.tar"):
            read(uri)
    assert not exists(uri)
    assert find_object(folder_uri) is None


def test_glob_matches_one_level(folder_uri: str) -> None:
    for name in ("a-1.tar", "a-2.tar", "b.tar", "deep/a-3.tar"):
        put_atomic(join_uri(folder_uri, name), b"x")
    expected = [join_uri(folder_uri, name) for name in ("a-1.tar", "a-2.tar")]
    assert list_uris(glob_objects(join_uri(folder_uri, "a-*.tar"))) == expected


def test_put_is_seen_whole_or_not_at_all(folder_uri: str) -> None:
    uri = join_uri(folder_uri, "a")
    payloads = [bytes([number]) * (100_000 + number) for number in range(20)]
    put_atomic(uri, payloads[0])
    seen, is_done = set(), threading.Event()

    def read_again_and_again() -> None:
        while not is_done.is_set():
            seen.add(read_bytes(uri))

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read_again_and_again) for _ in range(2)]
        try:
            for payload in payloads:
                put_atomic(uri, payload)
        finally:
            is_done.set()
        for future in reading:
            future.result()
    assert seen
    assert seen <= set(payloads)
    assert read_bytes(uri) == payloads[-1]


def test_create_if_absent_racing_writers_one_wins(folder_uri: str) -> None:
    uri = join_uri(folder_uri, "run.json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda index: create_if_absent(uri, b"%d" % index), range(32)))
    assert sum(won) == 1
    assert int(read_bytes(uri)) == won.index(True)


def test_create_if_absent_after_a_deletion_writes_again(folder_uri: str) -> None:
    uri = join_uri(folder_uri, "run.json")
    assert create_if_absent(uri, b"first")
    delete([uri])
    assert create_if_absent(uri, b"second")
    assert read_bytes(uri) == b"second"


@pytest.mark.parametrize("name", ["with space.bin", "Schäfchen-羊.bin", "a+b=c&d?e%20.bin"])
def test_delete_of_any_name_leaves_the_others(folder_uri: str, name: str) -> None:
    uris = [join_uri(folder_uri, "deep", item) for item in (name, f"{name}2")]
    for uri in uris:
        put_atomic(uri, b"x")
    delete(uris[:1])
    assert list_uris(list_objects(folder_uri)) == uris[1:]


def test_deleted_folder_takes_all_below_it_and_nothing_beside_it(folder_uri: str) -> None:
    for name in ("a/1", "a/deep/2", "ab/3"):
        put_atomic(join_uri(folder_uri, *name.split("/")), b"x")
    assert is_folder(join_uri(folder_uri, "a"))
    delete_folder(join_uri(folder_uri, "a"))
    delete_folder(join_uri(folder_uri, "a"))
    assert list_uris(list_objects(folder_uri)) == [join_uri(folder_uri, "ab", "3")]
    assert not is_folder(join_uri(folder_uri, "a"))
    assert not is_folder(join_uri(folder_uri, "ab", "3"))


@pytest.mark.parametrize("content", [b"", b"abc", b"abcdefgh"])
def test_first_bytes_are_all_bytes_of_a_shorter_file(folder_uri: str, content: bytes) -> None:
    uri = join_uri(folder_uri, "a.bin")
    put_atomic(uri, content)
    assert read_head(uri, 5) == content[:5]
    with pytest.raises(FileNotFoundError, match=r"none.bin' does not exist"):
        read_head(join_uri(folder_uri, "none.bin"), 5)
