"""Arrow's parsers and Python's read the same pairs, or Arrow's leave the file to Python's."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import ShardError
from pipeline.inputs.tables.records import open_records
from pipeline.inputs.tags_table.arrow_parsers import UnprovenError, parse_csv, parse_json_lines
from pipeline.inputs.tags_table.sources import Form, load_pairs

CELLS = st.text(alphabet='ab,;"\n\r\t |éß=[]', max_size=6)
STYLES = st.tuples(
    st.sampled_from([",", ";", "\t", "|"]),
    # With other line ends Python's writer does not quote the line breaks in cells.
    st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), *[(csv.QUOTE_ALL, end) for end in ("\n", "\r\n", "\r")]]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def choose(names: list[str]) -> tuple[str, str]:
    if not {"key", "tags"} <= set(names):
        raise ShardError("other columns")
    return "key", "tags"


def read_by_python(path: Path) -> list[tuple[Any, Any]]:
    with open_records(str(path)) as records:
        return [(record.get("key"), record.get("tags")) for _, record in records.rows]


def read_by_arrow(path: Path) -> list[tuple[Any, Any]] | None:
    """None if the file is left to Python."""
    parse = parse_csv if path.suffix == ".csv" else parse_json_lines
    try:
        batches = list(parse(str(path), choose))
    except UnprovenError:
        return None
    return [pair for batch in batches for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True)]


def require_same(path: Path) -> None:
    """Check that both parsers agree, where Arrow's is certain; Python's may refuse only what Arrow's leaves."""
    try:
        found = read_by_arrow(path)
    except ShardError:
        return
    if found is not None:
        assert read_by_python(path) == found


@settings(max_examples=300)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8), STYLES, st.booleans())
def test_csv_of_pythons_writer_is_read_as_written(
    folder: Path, rows: list[tuple[str, str, str]], style: tuple[str, tuple[int, str]], has_mark: bool
) -> None:
    delimiter, (quoting, end) = style
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerows([("tags", "other", "key"), *rows])
    path = folder / "w.csv"
    path.write_bytes((b"\xef\xbb\xbf" if has_mark else b"") + text.getvalue().encode())
    wanted = [(key or None, tags or None) for tags, _, key in rows]
    assert read_by_python(path) == wanted
    assert read_by_arrow(path) in (wanted, None)


@settings(max_examples=500)
@given(st.binary(max_size=0) | st.lists(st.sampled_from([*b'ab,"\n\r', 0xC3, 0xA9]), max_size=24).map(bytes))
@example(b'a,"abc\nb,x\n')
@example(b'a,"abc"d\nb,x\n')
@example(b'a,"b"\r\n\r\nc,"d""e"')
@example(b'a,5" disk\nb,6" disk\n')
def test_any_csv_means_the_same_to_both_or_is_left_to_python(folder: Path, body: bytes) -> None:
    path = folder / "any.csv"
    path.write_bytes(b"key,tags\n" + body)
    require_same(path)


JSON_VALUES = st.none() | st.text(max_size=4) | st.lists(st.text(max_size=3), max_size=3) | st.integers()
RECORDS = st.fixed_dictionaries({}, optional={"key": st.text(max_size=4), "tags": JSON_VALUES, "more": JSON_VALUES})
TEXT_RECORDS = st.fixed_dictionaries({"key": st.text(max_size=4), "tags": st.text(max_size=4) | st.none()})
LIST_RECORDS = st.fixed_dictionaries({"key": st.text(max_size=4), "tags": st.lists(st.text(max_size=3))})


@settings(max_examples=300)
@given(
    st.lists(RECORDS, max_size=6) | st.lists(TEXT_RECORDS, max_size=6) | st.lists(LIST_RECORDS, max_size=6),
    st.sampled_from(["\n", "\n\n", "\r\n", "", " \n"]),
    st.booleans(),
)
def test_any_json_lines_mean_the_same_to_both_or_are_left_to_python(
    folder: Path, records: list[dict[str, Any]], end: str, is_ascii: bool
) -> None:
    path = folder / "any.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=is_ascii) + end for record in records), newline="")
    require_same(path)


@pytest.mark.parametrize(
    "body",
    [
        b'{"key":"a","tags":"x"}{"key":"b","tags":"y"}\n',
        b'{"key":"a",\n"tags":"x"}\n',
        b'{"key":"a","tags":"x"}{"key":"b","tags":"y"}\n\n',
        b'{"key":"a","tags":"x"}{"key":"b","tags":"y"}\n\r\n',
        b'{"key":"a","tags":"\xff"}\n',
        b'{"key":"2020-01-01","tags":"2020-01-01 00:00:00"}\n{"key":"b","tags":"y"}\n',
        b'{"key":"a","tags":"x"}\n{"key":"b","tags":["y"]}\n',
        b'{"key":"a","tags":["x",null]}\n',
        b'{"key":"a","tags":"x"}\n[1]\n',
    ],
)
def test_json_lines_that_arrow_reads_otherwise_mean_what_python_reads(folder: Path, body: bytes) -> None:
    path = folder / "odd.jsonl"
    path.write_bytes(body)
    require_same(path)


def list_blocks(rows: list[tuple[str, str]], delimiter: str = ",") -> Iterator[str]:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    yield text.getvalue()


def test_quotes_are_checked_across_pieces(folder: Path) -> None:
    rng = np.random.default_rng(0)
    words = ['say ""', "a,b", '"', "line\nbreak", "plain", 'x"']
    rows = [(f"k{number}", words[rng.integers(6)] + words[rng.integers(6)]) for number in range(300_000)]
    path = folder / "large.csv"
    path.write_text("key,tags\n" + "".join(list_blocks(rows)), newline="")
    assert path.stat().st_size > 2**22
    assert read_by_arrow(path) == rows


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "wide.csv", "t.tsv", "loose.csv", "t.jsonl", "t.jsonl.gz"])
def test_table_of_every_encoding_gives_the_same_pairs(tmp_path: Path, name: str) -> None:
    rows = {"a": "dog, cat", "é": "cat", "c": None}
    if "jsonl" in name:
        text = "".join(json.dumps({"key": key, "tags": tags}) + "\n" for key, tags in rows.items())
    else:
        delimiter = "\t" if name == "t.tsv" else ","
        lines = list_blocks([("key", "tags"), *((key, tags or "") for key, tags in rows.items())], delimiter)
        text = "".join(lines)
    # Bare quotes, so that Python reads it.
    text = text.replace('a,"dog, cat"', 'a,"dog, cat"\r\nz,5"') if name == "loose.csv" else text
    content = text.encode("utf-16" if name == "wide.csv" else "utf-8")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    pairs = load_pairs(str(tmp_path / name), None, "tags")
    found = {key: tags for batch in pairs.batches for key, tags in zip(*batch.to_pydict().values(), strict=True)}
    assert {key: found[key] for key in rows} == rows
    assert pairs.form == (Form.ARROW if "jsonl" in name else Form.CELL)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(content)[:-9])
        with pytest.raises(ShardError, match="no complete gzip file"):
            load_pairs(str(tmp_path / name), None, "tags")
