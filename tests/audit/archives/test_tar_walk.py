"""The audit and the readers of labelling share no code, and find the same samples in any archive."""

import hashlib
import io
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pipeline.audit.archives.sample_walk import WalkedSample, WalkEnd, walk_parquet, walk_tar

from pipeline.errors import ShardError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.tar_reader import ArchiveEnd, read_groups
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard
from tests.factories import make_parquet, make_photo

NUM_ARCHIVES = 300
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
STEMS = ("a", "b", "dir/c", "./d", "e.f", "dir.x/g", ".hidden", "__meta__", "ü" * 30, "long/" * 30 + "h", "i j", "")
SUFFIXES = ("jpg", "JPG", "png", "json", "txt", "cls", "seg.png", "jpeg", "", "csv")


def make_archive(rng: random.Random) -> bytes:
    """Make a tar of random members, with folders and links, which may be truncated or followed by other bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice(FORMATS)) as archive:
        for _ in range(rng.randrange(7)):
            stem = rng.choice(STEMS)
            for suffix in rng.sample(SUFFIXES, rng.randrange(1, 4)):
                header = tarfile.TarInfo(f"{stem}.{suffix}" if suffix else stem or "none")
                header.type = rng.choice([tarfile.REGTYPE] * 8 + [tarfile.DIRTYPE, tarfile.SYMTYPE])
                payload = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 3000])) if header.isreg() else b""
                header.size = len(payload)
                archive.addfile(header, io.BytesIO(payload))
    return buffer.getvalue()


def damage(payload: bytes, rng: random.Random) -> Any:
    match rng.choice(["none", "none", "twice", "cut", "bare", "junk", "byte", "hole"]):
        case "twice":
            return payload + make_archive(rng)
        case "cut":
            return payload[: rng.randrange(1, len(payload))]
        case "bare":
            return payload.rstrip(b"\0")
        case "junk":
            return payload + rng.randbytes(rng.choice([1, 512, 700]))
        case "byte":
            place = 512 * rng.randrange(len(payload) // 512) + rng.randrange(512)
            return payload[:place] + rng.randbytes(1) + payload[place + 1 :]
        case "hole":
            start = 512 * rng.randrange(len(payload) // 512)
            return payload[:start] + bytes(1024) + payload[start + 1024 :]
    return payload


def walk(payload: bytes) -> tuple[list[tuple[Any, Any, Any]], tuple[Any, Any]] | None:
    """Keys with offsets and digests of images, and the end of the archive; None if it is not an archive."""
    try:
        found = list(walk_tar(io.BytesIO(payload), lambda key: True))
    except tarfile.TarError:
        return None
    *samples, end = found
    assert isinstance(end, WalkEnd)
    return [(one.key, one.offset, one.image and one.image.sha256) for one in samples], (end.offset, end.truncated_at)


def read(path: Path) -> tuple[list[tuple[Any, Any, Any]], tuple[Any, Any]] | None:
    """The same values from the reader of labelling."""
    try:
        found = list(read_groups(InputShard(uri=str(path), name="a", size_bytes=0, etag=""), max_image_bytes=2**28))
    except ShardError:
        return None
    *groups, end = found
    assert isinstance(end, ArchiveEnd)
    samples = [
        (one.key, one.offset, None if one.image is None else hashlib.sha256(one.image).hexdigest()) for one in groups
    ]
    return samples, (end.offset, end.truncated_at)


def test_walk_counts_what_the_reader_counts_in_whole_damaged_and_joined_archives(tmp_path: Path) -> None:
    rng = random.Random(4)
    path = tmp_path / "a.tar"
    num_samples = num_truncated = 0
    for number in range(NUM_ARCHIVES):
        payload = damage(make_archive(rng), rng)
        path.write_bytes(payload)
        expected = read(path)
        assert walk(payload) == expected, number
        num_samples += len(expected[0]) if expected else 0
        num_truncated += bool(expected and expected[1][1] is not None)
    assert num_samples > NUM_ARCHIVES
    assert num_truncated > NUM_ARCHIVES / 10


def test_walk_reads_no_image_that_is_not_wanted() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.jpg", "b.jpg", "b.txt"):
            header = tarfile.TarInfo(name)
            header.size = 3
            archive.addfile(header, io.BytesIO(b"xyz"))
    first, second, _ = walk_tar(buffer, lambda key: key == "b")
    assert first == WalkedSample(key="a", offset=0, has_image=True)
    assert second.image.sha256 == hashlib.sha256(b"xyz").hexdigest()
    assert second.has_tags


@pytest.mark.parametrize(
    "columns",
    [
        {"image": [b"1", None, b"3"], "tags": ["a"] * 3},
        {"jpg": [b"1", b"2", b"3"], "tags": ["a"] * 3, "key": ["x", "", None]},
        {"image": [{"bytes": make_photo(1), "path": "p"}] * 3, "tags": ["a"] * 3, "__key__": [7, 8, 9]},
        {"image": [b"1"] * 3, "tags": ["a"] * 3, "key": [0.5, 1.5, 2.5]},
        {"png": [b"1"] * 3, "other": [b"4"] * 3, "tags": ["a"] * 3, "id": ["u", "v", "w"]},
    ],
)
def test_walk_counts_what_the_reader_counts_in_a_parquet_file(tmp_path: Path, columns: dict[str, list[Any]]) -> None:
    path = make_parquet(tmp_path / "a.parquet", columns, row_group_size=2)
    named = {"image_column": "other", "key_column": "id"} if "other" in columns else {}
    shard = InputShard(uri=str(path), name="a", size_bytes=0, etag="")
    *chunks, end = read_chunks(shard, InputConfig(**named))
    expected = [
        (sample.key, None if sample.image is None else hashlib.sha256(sample.image).hexdigest())
        for chunk in chunks
        for sample in chunk.samples
    ]
    with path.open("rb") as stream:
        *samples, walked = walk_parquet(stream, named, lambda key: True)
    assert [(one.key, one.image and one.image.sha256) for one in samples] == expected
    assert walked == WalkEnd(offset=3, truncated_at=end.truncated_at)
    with path.open("rb") as stream:
        *samples, _ = walk_parquet(stream, named, None)
    assert [one.key for one in samples] == [key for key, _ in expected]
