"""Samples of Parquet files: equal to those of tars, read in pieces, and refused when columns do not fit."""

import dataclasses
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.commit.plan import ShardWork
from pipeline.errors import ShardError, StorageError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.parquet_reader import read_parquet_samples
from pipeline.inputs.shards import list_shards
from pipeline.labelling.chunk_rows import read_rows, to_row, to_samples
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, ShardEnd
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from pipeline.training.data.survey import survey_shards
from tests.factories import make_parquet, make_photo, make_tar
from tests.fakes import REPORTING, FaultyStore

TAGS = (["cat"], ["dog", "cat"], ["film"])
WHOLE_NUMBERS = (pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.decimal128(20, 0))
NO_KEYS = (
    *(pa.float32(), pa.bool_(), pa.date32(), pa.timestamp("us"), pa.time64("us"), pa.binary(), pa.binary(16)),
    *(pa.decimal128(20, 2), pa.list_(pa.string()), pa.struct([("id", pa.int64())])),
)


def read_pieces(path: Path | str, start_offset: int = 0, first_chunk: int = 0, **options: Any) -> tuple[Any, Any]:
    (shard,) = list_shards([str(path)])
    *chunks, end = read_chunks(shard, InputConfig(**options), start_offset=start_offset, first_chunk=first_chunk)
    assert isinstance(end, ShardEnd)
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    return chunks, end


def read_samples(path: Path | str, **options: Any) -> list[Any]:
    return [sample for chunk in read_pieces(path, **options)[0] for sample in chunk.samples]


def make_bulk(path: Path, num_rows: int, row_group_size: Any, image_bytes: int = 100, **columns: Any) -> Path:
    rng = np.random.default_rng(0)
    images = [rng.bytes(image_bytes) for _ in range(num_rows)]
    # Random images do not shrink, so that the bytes read are proportional to the rows read.
    return make_parquet(path, {"image": images, "tags": [["cat"]] * num_rows} | columns, row_group_size)


@pytest.fixture
def faulty_file() -> Iterator[Any]:
    """A function that puts a file into the store that records its reads and fails on command; returns its URI."""
    FaultyStore.reset()

    def put(path: Path) -> str:
        put_atomic("faulty://in/a.parquet", path.read_bytes())
        return "faulty://in/a.parquet"

    yield put
    FaultyStore.reset()


def test_samples_of_a_parquet_file_are_those_of_a_tar_with_the_same_photos(tmp_path: Path) -> None:
    photos = [make_photo(index) for index in range(7)]
    tags = [TAGS[index % 3] for index in range(7)]
    make_parquet(tmp_path / "a.parquet", {"key": [f"k{n}" for n in range(7)], "image": photos, "tags": tags}, 3)
    make_tar(
        tmp_path / "a.tar",
        {f"k{n}": {"jpg": photo, "txt": ",".join(tags[n]).encode()} for n, photo in enumerate(photos)},
    )

    def describe(path: Path) -> tuple[Any, list[list[tuple[Any, Any, Any, Any]]]]:
        chunks, end = read_pieces(path, max_chunk_samples=2)
        return dataclasses.replace(end, members=None), [
            [(sample.key, sample.image, sample.tags, sample.tags_error) for sample in chunk.samples] for chunk in chunks
        ]

    assert describe(tmp_path / "a.parquet") == describe(tmp_path / "a.tar")


@settings(max_examples=40)
@given(
    num_rows=st.integers(0, 60),
    row_group_size=st.integers(1, 40),
    max_samples=st.integers(1, 25),
    max_bytes=st.integers(1, 3000),
)
def test_resume_at_every_chunk_gives_the_same_later_chunks(
    tmp_path_factory: pytest.TempPathFactory, num_rows: int, row_group_size: int, max_samples: int, max_bytes: int
) -> None:
    path = make_bulk(tmp_path_factory.mktemp("bulk") / "a.parquet", num_rows, row_group_size)
    limits = {"max_chunk_samples": max_samples, "max_chunk_bytes": max_bytes}
    chunks, end = read_pieces(path, **limits)
    assert end == ShardEnd(num_chunks=len(chunks))
    assert [sample.key for chunk in chunks for sample in chunk.samples] == [f"{row:09d}" for row in range(num_rows)]
    num_read = 0
    for index, chunk in enumerate(chunks):
        num_read += len(chunk.samples)
        assert (chunk.index, chunk.end_offset) == (index, num_read)
        assert read_pieces(path, chunk.end_offset, index + 1, **limits) == (chunks[index + 1 :], end)


def test_chunks_do_not_depend_on_the_row_groups(tmp_path: Path) -> None:
    limits = {"max_chunk_samples": 9, "max_chunk_bytes": 700}
    expected = read_pieces(make_bulk(tmp_path / "a.parquet", 50, 50), **limits)
    assert read_pieces(make_bulk(tmp_path / "b.parquet", 50, 7), **limits) == expected


def test_resume_does_not_read_the_row_groups_before_its_row(tmp_path: Path, faulty_file: Any) -> None:
    path = make_bulk(tmp_path / "a.parquet", 100, 10, image_bytes=20_000)
    footer = pq.read_metadata(path)
    uri = faulty_file(path)
    read_pieces(uri)
    whole = sum(size for _, size in FaultyStore.reads)
    FaultyStore.heal()
    _, end = read_pieces(uri, start_offset=75, first_chunk=3)
    assert end.num_chunks == 4
    starts = [footer.row_group(group).column(0).dictionary_page_offset or 0 for group in range(10)]
    assert min(start for start, _ in FaultyStore.reads) >= starts[7] > 0
    assert sum(size for _, size in FaultyStore.reads) < 0.4 * whole


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path, faulty_file: Any) -> None:
    rng = np.random.default_rng(1)
    other = [rng.bytes(50_000) for _ in range(40)]
    path = make_bulk(tmp_path / "a.parquet", 40, 20, image_bytes=1000, depth=other)
    read_pieces(faulty_file(path))
    # The footer is read with up to 64 KiB before it.
    assert sum(size for _, size in FaultyStore.reads) < 200_000 < path.stat().st_size


def test_row_group_is_fetched_in_pieces(tmp_path: Path, faulty_file: Any) -> None:
    columns = {"image": [bytes([number]) * 10_000 for number in range(200)], "tags": ["cat"] * 200}
    # A page is the smallest readable unit.
    pages = {"data_page_size": 50_000, "write_batch_size": 4, "use_dictionary": False, "compression": "none"}
    path = make_parquet(tmp_path / "a.parquet", columns, 200, **pages)
    (shard,) = list_shards([faulty_file(path)])
    samples = read_parquet_samples(shard, InputConfig(), buffer_bytes=100_000)
    assert [sample.image for _, sample in samples] == columns["image"]
    assert max(size for _, size in FaultyStore.reads) < 300_000 < path.stat().st_size


@pytest.mark.parametrize(
    ("values", "tags", "numbers", "error"),
    [
        ([["cat", " ", "red dog "]], ("cat", "red dog"), (), ""),
        (["cat, red dog;cow"], ("cat", "red dog", "cow"), (), ""),
        (pa.array([["cat", "dog"]], pa.large_list(pa.large_string())), ("cat", "dog"), (), ""),
        (pa.array(["cat"]).dictionary_encode(), ("cat",), (), ""),
        ([["3", "cat"]], ("3", "cat"), (), ""),
        ([[3, 7]], (), (3, 7), ""),
        (pa.array([[3, 7]], pa.list_(pa.int64(), 2)), (), (3, 7), ""),
        (pa.array([5], pa.uint8()), (), (5,), ""),
        ([-1], (), (-1,), ""),
        (pa.array([2**64 - 1], pa.uint64()), (f"#{2**64 - 1}",), (), ""),
        (pa.array([None], pa.list_(pa.string())), (), (), ""),
        (pa.nulls(1), (), (), ""),
        ([["cat", None]], (), (), "holds a list with a null"),
        (pa.array([[b"\xff"]], pa.list_(pa.binary())).cast(pa.list_(pa.binary())), None, None, "holds list"),
    ],
)
def test_tags_may_be_lists_text_or_class_numbers(
    tmp_path: Path, values: Any, tags: Any, numbers: tuple[int, ...] | None, error: str
) -> None:
    path = make_parquet(tmp_path / "a.parquet", {"image": [b"i"], "tags": values})
    if tags is None:
        with pytest.raises(ShardError, match=error):
            read_samples(path, class_numbers="zero-based")
        return
    (sample,) = read_samples(path, class_numbers="zero-based")
    assert (sample.tags, sample.class_numbers) == (tags, numbers)
    assert error in sample.tags_error
    assert bool(error) == bool(sample.tags_error)
    (chunk,), _ = read_pieces(path, class_numbers="zero-based")
    assert to_samples(to_row("a", chunk)) == (sample,)


def test_text_that_is_not_utf8_affects_its_row_only(tmp_path: Path) -> None:
    broken = pa.array([b"cat", b"\xff\xfe"])
    text = pa.StringArray.from_buffers(2, broken.buffers()[1], broken.buffers()[2])
    path = make_parquet(tmp_path / "a.parquet", {"image": [b"1", b"2"], "tags": text, "key": text})
    first, second = read_samples(path)
    assert (first.key, first.tags, first.tags_error) == ("cat", ("cat",), "")
    assert (second.key, second.tags) == ("000000001", ())
    assert "column 'tags' is not UTF-8" in second.tags_error


@pytest.mark.parametrize(
    "images",
    [
        [b"one", None],
        pa.array([b"one", None], pa.large_binary()),
        [{"bytes": b"one", "path": "1.jpg"}, {"bytes": None, "path": "2.jpg"}],
        [{"bytes": b"one", "path": "1.jpg"}, None],
    ],
)
def test_image_may_be_binary_or_a_struct_with_bytes_and_may_be_missing(tmp_path: Path, images: Any) -> None:
    path = make_parquet(tmp_path / "a.parquet", {"image": images, "tags": [["cat"]] * 2})
    assert [(sample.image, sample.image_name) for sample in read_samples(path)] == [(b"one", "image"), (None, "")]


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"webp": b"w", "jpg": b"j"}, {}, b"j"),
        ({"png": b"p", "image": b"i"}, {}, b"i"),
        ({"png": b"p", "image": b"i"}, {"image_column": "png"}, b"p"),
    ],
)
def test_image_column_is_the_one_that_is_named_or_the_first_that_is_usual(
    tmp_path: Path, columns: dict[str, bytes], options: dict[str, str], expected: bytes
) -> None:
    path = make_parquet(tmp_path / "a.parquet", {name: [image] for name, image in columns.items()} | {"tags": ["cat"]})
    assert [sample.image for sample in read_samples(path, **options)] == [expected]


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({}, {}, ["000000000", "000000001", "000000002"]),
        ({"key": ["a", None, ""]}, {}, ["a", "000000001", "000000002"]),
        ({"__key__": ["a", "b", "c"]}, {}, ["a", "b", "c"]),
        ({"__key__": ["a", "b", "c"], "key": [0, 1, 20]}, {}, ["0", "1", "20"]),
        ({"key": [0.5, 1.5, 2.5], "__key__": ["a", "b", "c"]}, {}, ["a", "b", "c"]),
        ({"key": ["a", "b", "c"], "name": ["x", "y", "z"]}, {"key_column": "name"}, ["x", "y", "z"]),
        *[({"key": pa.array([7, None, 0], kind)}, {}, ["7", "000000001", "0"]) for kind in WHOLE_NUMBERS],
        ({"key": pa.array([-7, None, -7]).dictionary_encode()}, {}, ["-7", "000000001", "-7"]),
        ({"key": pa.array(["a", None, "b"]).dictionary_encode()}, {}, ["a", "000000001", "b"]),
        ({"key": pa.array(["a", "", "b"], pa.large_string())}, {}, ["a", "000000001", "b"]),
        ({"key": pa.array([10**25, 1, 2], pa.decimal128(30))}, {}, [f"1{25 * '0'}", "1", "2"]),
        ({"key": pa.array([2**64 - 1, 1, 2], pa.uint64())}, {}, [str(2**64 - 1), "1", "2"]),
    ],
)
def test_keys_come_from_their_column_or_are_row_numbers(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, str], expected: list[str]
) -> None:
    path = make_parquet(tmp_path / "a.parquet", {"image": [b"i"] * 3, "tags": [["cat"]] * 3} | columns, 2)
    assert [sample.key for sample in read_samples(path, **options)] == expected


@pytest.mark.parametrize("kind", NO_KEYS, ids=str)
def test_keys_of_several_spellings_are_refused_with_what_to_do(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {"key": pa.array([None, None], kind), "image": [b"i"] * 2, "tags": ["cat"] * 2, "id": ["a", "b"]}
    path = make_parquet(tmp_path / "a.parquet", columns)
    message = r"column 'key' holds .*, need text or whole numbers \(cast it .*by --inputs.key-column: .*'id'"
    with pytest.raises(ShardError, match=message):
        read_samples(path)
    assert [sample.key for sample in read_samples(path, key_column="id")] == ["a", "b"]


def test_keys_that_are_equal_as_text_are_duplicates(tmp_path: Path) -> None:
    columns = {"key": pa.array([7, 7, None], pa.int64()), "image": [b"i"] * 3, "tags": ["cat"] * 3}
    samples = read_samples(make_parquet(tmp_path / "a.parquet", columns))
    assert [sample.is_continuation for sample in samples] == [False, True, False]


def test_key_repeated_in_the_chunk_is_a_continuation(tmp_path: Path) -> None:
    columns = {"key": ["a", "b", "a"], "image": [b"1", b"2", b"3"], "tags": ["cat"] * 3}
    samples = read_samples(make_parquet(tmp_path / "a.parquet", columns))
    assert [sample.is_continuation for sample in samples] == [False, False, True]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"picture": [b"i"], "tags": ["cat"]},
            {},
            "no column 'image' or 'jpg' or .* or 'webp'; .* by --inputs.image-column: 'picture', 'tags'",
        ),
        (
            {"jpg": [b"i"], "tags": ["cat"]},
            {"image_column": "photo"},
            "no column 'photo'; .*image-column: 'jpg', 'tags'",
        ),
        ({"image": [b"i"], "labels": ["cat"]}, {}, "no column 'tags' or 'txt' or 'caption'; .*tags-field: .*'labels'"),
        ({"image": [b"i"], "tags": ["cat"]}, {"tags_field": "words"}, "no column 'words'; .*tags-field"),
        ({"image": [b"i"], "tags": ["cat"]}, {"key_column": "id"}, "no column 'id'; .*key-column"),
        ({"image": [b"i"], "tags": ["cat"], "key": [0.5]}, {}, "column 'key' holds double, need text or whole numbers"),
        ({"image": ["a.jpg"], "tags": ["cat"]}, {}, "column 'image' holds string, need bytes, or struct"),
        ({"image": [{"path": "a.jpg"}], "tags": ["cat"]}, {}, "column 'image' holds struct"),
        ({"image": [b"i"], "tags": [0.5]}, {}, "column 'tags' holds numbers; add --inputs.class-numbers"),
        ({"image": [b"i"], "tags": [[{"x": 1}]]}, {}, "column 'tags' holds list"),
        ({"image": [b"i"], "tags": ["cat"], "id": [b"k"]}, {"key_column": "id"}, "column 'id' holds binary, need text"),
    ],
)
def test_file_without_a_fitting_column_is_refused_with_those_it_has(
    tmp_path: Path, columns: dict[str, list[Any]], options: dict[str, str], message: str
) -> None:
    path = make_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(ShardError, match=message) as raised:
        read_samples(path, **options)
    assert str(path) in str(raised.value)


def test_file_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([b"i"]), pa.array([b"j"]), pa.array(["cat"])], ["image", "image", "tags"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ShardError, match="several columns 'image'"):
        read_samples(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["tags_field", "image_column", "key_column"])
def test_empty_column_name_is_a_wrong_value(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is empty"):
        InputConfig(**{name: ""})


def test_file_without_rows_has_no_chunks(tmp_path: Path) -> None:
    columns = {"image": pa.array([], pa.binary()), "tags": pa.array([], pa.string())}
    assert read_pieces(make_parquet(tmp_path / "a.parquet", columns)) == (
        [],
        ShardEnd(num_chunks=0),
    )


def test_file_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    payload = make_bulk(tmp_path / "whole.parquet", 20, 5).read_bytes()
    for size in [*range(16), *range(16, len(payload), 61), len(payload) - 1]:
        (tmp_path / "truncated.parquet").write_bytes(payload[:size])
        with pytest.raises(
            ShardError, match=r"truncated\.parquet' is no readable Parquet file: .*; copy it again or leave"
        ):
            read_samples(tmp_path / "truncated.parquet")


def test_broken_page_fails_its_shard_and_the_others_are_read(tmp_path: Path) -> None:
    path = make_bulk(tmp_path / "a.parquet", 40, 10, image_bytes=1000)
    column = pq.read_metadata(path).row_group(2).column(0)
    payload = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    payload[start : start + 40] = b"\xff" * 40
    path.write_bytes(payload)
    make_bulk(tmp_path / "b.parquet", 3, 3)
    (tmp_path / "c.parquet").write_bytes(b"")
    work = [ShardWork(shard=shard) for shard in list_shards([str(tmp_path)])]
    rows = [row.to_pylist()[0] for row in read_rows(work, InputConfig(max_chunk_samples=10), REPORTING)]
    ends = {row["shard_name"]: row["error"] for row in rows if row["is_end"]}
    assert "a.parquet' is no readable Parquet file" in ends["a"]
    assert ends["b"] is None
    assert "c.parquet' is no readable Parquet file" in ends["c"]
    assert sum(len(row["samples"]) for row in rows if row["shard_name"] == "b" and not row["is_end"]) == 3


def test_page_that_does_not_fit_its_checksum_is_refused(tmp_path: Path) -> None:
    # The minimum and maximum are also in the statistics, which have no checksum.
    columns = {"image": [letter * 1000 for letter in (b"a", b"m", b"z")], "tags": ["cat"] * 3}
    path = make_parquet(
        tmp_path / "a.parquet", columns, compression="none", use_dictionary=False, write_page_checksum=True
    )
    payload = bytearray(path.read_bytes())
    place = payload.find(columns["image"][1])
    payload[place + 500] ^= 1
    path.write_bytes(payload)
    with pytest.raises(ShardError, match="is no readable Parquet file: .*CRC"):
        read_samples(path)


def test_error_of_the_store_is_not_a_shard_error(tmp_path: Path, faulty_file: Any) -> None:
    uri = faulty_file(make_bulk(tmp_path / "a.parquet", 40, 10))
    (shard,) = list_shards([uri])
    for num_reads in range(4):
        FaultyStore.heal()
        samples = read_parquet_samples(shard, InputConfig())
        # The failure is at the opening, in the footer, or in columns.
        FaultyStore.before_read = staticmethod(lambda name, num_reads=num_reads: fail_after(num_reads))
        with pytest.raises(StorageError, match="the network is down"):
            list(samples)


def fail_after(num_reads: int) -> None:
    if len(FaultyStore.reads) >= num_reads:
        raise OSError(errno.EIO, "the network is down")


def test_file_is_read_from_every_store(folder_uri: str, tmp_path: Path) -> None:
    path = make_bulk(tmp_path / "a.parquet", 30, 8)
    uri = join_uri(folder_uri, "a.parquet")
    put_atomic(uri, path.read_bytes())
    assert read_pieces(uri, max_chunk_samples=7) == read_pieces(path, max_chunk_samples=7)
    assert len(read_samples(uri, start_offset=17)) == 13


def write_downloads(path: Path) -> Path:
    """Write a Parquet file like img2dataset: two photos, and two failed rows."""
    columns = {
        "url": [f"http://photos/{n}" for n in range(4)],
        "caption": ["cat, grass", "dog", "cat", "dog"],
        "key": [f"{n:09d}" for n in range(4)],
        "status": ["success", "failed_to_download", "success", "failed_to_resize"],
        "error_message": [None, "HTTP Error 404: Not Found", None, None],
        "width": [48, None, 48, None],
        "jpg": [make_photo(0), None, make_photo(2), None],
    }
    return make_parquet(path, columns, 100)


def test_failed_rows_of_img2dataset_are_samples_with_the_reason(tmp_path: Path) -> None:
    samples = read_samples(write_downloads(tmp_path / "00000.parquet"))
    assert [sample.tags for sample in samples] == [("cat", "grass"), ("dog",), ("cat",), ("dog",)]
    assert [sample.download_error for sample in samples] == [
        "",
        "failed_to_download: HTTP Error 404: Not Found",
        "",
        "failed_to_resize: no reason given",
    ]
    assert [sample.image is None for sample in samples] == [False, True, False, True]


def test_training_counts_failed_downloads_separately(tmp_path: Path) -> None:
    shards = list_shards([str(write_downloads(tmp_path / "00000.parquet"))])
    survey = survey_shards(shards, Vocabulary(classes=("cat", "dog")), InputConfig())
    assert (survey.num_usable, survey.unusable) == (2, {"download_failed": 2})
    assert survey.images_per_class == {1: 2}


def test_row_with_a_path_in_place_of_bytes_is_rejected_with_its_path(tmp_path: Path) -> None:
    images = [
        {"bytes": make_photo(1), "path": "a.jpg"},
        {"bytes": None, "path": "b.jpg"},
        {"bytes": None, "path": None},
    ]
    samples = read_samples(make_parquet(tmp_path / "a.parquet", {"image": images, "tags": [["cat"]] * 3}))
    assert [sample.no_image_error for sample in samples] == ["", "only its path is there, 'b.jpg', no bytes", ""]
