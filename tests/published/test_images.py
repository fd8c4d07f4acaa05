"""Images of published rows, from every kind of input: by range where their place is known, else by chunk."""

import hashlib
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ShardError
from pipeline.published.images import ImageReader
from pipeline.published.rows import MaskRow, iterate_rows
from pipeline.published.run import PublishedRun, open_published
from pipeline.run.records import InputShard
from pipeline.storage.listing import find_object
from pipeline.storage.writing import put_atomic
from tests.collections.forms import find
from tests.factories import make_labelled_row, make_parquet, make_photo, make_run, make_tar
from tests.fakes import SerialCluster
from tests.faulty_network import FaultyNetwork

MASK = np.ones((4, 4), np.uint8)
PHOTOS = [make_photo(number) for number in range(6)]


def list_shard(uri: str, name: str) -> InputShard:
    found = find_object(uri)
    assert found is not None
    return InputShard(uri=uri, name=name, size_bytes=found.size_bytes, etag=found.etag)


def publish(out_uri: str, shard: InputShard) -> tuple[PublishedRun, list[MaskRow]]:
    """Publish a run of one shard of `PHOTOS`."""
    rows = [make_labelled_row(str(number), MASK, [1], photo=photo) for number, photo in enumerate(PHOTOS)]
    make_run(out_uri, ("cat",), {shard: rows})
    run = open_published(out_uri)
    return run, [row for uri in run.manifest_uris for row in iterate_rows(run, uri)]


def add_places(rows: Sequence[MaskRow], tar_path: Path) -> list[MaskRow]:
    """Rows as the format with places has them."""
    with tarfile.open(tar_path) as archive:
        places = {Path(member.name).stem: (member.offset_data, member.size) for member in archive if member.isfile()}
    return [
        replace(row, values={**row.values, "image_offset": places[row.key][0], "image_bytes": places[row.key][1]})
        for row in rows
    ]


def make_photos_tar(path: Path) -> Path:
    return make_tar(path, {str(number): {"txt": b"cat", "jpg": photo} for number, photo in enumerate(PHOTOS)})


ORDERS = [[0, 1, 2, 3, 4, 5], [5, 0, 3, 3, 1], [4], []]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["tar with places", "old tar", "parquet", "index"])
def test_images_come_in_the_given_order_from_every_kind_of_input(tmp_path: Path, kind: str, order: list[int]) -> None:
    if kind == "parquet":
        path = make_parquet(tmp_path / "a.parquet", {"image": PHOTOS, "tags": [["cat"]] * 6}, row_group_size=2)
        shard = list_shard(str(path), "a")
    elif kind == "index":
        for number, photo in enumerate(PHOTOS):
            put_atomic(f"{tmp_path}/photos/cat/{number}.jpg", photo)
        ((shard,), _) = find(f"{tmp_path}/photos", f"{tmp_path}/index")
    else:
        shard = list_shard(str(make_photos_tar(tmp_path / "a.tar")), "a")
    run, rows = publish(str(tmp_path / "out"), shard)
    if kind == "tar with places":
        rows = add_places(rows, tmp_path / "a.tar")
    reader = ImageReader(run, shard)
    assert list(reader.read_many([rows[number] for number in order])) == [PHOTOS[number] for number in order]
    assert [reader.read(rows[number]) for number in order] == [PHOTOS[number] for number in order]


def test_old_rows_are_read_by_their_chunks(label_small_run: Callable[..., object], tmp_path: Path) -> None:
    label_small_run(str(tmp_path), SerialCluster())
    run = open_published(str(tmp_path))
    plain = {"image_offset": None, "image_bytes": None}
    rows = [replace(row, values={**row.values, **plain}) for row in iterate_rows(run, run.manifest_uris[0])]
    reader = ImageReader(run, run.shards[0])
    for order in ([4, 1, 0, 2], [0, 1, 2, 3, 4]):
        found = list(reader.read_many([rows[number] for number in order]))
        assert found == [make_photo(number) for number in order]
        assert [reader.read(rows[number]) for number in order] == found


def test_image_of_a_tar_takes_one_request_and_its_own_bytes(
    tmp_path: Path, s3_endpoint: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_photos_tar(tmp_path / "a.tar")
    put_atomic(f"{s3_folder}/a.tar", path.read_bytes())
    shard = list_shard(f"{s3_folder}/a.tar", "a")
    run, rows = publish(str(tmp_path / "out"), shard)
    rows = add_places(rows, path)
    with FaultyNetwork(s3_endpoint) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        reader = ImageReader(run, shard)
        network.requests.clear()
        assert reader.read(rows[3]) == PHOTOS[3]
        assert [(request.kind, request.num_bytes) for request in network.requests] == [("get", len(PHOTOS[3]))]
        network.requests.clear()
        assert list(reader.read_many(rows)) == PHOTOS
        assert [request.kind for request in network.requests] == ["get"]


def test_image_of_parquet_reads_its_row_group_once_and_no_other_column(
    tmp_path: Path, s3_endpoint: str, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0)
    columns = {
        "image": pa.array([noise.bytes(50_000) for _ in range(6)]),
        "tags": [["cat"]] * 6,
        "other": [noise.bytes(300_000) for _ in range(6)],
    }
    payload = make_parquet(tmp_path / "a.parquet", columns, row_group_size=2).read_bytes()
    put_atomic(f"{s3_folder}/a.parquet", payload)
    shard = list_shard(f"{s3_folder}/a.parquet", "a")
    images = columns["image"].to_pylist()
    rows = [make_labelled_row(str(number), MASK, [1], photo=image) for number, image in enumerate(images)]
    make_run(str(tmp_path / "out"), ("cat",), {shard: rows})
    run = open_published(str(tmp_path / "out"))
    found = list(iterate_rows(run, run.manifest_uris[0]))
    with FaultyNetwork(s3_endpoint) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        reader = ImageReader(run, shard)
        assert reader.read(found[3]) == images[3]
        num_requests = len(network.requests)
        num_bytes = sum(request.num_bytes for request in network.requests if request.kind == "get")
        assert reader.read(found[2]) == images[2]
        assert len(network.requests) == num_requests
    assert num_bytes < 300_000


def test_wrong_images_are_refused_by_key(tmp_path: Path) -> None:
    path = make_photos_tar(tmp_path / "a.tar")
    shard = list_shard(str(path), "a")
    run, rows = publish(str(tmp_path / "out"), shard)
    rows = add_places(rows, path)
    shifted: dict[str, Any] = {**rows[2].values, "image_offset": rows[2].get("image_offset") + 1}
    with pytest.raises(ShardError, match=r"image of key '2' of shard '.*a.tar' is not the one that was labelled"):
        ImageReader(run, shard).read(replace(rows[2], values=shifted))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ShardError, match=r"a.tar' changed since it was listed .* put the old one back"):
        list(ImageReader(run, shard).read_many(rows))
    path.unlink()
    with pytest.raises(ShardError, match=r"a.tar' does not exist; .* label the new ones with a new --out"):
        ImageReader(run, shard).read(rows[0])


def test_row_without_an_image_is_refused_and_a_rejected_one_with_an_image_is_read(tmp_path: Path) -> None:
    parts = {str(number): {"txt": b"cat", "jpg": photo} for number, photo in enumerate(PHOTOS)}
    del parts["1"]["jpg"]
    shard = list_shard(str(make_tar(tmp_path / "a.tar", parts)), "a")
    rejected = {"status": "rejected", "reason": "no_known_tag", "error": "", "tags_unknown": []}
    rows = [
        {"key": str(number), "image_sha256": hashlib.sha256(photo).hexdigest()} | rejected
        for number, photo in enumerate(PHOTOS)
    ]
    rows[1].pop("image_sha256")
    make_run(str(tmp_path / "out"), ("cat",), {shard: rows})
    run = open_published(str(tmp_path / "out"))
    found = list(iterate_rows(run, run.manifest_uris[0]))
    assert ImageReader(run, shard).read(found[0]) == PHOTOS[0]
    with pytest.raises(ShardError, match=r"row '1' of shard 'a' has no image; filter by status or reason"):
        ImageReader(run, shard).read(found[1])
