"""Records of text tables: the rows of CSV, and JSON lines. This module defines what a file means.

`tags_table/arrow_parsers.py` reads two columns of such a file faster, where it can prove that it reads the same.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, NamedTuple

from pipeline.errors import ShardError
from pipeline.inputs.tables.kinds import LINES_SUFFIXES, strip_suffix
from pipeline.inputs.tables.text import open_lines

DELIMITERS = (",", "\t", ";", "|")
NUM_PEEKED = 100
"""Records whose fields are taken for the columns of a table of JSON records."""
MAX_CELL_LETTERS = 4 * 2**20


class Records(NamedTuple):
    """An open table."""

    names: list[str]
    """Names of its columns; none if it is empty."""
    rows: Iterator[tuple[str, Mapping[str, Any]]]
    """Place in the file and fields of each row. Cells of CSV are text; empty ones are None."""


class Header(NamedTuple):
    """First line of a CSV table."""

    delimiter: str
    names: list[str]


@contextmanager
def open_records(uri: str) -> Iterator[Records]:
    """Open a text table.

    Raises:
        ShardError: It is no table of its suffix. So does reading within the context.
        OSError: The store failed.
    """
    with open_lines(uri) as lines:
        if strip_suffix(uri) in LINES_SUFFIXES:
            yield peek_records(_parse_json_lines(uri, lines))
            return
        first = next(lines, "")
        if first and not first.strip():
            raise ShardError(f"table '{uri}' begins with an empty line; write its column names there")
        header = parse_header(uri, first)
        rows = _parse_csv(uri, header, chain([first], lines)) if header.names else iter(())
        yield Records(header.names, rows)


def peek_records(rows: Iterator[tuple[str, Mapping[str, Any]]]) -> Records:
    """Find the fields of records of JSON by the first of them."""
    first = list(islice(rows, NUM_PEEKED))
    return Records(list(dict.fromkeys(name for _, record in first for name in record)), chain(first, rows))


def parse_header(uri: str, line: str) -> Header:
    """Delimiter and names of a header: the delimiter that gives most columns; of `.tsv` always a tab.

    Raises:
        ShardError: Its quotes are broken.
    """
    delimiters: Sequence[str] = ("\t",) if strip_suffix(uri) == ".tsv" else DELIMITERS
    try:
        headers = [Header(delimiter, next(csv.reader([line], delimiter=delimiter), [])) for delimiter in delimiters]
    except csv.Error as error:
        raise ShardError(
            f"table '{uri}' has a broken header: {error}; write its column names in the first line"
        ) from error
    delimiter, names = max(headers, key=lambda header: len(header.names))
    return Header(delimiter, [name.strip() for name in names])


def _parse_csv(uri: str, header: Header, lines: Iterator[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(MAX_CELL_LETTERS)
    reader = csv.reader(lines, delimiter=header.delimiter, strict=True)
    num_names, line = len(header.names), 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ShardError(f"table '{uri}' is broken at line {line}: {error}; correct its quotes") from error
        if cells is None:
            return
        if cells and line > 1:
            if len(cells) != num_names:
                shown = "tab" if header.delimiter == "\t" else f"'{header.delimiter}'"
                advice = f"quote cells that contain the delimiter {shown}"
                if len(cells) < num_names:
                    advice = "complete the line or remove it"
                raise ShardError(
                    f"table '{uri}' has {len(cells)} cells in line {line}, its header {num_names}; {advice}"
                )
            yield f"line {line}", {name: cell or None for name, cell in zip(header.names, cells, strict=True)}
        line = reader.line_num + 1


def _parse_json_lines(uri: str, lines: Iterator[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    decoder = json.JSONDecoder(strict=False)
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        try:
            record = decoder.decode(text)
        except (ValueError, RecursionError) as error:
            raise ShardError(f"table '{uri}': line {number} is not JSON: {error}; correct or remove it") from error
        if not isinstance(record, dict):
            raise ShardError(
                f"table '{uri}': line {number} holds a {type(record).__name__}, need an object with fields"
            )
        yield f"line {number}", record


def read_key(where: str, column: str, value: Any) -> str | None:
    """Read the key of a record: text, or a whole number as its decimal text; None if it is null or empty.

    Raises:
        ShardError: It is of another type, of which no one text is the key.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    shown = "true or false" if isinstance(value, bool) else f"a {type(value).__name__}"
    raise ShardError(f"{where}: '{column}' holds {shown}, need text or whole numbers; write it as text")
