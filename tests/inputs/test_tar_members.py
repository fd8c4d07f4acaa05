"""Members of a tar: each is in a row or is counted under one kind, wherever a reading starts."""

import io
import json
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.tar_reader import MemberGroup, read_groups
from pipeline.run.config import InputConfig, KeyRule
from pipeline.run.records import Chunk, InputShard, MemberCounts, ShardEnd, merge_members
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.hostile_files import END_MARKS, make_header, make_member

TAGS = b'{"tags": ["cat"]}'
LINK = "="
SYMBOLIC = ">"


def write_tar(members: Any, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of (name, content) pairs; the content is bytes, `=target`, `>target`, or the type of a member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            if isinstance(content, bytes) and len(content) != 1:
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
                continue
            if isinstance(content, bytes):
                header.type = content
            else:
                header.type = tarfile.LNKTYPE if content[0] == LINK else tarfile.SYMTYPE
                header.linkname = content[1:]
            archive.addfile(header)
    return buffer.getvalue()


def store(payload: bytes, uri: str = "memory://members/a.tar") -> InputShard:
    put_atomic(uri, payload)
    return InputShard(uri=uri, name="a", size_bytes=len(payload), etag="")


def read(shard: InputShard, start_offset: int = 0, first_chunk: int = 0, **options: Any) -> tuple[list[Any], Any]:
    *chunks, end = read_chunks(shard, InputConfig(**options), start_offset=start_offset, first_chunk=first_chunk)
    assert isinstance(end, ShardEnd)
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    return chunks, end


def sum_members(chunks: list[Any], end: ShardEnd) -> MemberCounts:
    counts = merge_members([*(chunk.members for chunk in chunks), end.members])
    assert counts is not None
    return counts


def read_rows(members: Any, **options: Any) -> tuple[list[Any], dict[str, int]]:
    """Keys of the rows, and numbers of members that were passed over by kind."""
    shard = store(write_tar(members))
    chunks, end = read(shard, **options)
    counts = sum_members(chunks, end)
    assert counts.num == len(members)
    samples = [sample for chunk in chunks for sample in chunk.samples]
    return samples, {str(kind): count.num for kind, count in counts.passed_over.items()}


KINDS = {
    "directory": ("b", tarfile.DIRTYPE),
    "symbolic_link": ("b.jpg", ">a.jpg"),
    "special_file": ("b.jpg", tarfile.FIFOTYPE),
    "in_hidden_folder": ("./x/.git/b.jpg", b"22"),
    "hidden_file": ("x/._b.jpg", b"22"),
    "no_suffix": ("README.", b"22"),
    "second_image": ("a.png", b"22"),
    "second_member": ("a.json", TAGS),
    "dotted_image": ("a.seg.png", b"22"),
    "unused_suffix": ("a.seg.npy", b"22"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_member_of_each_kind_is_passed_over_under_it(kind: str) -> None:
    samples, passed = read_rows([("a.jpg", b"11"), ("a.json", TAGS), KINDS[kind]])
    assert ([sample.key for sample in samples], passed) == (["a"], {kind: 1})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("__MACOSX/b.jpg", "in_hidden_folder"),
        (".cache/b.jpg", "in_hidden_folder"),
        ("__meta__", "hidden_file"),
        (".jpg", "hidden_file"),
        ("folder.d/README", "no_suffix"),
    ],
)
def test_names_of_hidden_folders_and_files_are_known(name: str, kind: str) -> None:
    assert read_rows([(name, b"22")]) == ([], {kind: 1})


def test_folders_that_stand_for_a_place_are_not_hidden() -> None:
    samples, passed = read_rows([("./a.jpg", b"11"), ("x/../b.jpg", b"22")])
    assert ([sample.key for sample in samples], passed) == (["./a", "x/../b"], {})


def test_samples_of_one_key_behind_one_another_are_one_row_each() -> None:
    samples, passed = read_rows([("k.jpg", b"11"), ("k.json", TAGS), ("k.jpg", b"22"), ("k.json", TAGS)])
    assert [(sample.key, sample.image, sample.tags) for sample in samples] == [
        ("k", b"11", ("cat",)),
        ("k", b"22", ("cat",)),
    ]
    assert passed == {}


def test_tags_before_their_images_start_the_second_sample_of_a_key() -> None:
    first, second = (json.dumps({"tags": [tag]}).encode() for tag in ("cat", "dog"))
    samples, passed = read_rows([("k.json", first), ("k.jpg", b"11"), ("k.json", second), ("k.jpg", b"22")])
    assert [(sample.image, sample.tags) for sample in samples] == [(b"11", ("cat",)), (b"22", ("dog",))]
    assert passed == {}


def test_repeated_members_that_get_no_image_are_no_sample() -> None:
    samples, passed = read_rows(
        [("k.jpg", b"11"), ("k.json", TAGS), ("k.json", TAGS), ("k.txt", b"cat"), ("k.x.png", b"22"), ("k.npy", b"22")]
    )
    assert ([sample.tags for sample in samples], passed) == ([("cat",)], {"second_member": 4})


DOTTED = [("IMG_1.json", TAGS), ("IMG_1.0.jpg", b"11"), ("IMG_1.0.json", TAGS), ("IMG_1.1.jpg", b"22")]


def test_images_of_dotted_names_are_a_row_each_that_names_the_option() -> None:
    samples, passed = read_rows([("a.jpg", b"11"), *DOTTED, ("IMG_1.1.jpg", b"22")])
    assert [sample.key for sample in samples] == ["a", "IMG_1.0", "IMG_1.1", "IMG_1.1"]
    assert all("'IMG_1." in sample.dotted_name_error for sample in samples[1:])
    assert all("--inputs.key last-dot" in sample.dotted_name_error for sample in samples[1:])
    assert all(sample.image is None for sample in samples[1:])
    assert passed == {"unused_suffix": 2}


def test_images_of_dotted_names_are_samples_under_the_last_dot() -> None:
    samples, passed = read_rows(DOTTED, key=KeyRule.LAST_DOT)
    assert [(sample.key, sample.image, sample.tags) for sample in samples] == [
        ("IMG_1", None, ("cat",)),
        ("IMG_1.0", b"11", ("cat",)),
        ("IMG_1.1", b"22", ()),
    ]
    assert passed == {}


def test_images_of_dotted_names_beside_a_plain_image_are_passed_over() -> None:
    samples, passed = read_rows([("k.depth.png", b"11"), ("k.jpg", b"22"), ("k.json", TAGS), ("k.seg.png", b"33")])
    assert ([(sample.key, sample.image) for sample in samples], passed) == ([("k", b"22")], {"dotted_image": 2})


def test_sample_without_an_image_names_its_members() -> None:
    (sample,), passed = read_rows([("k.ppm", b"11"), ("k.json", TAGS)])
    assert sample.no_image_error.startswith("no image among the members of this key: 'k.ppm', 'k.json'")
    assert passed == {"unused_suffix": 1}


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "jpe", "jfif", "PNG", "webp", "gif", "bmp", "tif", "TIFF", "avif"])
def test_image_is_found_under_every_suffix_of_an_image(suffix: str) -> None:
    (sample,), _ = read_rows([(f"k.{suffix}", b"11"), ("k.json", TAGS)])
    assert (sample.image, sample.image_name) == (b"11", suffix.lower())


LINKS = [
    ("d", tarfile.DIRTYPE),
    ("d/a.jpg", b"11"),
    ("d/a.json", TAGS),
    ("b.jpg", "=d/a.jpg"),
    ("b.json", "=./d/./a.json"),
    ("c.jpg", "=b.jpg"),
    ("c.json", b'{"tags": ["dog"]}'),
    ("d/a.jpg", b"22"),
    ("e.jpg", "=d/a.jpg"),
]


def test_hard_links_are_members_with_the_content_of_the_last_target_before_them(folder_uri: str) -> None:
    shard = store(write_tar(LINKS), join_uri(folder_uri, "a.tar"))
    options = {"max_chunk_samples": 1}
    chunks, end = read(shard, **options)
    assert [(sample.key, sample.image, sample.tags) for chunk in chunks for sample in chunk.samples] == [
        ("d/a", b"11", ("cat",)),
        ("b", b"11", ("cat",)),
        ("c", b"11", ("dog",)),
        ("d/a", b"22", ()),
        ("e", b"22", ()),
    ]
    assert sum_members(chunks, end).num == len(LINKS)
    for chunk in chunks:
        later, later_end = read(shard, chunk.end_offset, chunk.index + 1, **options)
        assert (later, later_end) == (chunks[chunk.index + 1 :], end)


def test_hard_link_that_is_passed_over_is_a_target_of_later_ones() -> None:
    members = [("a.jpg", b"11"), ("b.jpg", "=a.jpg"), ("b.png", "=a.jpg"), ("b.npy", "=a.jpg"), ("c.jpg", "=b.png")]
    samples, passed = read_rows([*members, ("d.jpg", "=b.npy")])
    assert [(sample.key, sample.image) for sample in samples] == [(key, b"11") for key in "abcd"]
    assert passed == {"second_image": 1, "unused_suffix": 1}


def test_hard_links_without_target_are_rejected_by_name() -> None:
    members = [("a.jpg", "=later.jpg"), ("a.txt", b"cat"), ("b.jpg", b"22"), ("b.json", "=gone.json")]
    samples, passed = read_rows([*members, ("later.jpg", b"33")])
    assert "'a.jpg' is a hard link to 'later.jpg', which is not in the archive before it" in samples[0].no_image_error
    assert (samples[0].image, samples[0].tags) == (None, ("cat",))
    assert "'b.json' is a hard link to 'gone.json'" in samples[1].tags_error
    assert passed == {}


def test_hard_link_to_an_image_above_the_limit_is_not_read() -> None:
    samples, _ = read_rows([("a.jpg", b"1" * 5000), ("b.jpg", "=a.jpg")], max_image_bytes=4000)
    assert [(sample.image, "5000 bytes" in sample.image_error) for sample in samples] == [(None, True)] * 2


def test_members_of_a_truncated_sample_are_counted_as_truncated() -> None:
    payload = write_tar([("a.jpg", b"11"), ("a.json", TAGS), ("b.json", TAGS), ("b.x", b"22"), ("b.jpg", b"33")])
    shard = store(payload[: 9 * 512 + 1])
    chunks, end = read(shard)
    assert [sample.key for chunk in chunks for sample in chunk.samples] == ["a"]
    assert (end.truncated_at, end.members) == (
        9 * 512 + 1,
        MemberCounts.parse({"num": 2, "passed_over": {"truncated": {"num": 2, "example": "b.json"}}}),
    )
    assert read(shard, chunks[0].end_offset, 1) == ([], end)


NAMES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "", "", "d/", "./", ".h/"]),
        st.sampled_from(["k", "k", "k", "IMG_1", "m", "._k", "__x__", "README"]),
        st.sampled_from([".jpg", ".jpg", ".PNG", ".json", ".json", ".txt", ".npy", ".0.jpg", ".1.jpg", ".0.json", ""]),
    ),
)
CONTENTS = st.one_of(
    st.sampled_from([TAGS, b"cat", b"", b"x" * 700]),
    st.sampled_from(
        [
            "=k.jpg",
            "=k.npy",
            "=k.PNG",
            "=IMG_1.0.jpg",
            "=gone.jpg",
            "=k.json",
            ">k.jpg",
            tarfile.DIRTYPE,
            tarfile.CHRTYPE,
        ]
    ),
)
ARCHIVES = st.lists(st.tuples(NAMES, st.one_of(st.just(TAGS), CONTENTS)), max_size=14)


@settings(max_examples=300, deadline=None)
@given(
    ARCHIVES,
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(1, 3),
    st.sampled_from(KeyRule),
    st.none() | st.floats(0, 1),
)
@example([("k.json", TAGS), ("k.0.jpg", TAGS), ("k.json", TAGS), ("k.1.jpg", TAGS)], 2, 1, KeyRule.FIRST_DOT, None)
@example(
    [("k.jpg", TAGS), ("k.json", TAGS), ("k.json", TAGS), ("._a", TAGS), ("k.jpg", TAGS)], 2, 1, KeyRule.FIRST_DOT, None
)
def test_rows_and_members_passed_over_are_all_members_wherever_a_reading_starts(
    members: Any, tar_format: int, max_samples: int, key: KeyRule, cut: float | None
) -> None:
    payload = write_tar(members, tar_format)
    if cut is not None:
        payload = payload[: max(512, round(cut * len(payload)))]
    shard = store(payload)
    options: dict[str, Any] = {"max_chunk_samples": max_samples, "key": key}
    chunks, end = read(shard, **options)
    counts = sum_members(chunks, end)
    passed = sum(count.num for count in counts.passed_over.values())
    found = read_groups(shard, max_image_bytes=2**20, key_rule=key)
    groups = [group for group in found if isinstance(group, MemberGroup)]
    # Members in rows: the image, and one member of each kind of tags.
    in_rows = sum(
        bool(group.image_name) + len({*group.tag_payloads, *group.oversized_tags, *group.broken_tags})
        for group in groups
    )
    assert counts.num == passed + in_rows
    if end.truncated_at is None:
        with tarfile.open(fileobj=io.BytesIO(payload)) as archive:
            assert counts.num == len(archive.getmembers())
    assert [sample.key for chunk in chunks for sample in chunk.samples] == [group.key for group in groups]
    for chunk in chunks:
        later, later_end = read(shard, chunk.end_offset, chunk.index + 1, **options)
        assert (later, later_end) == (chunks[chunk.index + 1 :], end)


@pytest.mark.parametrize("suffix", ["x", "jpg"])
def test_many_members_of_one_key_are_read_in_bounded_memory(tmp_path: Path, suffix: str) -> None:
    """5,000 members whose names differ: more than are remembered."""
    num = 5_000
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        for number in range(num):
            file.write(make_header(f"k.{number}.{suffix}", 0))
        file.write(END_MARKS)
    shard = InputShard(uri=str(path), name="a", size_bytes=0, etag="")
    tracemalloc.start()
    rows, counts = Counter[str](), MemberCounts()
    for piece in read_chunks(shard, InputConfig()):
        assert piece.members is not None
        counts = counts.merge(piece.members)
        if isinstance(piece, Chunk):
            rows.update("dotted" if sample.dotted_name_error else "plain" for sample in piece.samples)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.num == num
    assert rows == ({"plain": 1} if suffix == "x" else {"dotted": num})
    assert peak_bytes < 10 * 2**20


def test_many_hard_links_are_read_in_bounded_memory(tmp_path: Path) -> None:
    num = 3_000
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(make_member("a.jpg", b"1" * 400))
        for number in range(num):
            header = tarfile.TarInfo(f"k{number}.jpg")
            header.type, header.linkname = tarfile.LNKTYPE, f"k{number - 1}.jpg" if number else "a.jpg"
            file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.write(END_MARKS)
    shard = InputShard(uri=str(path), name="a", size_bytes=0, etag="")
    tracemalloc.start()
    num_images = sum(
        sample.image == b"1" * 400
        for piece in read_chunks(shard, InputConfig())
        if isinstance(piece, Chunk)
        for sample in piece.samples
    )
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_images == num + 1
    assert peak_bytes < 10 * 2**20
