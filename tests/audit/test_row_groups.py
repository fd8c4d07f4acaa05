"""Rows of Parquet files of any writer, counted without Arrow."""

import io
import random
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.audit.archives.parquet_walk import walk_parquet
from pipeline.audit.parquet.row_groups import count_group_rows
from pipeline.audit.parquet.thrift_compact import ThriftError

NUM_ROWS = 1000
NUM_DAMAGES = 100


def write_with_pyarrow(path: Path) -> None:
    table = pa.table({"a": range(NUM_ROWS), "b": [str(row) for row in range(NUM_ROWS)], "c": [[1.5]] * NUM_ROWS})
    pq.write_table(table, path, row_group_size=300, write_page_index=True, sorting_columns=[pq.SortingColumn(0)])


def write_with_polars(path: Path) -> None:
    pl.DataFrame({"a": list(range(NUM_ROWS)), "b": [{"c": [1]}] * NUM_ROWS}).write_parquet(path, row_group_size=300)


def write_with_duckdb(path: Path) -> None:
    duckdb.sql(f"COPY (SELECT range a, range::VARCHAR b FROM range({NUM_ROWS})) TO '{path}' (FORMAT parquet)")


@pytest.mark.parametrize("write", [write_with_pyarrow, write_with_polars, write_with_duckdb])
def test_rows_of_files_of_other_writers_are_counted(tmp_path: Path, write: object) -> None:
    path = tmp_path / "a.parquet"
    assert callable(write)
    write(path)
    with path.open("rb") as stream:
        assert count_group_rows(stream) == NUM_ROWS


def test_damaged_footer_is_counted_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_with_pyarrow(path)
    payload = path.read_bytes()
    footer_bytes = int.from_bytes(payload[-8:-4], "little")
    rng = random.Random(2)
    num_refused = 0
    for _ in range(NUM_DAMAGES):
        damaged = bytearray(payload)
        damaged[-rng.randrange(1, footer_bytes + 9)] = rng.randrange(256)
        try:
            count_group_rows(io.BytesIO(bytes(damaged)))
        except ThriftError:
            num_refused += 1
    assert 0 < num_refused < NUM_DAMAGES


@pytest.mark.parametrize(
    "footer",
    [
        # Structs within structs, lists within lists, a list of 2**60 elements, a text of 2**60 bytes.
        b"\x1c" * 100_000,
        b"\x19" + b"\x19" * 100_000,
        b"\x19\xf5" + b"\x80" * 8 + b"\x10",
        b"\x18" + b"\x80" * 8 + b"\x10",
        b"\x18" + b"\x80" * 30,
        b"",
    ],
)
def test_hostile_footer_is_refused(footer: bytes) -> None:
    payload = b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(ThriftError):
        count_group_rows(io.BytesIO(payload))


def test_footer_whose_row_groups_have_other_rows_than_it_states_is_refused(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": [b"1"] * 100}), sink, compression="none", use_dictionary=False)
    payload = sink.getvalue()
    start = len(payload) - 8 - int.from_bytes(payload[-8:-4], "little")
    # 100 as a signed number of the compact protocol: the first one is the number of rows of the file.
    place = payload.index(b"\x16\xc8\x01", start)
    changed = payload[:place] + b"\x16\xca\x01" + payload[place + 3 :]
    with pytest.raises(ThriftError, match="its footer states 101 rows, its row groups have 100"):
        list(walk_parquet("a.parquet", io.BytesIO(changed), {}, None))
