"""Parquet files that attack their reader: pages that unpack to gigabytes, lists of millions, false footers."""

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commit.plan import ShardWork
from pipeline.errors import ShardError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.parquet_pages import PageLimits, parse_page_header
from pipeline.inputs.parquet_reader import MAX_KEY_LETTERS, read_parquet_samples
from pipeline.inputs.sample_tags import MAX_TAGS, MAX_TAGS_BYTES
from pipeline.inputs.shards import list_shards
from pipeline.labelling.chunk_rows import read_rows
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk
from pipeline.workers.attempts import MAX_DEATHS, AttemptCounter
from tests.factories import make_parquet
from tests.fakes import REPORTING
from tests.hostile_files import find_page, write_list_bomb, write_page_bomb

GOLDEN = Path(__file__).parents[1] / "golden"


def read_samples(path: Path, **options: Any) -> list[Any]:
    (shard,) = list_shards([str(path)])
    return [
        sample
        for piece in read_chunks(shard, InputConfig(**options))
        if isinstance(piece, Chunk)
        for sample in piece.samples
    ]


@pytest.mark.parametrize("use_dictionary", [False, True])
def test_page_that_unpacks_to_a_gigabyte_is_refused_before_it_is_unpacked(tmp_path: Path, use_dictionary: bool) -> None:
    write_page_bomb(tmp_path / "hostile.parquet", 300 * 2**20, use_dictionary=use_dictionary)
    make_parquet(tmp_path / "good.parquet", {"image": [b"i"], "tags": ["cat"]})
    assert (tmp_path / "hostile.parquet").stat().st_size < 100_000
    original = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(original)
    work = [ShardWork(shard=shard) for shard in list_shards([str(tmp_path)])]
    pa.set_memory_pool(pool)
    try:
        rows = [row.to_pylist()[0] for row in read_rows(work, InputConfig(), REPORTING)]
    finally:
        pa.set_memory_pool(original)
    ends = {row["shard_name"]: row["error"] for row in rows if row["is_end"]}
    assert "hostile.parquet' cannot be read: column 'image' holds a page that unpacks from " in ends["hostile"]
    assert ends["good"] is None
    assert 0 < pool.max_memory() < 2**25


def test_image_above_the_limit_is_not_copied_and_its_row_contains_the_limit(tmp_path: Path) -> None:
    columns = {"image": [b"1" * 1001, b"2" * 1000, None], "tags": ["cat"] * 3}
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.struct([("bytes", pa.binary())])):
        images = [{"bytes": image} if pa.types.is_struct(kind) else image for image in columns["image"]]
        path = make_parquet(tmp_path / "a.parquet", columns | {"image": pa.array(images, kind)})
        large, small, missing = read_samples(path, max_image_bytes=1000)
        assert large.image_error == "the image has 1001 bytes, limit 1000 (--inputs.max-image-bytes)"
        assert (large.image, large.image_name, large.tags) == (None, "image", ("cat",))
        assert (small.image, small.image_error) == (b"2" * 1000, "")
        assert (missing.image, missing.image_error, missing.image_name) == (None, "", "")


def test_image_above_the_limit_is_not_held_by_the_samples_beside_it(tmp_path: Path) -> None:
    columns = {"image": [bytes([number]) * 1000 for number in range(8)] + [b"1" * 2**24], "tags": ["cat"] * 9}
    path = make_parquet(tmp_path / "a.parquet", columns)
    before = pa.total_allocated_bytes()
    samples = read_samples(path, max_image_bytes=1000)
    assert [sample.image for sample in samples] == [*columns["image"][:8], None]
    assert pa.total_allocated_bytes() - before < 2**20


def test_large_dictionary_value_of_many_rows_is_copied_for_a_few_rows_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_page_bomb(path, 70 * 2**20, use_dictionary=True, number=6)
    tracemalloc.start()
    samples = read_samples(path, max_image_bytes=1000)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) == 6
    assert all(sample.image_error for sample in samples)
    assert peak_bytes < 2**26


def test_ordinary_pages_of_hundreds_of_megabytes_are_read(tmp_path: Path) -> None:
    """pyarrow writes 1024 images of any size into a page; here with limits of a thousandth."""
    limits, config = PageLimits(max_page_bytes=2**18), InputConfig(max_image_bytes=2000)
    rng = np.random.default_rng(0)
    images = [rng.bytes(2000) for _ in range(1500)]
    prefixes = {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}}
    for options in ({}, {"use_dictionary": False}, prefixes, {"data_page_version": "2.0"}, {"compression": "none"}):
        path = make_parquet(tmp_path / "a.parquet", {"image": images, "tags": ["cat"] * 1500}, 1500, **options)
        samples = read_parquet_samples(list_shards([str(path)])[0], config, limits=limits)
        assert [sample.image for _, sample in samples] == images


@pytest.mark.parametrize("buffer_bytes", [100, 1000, 10_000])
def test_page_is_found_at_any_boundary_of_the_fetched_pieces(tmp_path: Path, buffer_bytes: int) -> None:
    def read_images(path: Path) -> list[Any]:
        config, limits = InputConfig(max_image_bytes=1000), PageLimits(max_page_bytes=2**15)
        (shard,) = list_shards([str(path)])
        samples = read_parquet_samples(shard, config, limits=limits, buffer_bytes=buffer_bytes)
        return [sample.image for _, sample in samples]

    rng = np.random.default_rng(0)
    images = [rng.bytes(300) for _ in range(100)]
    options = {"data_page_size": 1000, "write_batch_size": 4, "use_dictionary": False}
    good = make_parquet(tmp_path / "good.parquet", {"image": images, "tags": ["cat"] * 100}, 50, **options)
    assert read_images(good) == images
    images[77] = bytes(2**16)
    hostile = make_parquet(tmp_path / "hostile.parquet", {"image": images, "tags": ["cat"] * 100}, 50, **options)
    with pytest.raises(ShardError, match="holds a page that unpacks from"):
        read_images(hostile)


def test_list_of_millions_in_one_row_is_not_converted_to_tags(tmp_path: Path) -> None:
    write_list_bomb(tmp_path / "a.parquet", 3_000_000)
    (sample,) = read_samples(tmp_path / "a.parquet")
    assert sample.tags_error == f"column 'tags' holds 3000000 tags, limit {MAX_TAGS}"
    (shard,) = list_shards([str(tmp_path / "a.parquet")])
    limits = PageLimits(max_list_values=1_000_000)
    with pytest.raises(ShardError, match="column 'tags.list.element' holds .* values in one row group, limit 1000000"):
        list(read_parquet_samples(shard, InputConfig(), limits=limits))


@pytest.mark.parametrize("kind", [pa.list_(pa.null()), pa.large_list(pa.null())])
def test_list_of_nulls_which_take_no_bytes_is_not_converted(tmp_path: Path, kind: pa.DataType) -> None:
    tags = pa.array([[None] * 1_000_000], kind)
    pq.write_table(pa.table({"image": pa.array([b"i"], pa.binary()), "tags": tags}), tmp_path / "a.parquet")
    del tags
    tracemalloc.start()
    try:
        (sample,) = read_samples(tmp_path / "a.parquet")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sample.tags_error == f"column 'tags' holds 1000000 tags, limit {MAX_TAGS}"
    assert peak < 2**22


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_of_megabytes_is_not_converted_to_tags(tmp_path: Path, kind: Any) -> None:
    texts = pa.array(["x" * (MAX_TAGS_BYTES + 1), "cat"]).cast(kind)
    for tags in (texts, pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), texts)):
        if pa.types.is_list(tags.type) and pa.types.is_dictionary(kind):
            continue
        hostile, good = read_samples(make_parquet(tmp_path / "a.parquet", {"image": [b"1", b"2"], "tags": tags}))
        assert hostile.tags_error == (f"column 'tags' holds tags of {MAX_TAGS_BYTES + 1} bytes, limit {MAX_TAGS_BYTES}")
        assert good.tags == ("cat",)


def test_key_longer_than_any_path_fails_the_shard(tmp_path: Path) -> None:
    columns = {"image": [b"1"], "tags": ["cat"], "key": ["k" * (MAX_KEY_LETTERS + 1)]}
    with pytest.raises(ShardError, match="a.parquet' cannot be read: the key of row 0 has 4097 letters"):
        read_samples(make_parquet(tmp_path / "a.parquet", columns))


def test_text_that_is_not_utf8_is_a_rejected_row_and_no_key(tmp_path: Path) -> None:
    broken = pa.array([b"\xff\xfe", b"cat"]).view(pa.string())
    columns = {"image": [b"1", b"2"], "tags": broken, "key": broken}
    hostile, good = read_samples(make_parquet(tmp_path / "a.parquet", columns))
    assert (hostile.key, hostile.tags_error[:32]) == ("000000000", "column 'tags' is not UTF-8: inva")
    assert (good.key, good.tags) == ("cat", ("cat",))


@pytest.mark.parametrize(("depth", "is_read"), [(50, True), (150, False)])
def test_columns_that_nest_deeply_are_passed_over_or_refused_by_name(tmp_path: Path, depth: int, is_read: bool) -> None:
    kind = pa.binary()
    for _ in range(depth):
        kind = pa.struct([("bytes", kind)])
    deep = pa.nulls(1, kind)
    path = make_parquet(tmp_path / "a.parquet", {"image": [b"1"], "tags": ["cat"], "other": deep})
    if is_read:
        assert len(read_samples(path)) == 1
    else:
        with pytest.raises(ShardError, match="a.parquet' is no readable Parquet file: .* deeply nested"):
            read_samples(path)
    with pytest.raises(ShardError, match="b.parquet'"):
        read_samples(make_parquet(tmp_path / "b.parquet", {"image": deep, "tags": ["cat"]}))


def test_footer_that_claims_missing_rows_fails_the_shard(tmp_path: Path) -> None:
    path = make_parquet(tmp_path / "a.parquet", {"image": [b"1"] * 5, "tags": ["cat"] * 5}, store_schema=False)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    # Each zigzag varint of one byte, 5, in the footer: number of rows and of values.
    for place in range(len(content) - footer, len(content) - 8):
        if content[place] == 10:
            path.write_bytes(content[:place] + b"\x0e" + content[place + 1 :])
            try:
                samples = read_samples(path)
            except ShardError as error:
                assert "a.parquet'" in str(error)  # noqa: PT017 (most, but not all of them fail)
            else:
                assert len(samples) == 5


def test_page_headers_match_the_sizes_in_the_footer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.bytes(500) for _ in range(100)]
    for version in ("1.0", "2.0"):
        path = make_parquet(
            tmp_path / "a.parquet", {"image": images, "tags": ["cat"] * 100}, 100, data_page_version=version
        )
        column = pq.read_metadata(path).row_group(0).column(0)
        content, place, headers = path.read_bytes(), find_page(path), []
        while place < (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size:
            headers.append(parse_page_header(content[place : place + 20_000]))
            place += headers[-1].header_bytes + headers[-1].page_bytes
        unpacked = sum(header.unpacked_bytes + header.header_bytes for header in headers)
        assert unpacked == column.total_uncompressed_size
        # The dictionary also has a value for each row.
        assert sum(header.num_values for header in headers) in (100, 200)


@given(st.binary(max_size=200))
def test_bytes_that_are_not_a_page_header_are_an_error(content: bytes) -> None:
    try:
        header = parse_page_header(content)
    except (IndexError, ValueError):
        return
    assert header.header_bytes <= len(content)
    assert min(header.page_bytes, header.unpacked_bytes) >= 0


def test_file_that_aborts_its_reader_fails_by_name(tmp_path: Path) -> None:
    """Found by `benchmarks.hostile_shards`: for this damaged footer pyarrow 26 throws an uncaught C++ exception."""
    shutil.copy(GOLDEN / "aborting.parquet", tmp_path / "hostile.parquet")
    make_parquet(tmp_path / "later.parquet", {"image": [b"i"], "tags": ["cat"]})
    shards = list_shards([str(tmp_path)])
    attempts = AttemptCounter()
    for _ in range(MAX_DEATHS):
        attempts.begin(f"read {shards[0].uri}")
    rows = [
        row.to_pylist()[0]
        for row in read_rows([ShardWork(shard=one) for one in shards], InputConfig(), REPORTING, attempts)
    ]
    ends = {row["shard_name"]: row["error"] for row in rows if row["is_end"]}
    assert ends["hostile"].startswith(f"shard '{shards[0].uri}' ")
    assert ends["later"] is None
