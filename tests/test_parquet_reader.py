"""Parquet inputs: columns as they come, chunks by row, and nothing read twice."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import parquet_reader
from pipeline.chunk_source import read_missing_chunks, read_rows
from pipeline.commit import PartName
from pipeline.config import InputConfig
from pipeline.errors import ShardError
from pipeline.records import ShardEnd
from pipeline.resume import ShardWork
from pipeline.shards import list_shards, read_chunks
from tests.factories import make_photo, make_tar

NUM_ROWS = 23


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return list_shards([str(path)])[0]


def read_all(shard, **config):
    pieces = list(read_chunks(shard, InputConfig(**config)))
    assert isinstance(pieces[-1], ShardEnd)
    return [sample for piece in pieces[:-1] for sample in piece.samples]


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    images = [make_photo(i) for i in range(NUM_ROWS)]
    columns = {
        "key": [f"k{i}" for i in range(NUM_ROWS)],
        "image": images,
        "tags": [["cat", f"t{i}"] for i in range(23)],
    }
    return write(tmp_path_factory.mktemp("parquet") / "a.parquet", columns, row_group_size=5)


def test_every_row_is_a_sample_in_order(shard):
    samples = read_all(shard)
    assert [sample.key for sample in samples] == [f"k{i}" for i in range(NUM_ROWS)]
    assert [sample.image for sample in samples] == [make_photo(i) for i in range(NUM_ROWS)]
    assert samples[7].tags == ("cat", "t7")


@given(committed=st.sets(st.integers(0, 7)))
def test_missing_chunks_are_read_whatever_is_committed(shard, committed):
    config = InputConfig(max_chunk_samples=3)
    whole = list(read_chunks(shard, config))
    assert [piece.end_offset for piece in whole[:-1]] == [3, 6, 9, 12, 15, 18, 21, 23]
    parts = tuple(
        PartName(chunk_index=piece.index, end_offset=piece.end_offset)
        for piece in whole[:-1]
        if piece.index in committed
    )
    work = ShardWork(shard=shard, committed=parts)
    left = list(read_missing_chunks(work, config))
    assert left == [piece for piece in whole if isinstance(piece, ShardEnd) or piece.index not in committed]
    assert work.num_bytes_done == 0


def test_row_groups_before_the_start_are_not_read(shard, monkeypatch):
    opened = []

    class CountingFile(pq.ParquetFile):
        def iter_batches(self, *arguments, row_groups, **options):
            opened.append(row_groups)
            return super().iter_batches(*arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(parquet_reader.pq, "ParquetFile", CountingFile)
    samples = list(parquet_reader.read_parquet_samples(shard, InputConfig(), start_row=12))
    assert opened == [[2, 3, 4]]
    assert [(number, sample.key) for number, sample in samples] == [(i, f"k{i}") for i in range(12, NUM_ROWS)]


@pytest.mark.parametrize(
    ("tags", "expected", "numbers"),
    [
        (["cat, dog"], ("cat", "dog"), ()),
        ([["cat", "dog"]], ("cat", "dog"), ()),
        ([3], (), (3,)),
        ([[3, 1]], (), (3, 1)),
        ([None], (), ()),
    ],
)
def test_tags_may_be_lists_text_or_class_numbers(tmp_path, tags, expected, numbers):
    shard = write(tmp_path / "a.parquet", {"jpg": [b"x"], "tags": tags})
    (sample,) = read_all(shard)
    assert (sample.tags, sample.class_numbers, sample.tags_error) == (expected, numbers, "")


def test_images_may_be_structs_and_keys_other_columns(tmp_path):
    images = [{"bytes": b"one", "path": "1.jpg"}, {"bytes": None, "path": "2.jpg"}, None]
    shard = write(tmp_path / "a.parquet", {"photo": images, "id": [7, 8, 9], "caption": ["a", "b", "c"]})
    samples = read_all(shard, image_column="photo", key_column="id", tags_field="caption")
    assert [(sample.key, sample.image) for sample in samples] == [("7", b"one"), ("8", None), ("9", None)]


def test_rows_without_a_key_are_known_by_their_number(tmp_path):
    shard = write(tmp_path / "a.parquet", {"image": [b"a", b"b"], "tags": ["x", "y"]})
    assert [sample.key for sample in read_all(shard)] == ["000000000", "000000001"]


def test_rows_that_img2dataset_could_not_load_say_why(tmp_path):
    columns = {
        "key": ["0", "1"],
        "jpg": [b"x", None],
        "caption": ["cat", "dog"],
        "status": ["success", "failed_to_download"],
        "error_message": [None, "HTTP Error 404"],
    }
    samples = read_all(write(tmp_path / "a.parquet", columns), tags_field="caption")
    assert [sample.download_error for sample in samples] == ["", "failed_to_download: HTTP Error 404"]


def test_tar_samples_that_img2dataset_could_not_load_say_why(tmp_path):
    failed = b'{"status": "failed_to_resize", "error_message": "too small"}'
    make_tar(tmp_path / "a.tar", {"0": {"jpg": b"x", "json": b'{"status": "success"}'}, "1": {"json": failed}})
    (shard,) = list_shards([str(tmp_path / "a.tar")])
    assert [sample.download_error for sample in read_all(shard)] == ["", "failed_to_resize: too small"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"], "tags": ["a"]}, "has no column 'image' or 'jpg' or .* its columns: picture, tags"),
        ({"image": [b"x"]}, "has no column 'tags' for the tags"),
        ({"image": ["text"], "tags": ["a"]}, "column 'image' is string, need bytes"),
    ],
)
def test_columns_that_do_not_fit_are_named(tmp_path, columns, message):
    shard = write(tmp_path / "a.parquet", columns)
    with pytest.raises(ShardError, match=message):
        list(read_chunks(shard, InputConfig()))


@pytest.mark.parametrize("payload", [b"", b"PAR1", b"not parquet" * 100])
def test_file_that_is_no_parquet_is_refused_by_name(tmp_path, payload):
    (tmp_path / "a.parquet").write_bytes(payload)
    (shard,) = list_shards([str(tmp_path / "a.parquet")])
    with pytest.raises(ShardError, match=r"a\.parquet' is no Parquet file"):
        list(read_chunks(shard, InputConfig()))


def test_file_cut_short_is_refused(shard, tmp_path):
    payload = open(shard.uri, "rb").read()  # noqa: PTH123, SIM115
    for size in (len(payload) // 2, len(payload) - 1):
        (tmp_path / "a.parquet").write_bytes(payload[:size])
        (cut,) = list_shards([str(tmp_path / "a.parquet")])
        with pytest.raises(ShardError, match="copy it again"):
            list(read_chunks(cut, InputConfig()))


def test_file_without_rows_has_no_chunks(tmp_path):
    columns = {"image": pa.array([], pa.binary()), "tags": pa.array([], pa.string())}
    assert list(read_chunks(write(tmp_path / "a.parquet", columns), InputConfig())) == [
        ShardEnd(num_chunks=0, num_ignored_members=0)
    ]


def test_folder_of_parquet_files_is_read_and_a_mixed_one_is_refused(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.parquet", {"image": [b"x"], "tags": ["a"]})
    assert [item.name for item in list_shards([str(tmp_path)])] == ["a", "b"]
    make_tar(tmp_path / "c.tar", {"0": {"jpg": b"x"}})
    with pytest.raises(ShardError, match="name those that you mean"):
        list_shards([str(tmp_path)])


def test_outputs_of_a_run_below_an_input_folder_are_no_inputs(tmp_path):
    make_tar(tmp_path / "c.tar", {"0": {"jpg": b"x"}})
    (tmp_path / "masks" / "labels").mkdir(parents=True)
    (tmp_path / "masks" / "run.json").write_text("{}")
    write(tmp_path / "masks" / "labels" / "c.parquet", {"image": [b"x"], "tags": ["a"]})
    assert [item.name for item in list_shards([str(tmp_path)])] == ["c"]
    (tmp_path / "c.tar").unlink()
    with pytest.raises(ShardError, match="no shard at"):
        list_shards([str(tmp_path)])


def test_img2dataset_folder_of_tars_with_their_metadata_means_the_tars(tmp_path):
    for number in range(2):
        make_tar(tmp_path / f"{number:05d}.tar", {"0": {"jpg": b"x"}})
        write(tmp_path / f"{number:05d}.parquet", {"url": ["u"]})
        (tmp_path / f"{number:05d}_stats.json").write_text("{}")
    assert [item.uri.rpartition(".")[2] for item in list_shards([str(tmp_path)])] == ["tar", "tar"]


def test_tar_and_parquet_of_one_name_get_distinct_names(tmp_path):
    make_tar(tmp_path / "a.tar", {"0": {"jpg": b"x"}})
    write(tmp_path / "a.parquet", {"image": [b"x"], "tags": ["a"]})
    shards = list_shards([str(tmp_path / "a.tar"), str(tmp_path / "a.parquet")])
    assert len({item.name for item in shards}) == 2


@pytest.mark.parametrize("change", ["gone", "longer", "newer"])
def test_shard_that_changed_since_it_was_listed_fails_alone_and_is_named(tmp_path, change):
    for name in ("good", "bad"):
        make_tar(tmp_path / f"{name}.tar", {"0": {"jpg": make_photo(0), "json": b'{"tags": ["cat"]}'}})
    bad, good = list_shards([str(tmp_path)])
    if change == "gone":
        (tmp_path / "bad.tar").unlink()
    elif change == "longer":
        make_tar(tmp_path / "bad.tar", {"0": {"jpg": make_photo(0)}, "1": {"jpg": make_photo(1) * 20}})
    else:
        bad = replace(bad, etag="another")
    rows = [row.to_pylist()[0] for row in read_rows([ShardWork(shard=bad), ShardWork(shard=good)], InputConfig())]
    assert [(row["shard_name"], row["is_end"]) for row in rows] == [("bad", True), ("good", False), ("good", True)]
    assert ("does not exist" if change == "gone" else "changed since it was listed") in rows[0]["error"]
