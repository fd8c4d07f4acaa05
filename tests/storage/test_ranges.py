"""Byte ranges of files and objects: the same on every store, and few requests."""

import fsspec
import pytest

from pipeline.storage.ranges import MAX_GAP_BYTES, MAX_REQUEST_BYTES, ByteRange, join_neighbours, read_ranges
from pipeline.storage.writing import put_atomic
from tests.faulty_network import FaultyNetwork

CONTENT = bytes(range(256)) * 8000


def test_ranges_come_in_the_given_order_from_every_store(folder_uri: str) -> None:
    uri = f"{folder_uri}/data.bin"
    put_atomic(uri, CONTENT)
    ranges = [ByteRange(start, size) for start, size in [(1_500_000, 10), (0, 3), (5, 0), (2, 700_000), (2, 4), (0, 3)]]
    assert list(read_ranges(uri, ranges)) == [CONTENT[item.start : item.stop] for item in ranges]


def test_ranges_beyond_the_end_are_short_or_empty_on_every_store(folder_uri: str) -> None:
    uri = f"{folder_uri}/data.bin"
    put_atomic(uri, b"0123456789")
    assert list(read_ranges(uri, [ByteRange(8, 5)])) == [b"89"]
    assert list(read_ranges(uri, [ByteRange(50, 5)])) == [b""]


def test_missing_file_is_named_on_every_store(folder_uri: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"run/none.bin' does not exist"):
        list(read_ranges(f"{folder_uri}/none.bin", [ByteRange(0, 5)]))


def test_neighbours_share_a_request_and_distant_ranges_do_not() -> None:
    near, far = ByteRange(100 + MAX_GAP_BYTES, 5), ByteRange(101 + MAX_GAP_BYTES + 5 + MAX_GAP_BYTES, 5)
    assert join_neighbours([far, near, ByteRange(0, 100)]) == [ByteRange(0, near.stop), far]


def test_requests_for_several_ranges_are_limited_in_size() -> None:
    ranges = [ByteRange(number * 2**20, 2**20) for number in range(20)]
    requests = join_neighbours(ranges)
    assert max(request.size for request in requests) <= MAX_REQUEST_BYTES
    assert sum(request.size for request in requests) == 20 * 2**20


def test_ranges_take_as_few_requests_and_bytes_as_they_can(
    s3_endpoint: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3_folder}/data.bin"
    put_atomic(uri, CONTENT)
    with FaultyNetwork(s3_endpoint) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        one = list(read_ranges(uri, [ByteRange(1000, 50)]))
        assert [request.kind for request in network.requests] == ["get"]
        network.requests.clear()
        neighbours = [ByteRange(start, 100) for start in range(0, 100_000, 10_000)]
        found = list(read_ranges(uri, [*neighbours, ByteRange(2_000_000, 7)]))
        kinds = [request.kind for request in network.requests]
    assert one == [CONTENT[1000:1050]]
    assert found == [CONTENT[item.start : item.stop] for item in neighbours] + [CONTENT[2_000_000:2_000_007]]
    assert kinds == ["get", "get"]


def test_ranges_are_asked_for_only_some_ahead(folder_uri: str) -> None:
    uri = f"{folder_uri}/data.bin"
    put_atomic(uri, CONTENT)
    asked: list[int] = []

    def ask() -> object:
        for number in range(10_000):
            asked.append(number)
            yield ByteRange(number, 10)

    stream = read_ranges(uri, ask())  # type: ignore[arg-type]
    assert next(stream) == CONTENT[:10]
    stream.close()  # type: ignore[attr-defined]
    assert len(asked) <= 300
