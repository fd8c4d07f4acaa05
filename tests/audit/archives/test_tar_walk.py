"""The audit and the readers of labelling share no code, and find the same samples in any archive."""

import hashlib
import io
import random
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.audit.archives.member_rules import DOTTED_IMAGE, KINDS, MemberRules
from pipeline.audit.archives.parquet_walk import walk_parquet
from pipeline.audit.archives.samples import ImagePlace, WalkedSample
from pipeline.audit.archives.tar_walk import WalkEnd, walk_tar
from pipeline.errors import ShardError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.tar_reader import ArchiveEnd, MemberGroup, read_groups
from pipeline.run.config import InputConfig, KeyRule
from pipeline.run.records import InputShard, MemberCounts, merge_members
from tests.factories import make_parquet, make_photo

NUM_ARCHIVES = 300
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
STEMS = (
    *("a", "b", "a", "b", "dir/c", "./d", "e.f", "e.g", "dir.x/g", ".hidden", "__meta__", "ü" * 30, "long/" * 30 + "h"),
    *("i j", "", ".cache/k", "__MACOSX/l", "../m", "n/./o", "a.", "p..q"),
)
SUFFIXES = ("jpg", "JPG", "png", "json", "json", "txt", "cls", "seg.png", "0.jpg", "1.jpeg", "jpeg", "avif", "", "csv")
TYPES = (*[tarfile.REGTYPE] * 9, *[tarfile.LNKTYPE] * 2, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE)


def make_archive(rng: random.Random) -> bytes:
    """Make a tar of random members, with folders and links, which may be truncated or followed by other bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=rng.choice(FORMATS)) as archive:
        for _ in range(rng.randrange(8)):
            stem = rng.choice(STEMS)
            for suffix in rng.choices(SUFFIXES, k=rng.randrange(1, 5)):
                header = tarfile.TarInfo(f"{stem}.{suffix}" if suffix else stem or "none")
                header.type = rng.choice(TYPES)
                if header.type == tarfile.LNKTYPE:
                    header.linkname = rng.choice(["nowhere.jpg", *archive.getnames()])[:90]
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


Found = tuple[list[tuple[Any, Any, Any]], tuple[Any, Any], dict[str, Any]]


def walk(payload: bytes, rules: MemberRules) -> Found | None:
    """Keys with offsets and digests of images, the end of the archive, and its members; None if it is no archive."""
    try:
        found = list(walk_tar(io.BytesIO(payload), rules, lambda key: True))
    except tarfile.TarError:
        return None
    *samples, end = found
    assert isinstance(end, WalkEnd)
    assert end.members is not None
    assert end.members.num == end.members.num_in_rows + end.members.num_passed_over
    members = {name: end.members.to_dict()[name] for name in ("num", "passed_over")}
    keys = [(one.key, one.offset, one.image and one.image.sha256) for one in samples if isinstance(one, WalkedSample)]
    return keys, (end.offset, end.truncated_at), members


def read(path: Path, rule: KeyRule) -> Found | None:
    """The same values from the reader of labelling."""
    shard = InputShard(uri=str(path), name="a", size_bytes=0, etag="")
    try:
        *groups, end = read_groups(shard, max_image_bytes=2**28, key_rule=rule)
    except ShardError:
        return None
    assert isinstance(end, ArchiveEnd)
    samples = []
    spans: list[MemberCounts | None] = []
    for one in groups:
        assert isinstance(one, MemberGroup)
        samples.append((one.key, one.offset, None if one.image is None else hashlib.sha256(one.image).hexdigest()))
        spans.append(one.members_before)
    members = merge_members([*spans, end.members_before, end.members_after])
    assert members is not None
    return samples, (end.offset, end.truncated_at), members.describe()


@pytest.mark.parametrize("rule", list(KeyRule))
def test_walk_counts_what_the_reader_counts_in_whole_damaged_and_joined_archives(tmp_path: Path, rule: KeyRule) -> None:
    rng = random.Random(4)
    path = tmp_path / "a.tar"
    num_samples = num_truncated = 0
    kinds: set[str] = set()
    for number in range(NUM_ARCHIVES):
        payload = damage(make_archive(rng), rng)
        path.write_bytes(payload)
        expected = read(path, rule)
        assert walk(payload, MemberRules(is_last_dot=rule == KeyRule.LAST_DOT)) == expected, number
        if expected:
            num_samples += len(expected[0])
            num_truncated += expected[1][1] is not None
            kinds.update(expected[2]["passed_over"])
    assert num_samples > NUM_ARCHIVES
    assert num_truncated > NUM_ARCHIVES / 10
    assert kinds == set(KINDS) - ({DOTTED_IMAGE} if rule == KeyRule.LAST_DOT else set())


def test_walk_reads_no_image_that_is_not_wanted() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("a.jpg", "b.jpg", "b.txt"):
            header = tarfile.TarInfo(name)
            header.size = 3
            archive.addfile(header, io.BytesIO(b"xyz"))
    first, second, _ = walk_tar(buffer, MemberRules(), lambda key: key == "b")
    place = ImagePlace(offset=512, num_bytes=3)
    assert first == WalkedSample(key="a", offset=0, has_image=True, place=place)
    assert second.image.sha256 == hashlib.sha256(b"xyz").hexdigest()
    assert second.has_tags


@pytest.mark.parametrize(
    "columns",
    [
        {"image": [b"1", None, b"3"], "tags": ["a"] * 3},
        {"jpg": [b"1", b"2", b"3"], "tags": ["a"] * 3, "key": ["x", "", None]},
        {"image": [{"bytes": make_photo(1), "path": "p"}] * 3, "tags": ["a"] * 3, "__key__": [7, 8, 9]},
        {"image": [b"1"] * 3, "tags": ["a"] * 3, "key": [0.5, 1.5, 2.5], "__key__": ["a", "b", "c"]},
        {"png": [b"1"] * 3, "other": [b"4"] * 3, "tags": ["a"] * 3, "id": ["u", "v", "w"]},
        {"image": [b"1"] * 3, "tags": ["a"] * 3, "key": pa.array([-7, None, 9]).dictionary_encode()},
        {"image": [b"1"] * 3, "tags": ["a"] * 3, "key": pa.array([1, None, 10**25], pa.decimal128(30))},
        {
            "image": [b"1"] * 3,
            "tags": ["a"] * 3,
            "key": pa.array([1.5, 2, 3]).cast(pa.decimal128(20, 1)),
            "__key__": [1, 2, 3],
        },
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
        *samples, walked = walk_parquet(str(path), stream, named, lambda key: True)
    assert [(one.key, one.image and one.image.sha256) for one in samples] == expected
    assert walked == WalkEnd(offset=3, truncated_at=end.truncated_at)
    with path.open("rb") as stream:
        *samples, _ = walk_parquet(str(path), stream, named, None)
    assert [one.key for one in samples] == [key for key, _ in expected]


def test_link_to_a_link_that_is_in_no_row_has_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, target in (("x.jpg", ""), ("a.jpg", "x.jpg"), ("a.png", "a.jpg"), ("b.jpg", "a.png"), ("c.jpg", "d")):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = (tarfile.LNKTYPE, target) if target else (tarfile.REGTYPE, "")
            header.size = 0 if target else 3
            archive.addfile(header, io.BytesIO(b"xyz"))
    digest = hashlib.sha256(b"xyz").hexdigest()
    found = walk(path.read_bytes(), MemberRules())
    assert found is not None
    assert [(key, sha256) for key, _, sha256 in found[0]] == [("x", digest), ("a", digest), ("b", digest), ("c", None)]
    assert read(path, KeyRule.FIRST_DOT) == found
