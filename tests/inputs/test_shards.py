"""Shards that patterns match, and their chunks."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ShardError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard, ShardEnd
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.factories import make_parquet, make_tar


def make_archive(members: Any, tar_format: Any = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, payload in members:
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))
    return buffer.getvalue()


def store(payload: bytes, uri: str = "memory://shards/a.tar") -> InputShard:
    put_atomic(uri, payload)
    return InputShard(uri=uri, name="a", size_bytes=len(payload), etag="")


def read_all(payload: bytes, **options: Any) -> tuple[Any, Any]:
    """Chunks and end of an archive."""
    config = InputConfig(
        **{name: value for name, value in options.items() if name not in ("start_offset", "first_chunk")}
    )
    places = {name: value for name, value in options.items() if name in ("start_offset", "first_chunk")}
    *chunks, end = read_chunks(store(payload), config, **places)
    assert isinstance(end, ShardEnd)
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    return chunks, end


def read_samples(members: Any, **options: Any) -> list[Any]:
    chunks, _ = read_all(make_archive(members), **options)
    return [sample for chunk in chunks for sample in chunk.samples]


NAMES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "dogs/", "./", "ordner mit ß/", "x" * 120 + "/"]),
        st.sampled_from(["a", "b", "羊", "y" * 130, "._a", "__meta__", "noext"]),
        st.sampled_from([".jpg", ".PNG", ".json", ".txt", ".cls", ".seg.png", ""]),
    ),
)
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(MEMBERS, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.integers(1, 3), st.integers(1, 4000))
def test_resume_at_every_chunk_gives_the_same_later_chunks(
    members: Any, tar_format: Any, max_samples: int, max_bytes: int
) -> None:
    payload = make_archive(members, tar_format)
    limits = {"max_chunk_samples": max_samples, "max_chunk_bytes": max_bytes}
    chunks, end = read_all(payload, **limits)
    assert [chunk.index for chunk in chunks] == list(range(end.num_chunks))
    for chunk in chunks:
        assert 1 <= len(chunk.samples) <= max_samples
        later, later_end = read_all(payload, start_offset=chunk.end_offset, first_chunk=chunk.index + 1, **limits)
        assert later == chunks[chunk.index + 1 :]
        assert (later_end.num_chunks, later_end.truncated_at) == (end.num_chunks, None)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archive_truncated_anywhere_yields_its_complete_samples(tar_format: Any) -> None:
    members = []
    for name in ("a", "n" * 120, "c"):
        members += [(f"{name}.jpg", name.encode() * 5), (f"{name}.json", b'{"tags": ["cat"]}')]
    payload = make_archive(members, tar_format)
    limits = {"max_chunk_samples": 1}
    whole, _ = read_all(payload, **limits)
    last_mark = len(payload.rstrip(b"\0")) // 512 * 512 + 512
    for size in sorted({*range(512, last_mark + 1, 512), *range(513, last_mark, 97)}):
        chunks, end = read_all(payload[:size], **limits)
        samples = [chunk.samples for chunk in chunks]
        assert samples == [chunk.samples for chunk in whole[: len(samples)]], size
        assert end.truncated_at == size
        for chunk in chunks:
            options = limits | {"start_offset": chunk.end_offset, "first_chunk": chunk.index + 1}
            later, later_end = read_all(payload[:size], **options)
            assert (later, later_end) == (chunks[chunk.index + 1 :], end)
    marked = read_all(payload[: last_mark + 512], **limits)
    assert marked == (whole, ShardEnd(num_chunks=3))


def test_archive_with_a_broken_header_in_the_middle_reports_its_offset() -> None:
    payload = make_archive([("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c")], tarfile.GNU_FORMAT)
    chunks, end = read_all(payload[:1024] + b"?" * 512 + payload[1536:])
    assert end.truncated_at == 1024
    assert chunks == []
    tagged = make_archive([("a.jpg", b"a"), ("a.txt", b"x"), ("b.jpg", b"b")], tarfile.GNU_FORMAT)
    chunks, end = read_all(tagged[:2048] + b"?" * 512 + tagged[2560:])
    assert (end.truncated_at, [sample.key for sample in chunks[0].samples]) == (2048, ["a"])


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "it is empty"),
        (b"no tar" * 300, "no tar archive"),
        (gzip.compress(make_archive([("a.jpg", b"a")])), "gzip"),
    ],
    ids=["empty", "other", "compressed"],
)
def test_file_that_is_not_an_archive_is_refused(payload: Any, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        read_all(payload)


def test_empty_archive_has_no_chunks() -> None:
    assert read_all(make_archive([])) == ([], ShardEnd(num_chunks=0))


def test_concatenated_archives_are_all_read() -> None:
    chunks, end = read_all(make_archive([("a.jpg", b"a")]) + make_archive([("b.jpg", b"b")]), max_chunk_samples=1)
    assert [chunk.samples[0].key for chunk in chunks] == ["a", "b"]
    assert end.truncated_at is None


def test_members_to_ignore_are_counted_and_part_no_sample() -> None:
    members = [("._a.jpg", b""), ("a.jpg", b"i"), ("._a.json", b""), ("a.json", b'{"tags": []}'), ("README", b"")]
    chunks, end = read_all(make_archive([*members, ("d/__meta__", b"")]))
    assert end.num_ignored_members == 4
    assert [sample.key for chunk in chunks for sample in chunk.samples] == ["a"]


def test_key_repeated_in_the_chunk_is_a_continuation() -> None:
    samples = read_samples([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"cat")])
    assert [(sample.key, sample.is_continuation) for sample in samples] == [("a", False), ("b", False), ("a", True)]


def test_first_image_wins() -> None:
    (sample,) = read_samples([("a.seg.png", b"mask"), ("a.JPG", b"1"), ("a.webp", b"2")])
    assert (sample.image, sample.image_name) == (b"1", "jpg")


@pytest.mark.parametrize(
    ("members", "tags", "numbers", "error"),
    [
        ({"json": b'{"tags": ["cat", 3, " "]}', "txt": b"dog"}, ("cat", "3"), (), ""),
        ({"json": b'{"tags": "cat, red dog"}'}, ("cat", "red dog"), (), ""),
        ({"json": b'{"tagz": []}', "txt": b"dog\ncow,pig\r\n"}, ("dog", "cow", "pig"), (), ""),
        ({"json": b'{"tagz": []}'}, (), (), "no field 'tags'; its fields: 'tagz'"),
        ({"json": b"{"}, (), (), "'a.json' is not JSON"),
        ({"json": b"[1]"}, (), (), "holds a list"),
        ({"json": b'{"tags": {"cat": 1}}'}, (), (), "is dict"),
        ({"json": b'{"tags": [null]}'}, (), (), "holds a NoneType"),
        ({"json": b'{"tags": ["\\ud800"]}'}, ("?",), (), ""),
        ({"txt": b"\xff"}, (), (), "not UTF-8"),
        ({"cls": b"7\n"}, (), (7,), ""),
        ({"cls": b"cat"}, ("cat",), (), ""),
        ({}, (), (), ""),
    ],
)
def test_tags_of_a_sample_come_from_json_then_txt_then_cls(
    members: dict[str, bytes], tags: tuple[str, ...], numbers: tuple[int, ...], error: str
) -> None:
    (sample,) = read_samples([("a.jpg", b"i"), *((f"a.{suffix}", payload) for suffix, payload in members.items())])
    assert (sample.tags, sample.class_numbers) == (tags, numbers)
    assert error in sample.tags_error
    assert bool(error) == bool(sample.tags_error)


def test_sample_whose_download_failed_contains_the_reason() -> None:
    failed = b'{"status": "failed_to_download", "error_message": "HTTP Error 404"}'
    members = [
        ("a.json", failed),
        ("b.jpg", b"i"),
        ("b.json", failed),
        ("c.json", b'{"status": "success", "error_message": null}'),
        ("d.json", b'{"status": "failed_to_resize", "error_message": null}'),
        ("e.json", b"["),
    ]
    errors = {sample.key: sample.download_error for sample in read_samples(members)}
    assert errors == {
        "a": "failed_to_download: HTTP Error 404",
        "b": "",
        "c": "",
        "d": "failed_to_resize: no reason given",
        "e": "",
    }


def test_list_shards_takes_folders_globs_braces_and_names(folder_uri: str) -> None:
    uris = [join_uri(folder_uri, name) for name in ("a-00.tar", "a-01.tar", "deep/b.tar")]
    for uri in [*uris, join_uri(folder_uri, "readme.md")]:
        put_atomic(uri, b"x")
    for patterns, expected in [
        ([folder_uri], uris),
        ([join_uri(folder_uri, "*.tar")], uris[:2]),
        ([join_uri(folder_uri, "a-{00..01}.tar")], uris[:2]),
        ([uris[1], folder_uri, uris[0]], [uris[1], uris[0], uris[2]]),
    ]:
        assert [shard.uri for shard in list_shards(patterns)] == expected


def test_list_shards_many_missing_names_are_counted(folder_uri: str) -> None:
    put_atomic(join_uri(folder_uri, "a-00.tar"), b"x")
    for last, count in ((3, 3), (40, 40)):
        with pytest.raises(ShardError, match=f"{count} of {count + 1} shards do not exist"):
            list_shards([join_uri(folder_uri, f"a-{{00..{last:02d}}}.tar")])


def test_list_shards_takes_parquet_files_as_it_takes_archives(folder_uri: str) -> None:
    uris = [join_uri(folder_uri, name) for name in ("a-00.parquet", "a-01.parquet", "deep/b.parquet")]
    for uri in [*uris, join_uri(folder_uri, "a-00_stats.json"), join_uri(folder_uri, "readme.md")]:
        put_atomic(uri, b"x")
    for pattern, expected in [
        (folder_uri, uris),
        (join_uri(folder_uri, "a-*"), uris[:2]),
        (join_uri(folder_uri, "a-{00..01}.parquet"), uris[:2]),
        (uris[2], uris[2:]),
    ]:
        shards = list_shards([pattern])
        assert [shard.uri for shard in shards] == expected
        assert all(shard.is_parquet for shard in shards)
        assert shards[-1].name == expected[-1].rpartition("/")[2].removesuffix(".parquet")


def test_list_shards_folder_with_archives_and_other_parquet_files_is_refused_with_both_named(folder_uri: str) -> None:
    for name in ("a.tar", "a.parquet", "b.parquet"):
        put_atomic(join_uri(folder_uri, name), b"x")
    message = r"tars such as .*a\.tar' and other .*b\.parquet'; name those that you mean, as in .*\*\.tar"
    with pytest.raises(ShardError, match=message):
        list_shards([folder_uri])
    assert len(list_shards([join_uri(folder_uri, "*")])) == 3


def test_list_shards_archives_with_their_metadata_beside_them_are_the_shards(folder_uri: str) -> None:
    for number in range(2):
        for suffix in (".tar", ".parquet", "_stats.json"):
            put_atomic(join_uri(folder_uri, f"{number:05d}{suffix}"), b"x")
    put_atomic(join_uri(folder_uri, "00002.tar"), b"x")
    expected = [join_uri(folder_uri, f"{number:05d}.tar") for number in range(3)]
    assert [shard.uri for shard in list_shards([folder_uri])] == expected


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
@pytest.mark.parametrize("out", ["", "masks/"])
def test_list_shards_outputs_below_the_folder_are_not_inputs(tmp_path: Path, suffix: str, out: str) -> None:
    for name in (f"a.{suffix}", f"{out}run.json", f"{out}labels/a.parquet", f"{out}parts/a/000000-1.parquet"):
        put_atomic(str(tmp_path / name), b"x")
    assert [shard.uri for shard in list_shards([str(tmp_path)])] == [str(tmp_path / f"a.{suffix}")]


def test_list_shards_same_base_name_gets_names_that_are_distinct_and_the_same_in_any_order(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "a b.tar", tmp_path / "y" / "a b.tar", tmp_path / "y" / "A b.parquet"]
    for path in paths:
        put_atomic(str(path), b"x")
    names = {shard.uri: shard.name for shard in list_shards([str(path) for path in paths])}
    assert len(set(names.values())) == 3
    assert all(name.casefold().startswith("a_b-") and len(name) == 12 for name in names.values())
    assert {shard.uri: shard.name for shard in list_shards([str(path) for path in reversed(paths)])} == names


def test_list_shards_shard_matched_twice_is_listed_once(tmp_path: Path) -> None:
    put_atomic(str(tmp_path / "a.tar"), b"x")
    patterns = [str(tmp_path / "a.tar"), str(tmp_path / "sub" / ".." / "a.tar"), str(tmp_path), str(tmp_path / "*.tar")]
    assert [shard.name for shard in list_shards(patterns)] == ["a"]


def test_list_shards_literal_name_with_pattern_characters_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a[1]{2}*.tar"
    put_atomic(str(path), b"x")
    put_atomic(str(tmp_path / "a1.tar"), b"x")
    assert [shard.uri for shard in list_shards([str(path)])] == [str(path)]


def test_list_shards_reads_a_list_of_names(tmp_path: Path) -> None:
    put_atomic(str(tmp_path / "a.tar"), b"x")
    (tmp_path / "list.txt").write_text(f"# ours\n\n{tmp_path}/a.tar\n")
    assert [shard.name for shard in list_shards([f"@{tmp_path}/list.txt"])] == ["a"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none.tar", "neither a file nor a folder"),
        ("*.zip", "matches no file"),
        ("a.tar.gz", "is compressed, which is not supported; decompress it"),
        ("*.gz", "is compressed, which is not supported; decompress it"),
        ("", "is compressed, which is not supported; decompress it"),
        ("notes", "a folder of 1 file .*, none of them \\*.tar or \\*.parquet"),
    ],
)
def test_list_shards_without_a_usable_match_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    for name in ("a.md", "a.tar.gz", "notes/a.txt"):
        put_atomic(str(tmp_path / name), b"x")
    with pytest.raises(ShardError, match=message):
        list_shards([str(tmp_path / pattern)])


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_chunk_boundaries_do_not_depend_on_the_image_limit(tmp_path: Path, suffix: str) -> None:
    """Otherwise a retry with a higher limit would look for its rows in other chunks."""
    sizes = [100, 900, 100, 300, 2000, 100, 100, 100]
    if suffix == "tar":
        make_tar(tmp_path / "a.tar", {f"{n}": {"jpg": b"x" * size, "txt": b"cat"} for n, size in enumerate(sizes)})
    else:
        columns = {"image": [b"x" * size for size in sizes], "tags": [["cat"]] * len(sizes)}
        make_parquet(tmp_path / "a.parquet", columns)
    (shard,) = list_shards([str(tmp_path / f"a.{suffix}")])
    ends = [
        [
            (piece.end_offset, len(piece.samples))
            for piece in read_chunks(shard, InputConfig(max_chunk_bytes=1000, max_image_bytes=limit))
            if isinstance(piece, Chunk)
        ]
        for limit in (1, 500, 1000, 10_000)
    ]
    assert [number for _, number in ends[0]] == [2, 3, 3]
    assert all(end == ends[0] for end in ends)
