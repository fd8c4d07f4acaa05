"""Requests of an index shard to an object store: how many an image takes, and how many are in flight."""

import fsspec
import pytest

from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.path_reader import read_index_samples
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard, Reason, Sample
from pipeline.storage.outage import is_outage
from pipeline.storage.writing import delete, put_atomic
from tests.collections.forms import find, read_samples
from tests.faulty_network import Fault, FaultyNetwork, OneTryS3, use_s3_client

MIB = 2**20


def put_photos(folder: str, contents: list[bytes]) -> None:
    """Write files of any content, and a table of them beside their folder."""
    for number, content in enumerate(contents):
        put_atomic(f"{folder}/photos/{number:03d}.jpg", content)
    rows = "".join(f"{folder}/photos/{number:03d}.jpg,dog\n" for number in range(len(contents)))
    put_atomic(f"{folder}/tables/list.csv", f"file_name,tags\n{rows}".encode())
    put_atomic(f"{folder}/photos/metadata.csv", f"file_name,tags\n{rows}".encode())


def read_recorded(
    network: FaultyNetwork, monkeypatch: pytest.MonkeyPatch, shards: tuple[InputShard, ...], config: InputConfig
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Read shards behind a network; return the samples, and the kind and file of each request for a photo."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    samples = [sample for shard in shards for _, sample in read_index_samples(shard, config)]
    requests = [(request.kind, request.path.rpartition("/")[2].partition("?")[0]) for request in network.requests]
    return samples, sorted(request for request in requests if request[1].endswith(".jpg"))


def test_listed_image_takes_one_request(s3_endpoint: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [bytes([number]) * number for number in range(150)]
    put_photos(s3_folder, contents)
    shards, _ = find(f"{s3_folder}/photos", f"{s3_folder}/index")
    with FaultyNetwork(s3_endpoint) as network:
        samples, requests = read_recorded(network, monkeypatch, shards, InputConfig())
    assert [sample.image for sample in samples] == contents
    assert requests == [("get", f"{number:03d}.jpg") for number in range(150)]


def test_image_of_unknown_size_takes_one_request_if_it_is_small(
    s3_endpoint: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [b"", b"x", bytes(4 * MIB - 1), bytes(4 * MIB), bytes(5 * MIB)]
    put_photos(s3_folder, contents)
    inputs = {"allow_url": (f"{s3_folder}/photos",), "max_image_bytes": 5 * MIB - 1}
    shards, _ = find(f"{s3_folder}/tables/list.csv", f"{s3_folder}/index", **inputs)
    with FaultyNetwork(s3_endpoint) as network:
        samples, requests = read_recorded(network, monkeypatch, shards, InputConfig(**inputs))  # type: ignore[arg-type]
    assert [sample.image for sample in samples] == [*contents[:4], None]
    assert samples[4].image_reason == Reason.TOO_LARGE
    small = [("get", f"{number:03d}.jpg") for number in range(3)]
    large = [("get", "003.jpg"), ("get", "003.jpg"), ("get", "004.jpg"), ("head", "003.jpg"), ("head", "004.jpg")]
    assert requests == small + large


@pytest.mark.parametrize(("size_bytes", "most"), [(20 * MIB, 3), (None, 16)])
def test_bytes_in_flight_are_bounded(
    s3_endpoint: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch, size_bytes: int | None, most: int
) -> None:
    put_photos(s3_folder, [bytes(size_bytes or 1000)] * (most + 4))
    table = "photos/metadata.csv" if size_bytes else "tables/list.csv"
    inputs = {"allow_url": (f"{s3_folder}/photos",)}
    shards, _ = find(f"{s3_folder}/{table}", f"{s3_folder}/index", **inputs)
    with FaultyNetwork(s3_endpoint) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        stream = read_index_samples(shards[0], InputConfig(**inputs))  # type: ignore[arg-type]
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    # The first image has left when the next one is requested.
    assert sum(".jpg" in request.path for request in network.requests) <= most + 1


def test_missing_and_changed_objects_are_rows_with_a_reason(s3_folder: str) -> None:
    put_photos(s3_folder, [b"a", b"b", b"c"])
    shards, _ = find(f"{s3_folder}/photos", f"{s3_folder}/index")
    delete([f"{s3_folder}/photos/000.jpg"])
    put_atomic(f"{s3_folder}/photos/001.jpg", b"longer")
    samples = read_samples(shards)
    assert [sample.image_reason for sample in samples] == [Reason.NOT_FOUND, Reason.CHANGED, ""]
    assert samples[0].image_error == f"'{s3_folder}/photos/000.jpg' does not exist"


def test_store_that_fails_in_the_middle_is_an_outage_and_read_again_from_there(
    s3_endpoint: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_photos(s3_folder, [bytes([number]) for number in range(20)])
    shards, _ = find(f"{s3_folder}/photos", f"{s3_folder}/index")
    down = {"011.jpg"}

    def choose(method: str, path: str) -> Fault | None:
        return Fault.SLOW_DOWN if path.rpartition("/")[2] in down else None

    config = InputConfig(max_chunk_samples=5)
    with FaultyNetwork(s3_endpoint, choose=choose) as network, use_s3_client(OneTryS3):
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        stream = read_chunks(shards[0], config)
        first, second = next(stream), next(stream)
        with pytest.raises(OSError, match=r"011.jpg' cannot be reached: .*SlowDown") as failure:
            next(stream)
        assert is_outage(failure.value)
        down.clear()
        again = list(read_chunks(shards[0], config, start_offset=second.end_offset, first_chunk=2))  # type: ignore[union-attr]
    assert first.index == 0  # type: ignore[union-attr]
    assert [piece.end_offset for piece in again[:-1]] == [15, 20]  # type: ignore[union-attr]
