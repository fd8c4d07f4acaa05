"""Tables with a column of paths: CSV, JSON lines, JSON records and Parquet, read row by row."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain, islice
from typing import Any, BinaryIO, cast

from pipeline.collections.columns import Columns, choose_columns, find_path_column, read_text_cell
from pipeline.collections.parquet_tables import read_parquet_table
from pipeline.collections.rows import NamedImage
from pipeline.errors import ShardError
from pipeline.inputs.patterns.file_kinds import HEAD_BYTES, IN_PLACE_OF_TEXT, FileKind, recognise_kind
from pipeline.run.config import InputConfig
from pipeline.run.records import PARQUET_SUFFIX
from pipeline.storage.reading import ByteStream, open_stream, read_head

CSV_SUFFIXES = (".csv", ".tsv")
LINES_SUFFIXES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = (*CSV_SUFFIXES, *LINES_SUFFIXES)
GZIP_SUFFIX = ".gz"
DELIMITERS = (",", "\t", ";", "|")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
NUM_PEEKED = 100
"""Records whose fields are taken for the columns of a table of JSON records."""
MAX_CELL_LETTERS = 4 * 2**20


def strip_suffix(uri: str) -> str:
    """Suffix of a table in small letters, without that of gzip.

    >>> strip_suffix("data/A.CSV.gz"), strip_suffix("data/x")
    ('.csv', '')
    """
    name = uri.rpartition("/")[2].lower().removesuffix(GZIP_SUFFIX)
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix}" if stem and dot else ""


def read_table(uri: str, config: InputConfig) -> Iterator[NamedImage]:
    """Read the rows of a table, in order, in bounded memory.

    Raises:
        ShardError: It is no table of its suffix, or has not the columns.
        OSError: The store failed.
    """
    suffix = strip_suffix(uri)
    if suffix == PARQUET_SUFFIX:
        yield from read_parquet_table(uri, config)
    elif suffix in CSV_SUFFIXES:
        with _open_text(uri) as lines:
            yield from _read_csv(uri, lines, config)
    else:
        with _open_text(uri) as lines:
            yield from read_records(uri, _parse_lines(uri, lines), config)


def read_header(uri: str) -> list[str]:
    """Column names of a CSV table, or fields of the first record of JSON lines; none if it is empty.

    Raises:
        ShardError: It is no such table.
    """
    with _open_text(uri) as lines:
        if strip_suffix(uri) in CSV_SUFFIXES:
            return _parse_header(uri, next(lines, ""))[1]
        return list(next(_parse_lines(uri, lines), ("", {}))[1])


def has_paths(uri: str, config: InputConfig) -> bool:
    """Check whether a text table has a column of paths; False if it cannot be read."""
    try:
        return find_path_column(read_header(uri), config) is not None
    except ShardError:
        return False


def read_records(
    table: str, records: Iterator[tuple[str, Mapping[str, Any]]], config: InputConfig
) -> Iterator[NamedImage]:
    """Read records of JSON, each with its place, as rows of a table."""
    first = list(islice(records, NUM_PEEKED))
    names = list(dict.fromkeys(name for _, record in first for name in record))
    if not names:
        return
    columns = choose_columns(table, names, config)
    for where, record in chain(first, records):
        yield _make_row(f"{table}, {where}", record, columns)


def _make_row(where: str, record: Mapping[str, Any], columns: Columns) -> NamedImage:
    path = record.get(columns.path)
    if isinstance(path, Mapping):
        # Hugging Face's image as plain values.
        path = path.get("path")
    key = record.get(columns.key) if columns.key else None
    if path is not None and not isinstance(path, str):
        raise ShardError(f"{where}: '{columns.path}' holds a {type(path).__name__}, need a path as text")
    return NamedImage(
        where, path, None if key is None else str(key), record.get(columns.tags) if columns.tags else None
    )


def _read_csv(uri: str, lines: io.TextIOWrapper, config: InputConfig) -> Iterator[NamedImage]:
    first = next(lines, "")
    if first and not first.strip():
        raise ShardError(f"table '{uri}' begins with an empty line; write its column names there")
    delimiter, names = _parse_header(uri, first)
    if not names:
        return
    columns = choose_columns(uri, names, config)
    path = names.index(columns.path)
    tags = names.index(columns.tags) if columns.tags else None
    key = names.index(columns.key) if columns.key else None
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    csv.field_size_limit(MAX_CELL_LETTERS)
    line = 2
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ShardError(f"table '{uri}' is broken at line {line}: {error}; correct its quotes") from error
        if cells is None:
            return
        if cells:
            if len(cells) != len(names):
                shown = "tab" if delimiter == "\t" else f"'{delimiter}'"
                advice = f"quote cells that contain the delimiter {shown}"
                if len(cells) < len(names):
                    advice = "complete the line or remove it"
                raise ShardError(
                    f"table '{uri}' has {len(cells)} cells in line {line}, its header {len(names)}; {advice}"
                )
            yield NamedImage(
                f"{uri}, line {line}",
                cells[path].strip() or None,
                None if key is None else cells[key],
                None if tags is None else read_text_cell(cells[tags]),
            )
        line = reader.line_num + 2


def _parse_header(uri: str, line: str) -> tuple[str, list[str]]:
    """Delimiter and names of a header: the delimiter that gives most columns."""
    delimiters: Sequence[str] = ("\t",) if strip_suffix(uri) == ".tsv" else DELIMITERS
    try:
        headers = [(delimiter, next(csv.reader([line], delimiter=delimiter), [])) for delimiter in delimiters]
    except csv.Error as error:
        raise ShardError(
            f"table '{uri}' has a broken header: {error}; write its column names in the first line"
        ) from error
    delimiter, names = max(headers, key=lambda header: len(header[1]))
    return delimiter, [name.strip() for name in names]


def _parse_lines(uri: str, lines: io.TextIOWrapper) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ShardError(f"table '{uri}': line {number} is not JSON: {error}; correct or remove it") from error
        if not isinstance(record, dict):
            raise ShardError(
                f"table '{uri}': line {number} holds a {type(record).__name__}, need an object with fields"
            )
        yield f"line {number}", record


@contextmanager
def _open_text(uri: str) -> Iterator[io.TextIOWrapper]:
    """Open a table as text; turn errors of its encoding into a `ShardError`."""
    try:
        with closing(open_stream(uri)) as stream:
            raw = cast(BinaryIO, io.BufferedReader(_Readable(stream), 2**20))
            if uri.lower().endswith(GZIP_SUFFIX):
                raw = cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=raw), 2**20))
            require_table_text(uri, raw.peek(HEAD_BYTES)[:HEAD_BYTES])  # type: ignore[attr-defined]
            yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
    except FileNotFoundError as error:
        raise ShardError(f"table '{uri}' does not exist; check the path") from error
    except UnicodeDecodeError as error:
        raise ShardError(_describe_binary(uri, error)) from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise ShardError(f"table '{uri}' is no complete gzip file: {error}; copy it again") from error


def require_table_text(uri: str, head: bytes) -> None:
    """Check by the first bytes of a table that it is not in UTF-16, and no pointer or page that was saved in its place.

    Raises:
        ShardError: It is.
    """
    if head[:2] in UTF_16:
        raise ShardError(f"table '{uri}' is in UTF-16; save it as UTF-8")
    kind = recognise_kind(head)
    if kind in IN_PLACE_OF_TEXT:
        raise ShardError(f"table '{uri}' is {kind}; {kind.advice}")


def _describe_binary(uri: str, error: UnicodeDecodeError) -> str:
    """Message for a table that is not UTF-8: its kind, if it is no text at all."""
    kind = recognise_kind(read_head(uri, HEAD_BYTES))
    is_unpacked = uri.lower().endswith(GZIP_SUFFIX)
    if kind == FileKind.GZIP and not is_unpacked:
        return f"table '{uri}' is {kind}; name it *{strip_suffix(uri)}{GZIP_SUFFIX}"
    if kind not in (FileKind.TEXT, FileKind.TABLE, FileKind.UNKNOWN) and not is_unpacked:
        return f"table '{uri}' is {kind}; write it as text in UTF-8, or name it by what it is"
    return f"table '{uri}' is not UTF-8: {error.reason}, byte {error.object[error.start]:#04x}; save it as UTF-8"


class _Readable(io.RawIOBase):
    """A stream of any store, for Python's buffers."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
