"""Two columns of text tables by Arrow's parsers: much faster than `tables.records`, which defines their meaning.

A file that Arrow refuses, or might read otherwise, raises `UnprovenError`: it is left to `tables.records`.
"""

import io
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json

from pipeline.errors import is_store_failure
from pipeline.inputs.tables.records import NUM_PEEKED, Header, open_records, parse_header
from pipeline.inputs.tables.text import UTF_8, open_bytes, open_lines

BLOCK_BYTES = 8 * 2**20
QUOTE, LINE_FEED, RETURN = b'"\n\r'
BLANK_LINES = (b"\n\n", b"\n\r\n")

ChooseColumns = Callable[[list[str]], tuple[str, str]]
"""Chooses the columns of keys and tags by the names of all columns."""


class UnprovenError(Exception):
    """A table that is not certain to mean what Arrow reads."""


def parse_csv(uri: str, choose: ChooseColumns) -> Iterator[pa.RecordBatch]:
    """Parse keys and tags of a CSV table as text.

    Raises:
        UnprovenError: Python might read it otherwise.
        ShardError: Its header lacks a column, or it is no complete file.
        OSError: The store failed.
    """
    with open_lines(uri) as lines:
        line = next(lines, "")
    header = parse_header(uri, line)
    chosen = [str(header.names.index(name)) for name in choose(header.names)]
    if line.count('"') % 2:
        raise UnprovenError("a name of the header has a line break")
    with _open_utf_8(uri) as raw, closing(_QuoteChecker(raw, header)) as checked:
        yield from pa_csv.open_csv(
            pa.PythonFile(checked, mode="r"),
            pa_csv.ReadOptions(
                block_size=BLOCK_BYTES,
                use_threads=False,
                column_names=[str(place) for place in range(len(header.names))],
                skip_rows=1,
            ),
            pa_csv.ParseOptions(delimiter=header.delimiter, newlines_in_values=True),
            pa_csv.ConvertOptions(
                include_columns=chosen,
                column_types=dict.fromkeys(chosen, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
                quoted_strings_can_be_null=True,
            ),
        )
        checked.require_end()


def parse_json_lines(uri: str, choose: ChooseColumns) -> Iterator[pa.RecordBatch]:
    """Parse keys and tags of JSON lines: keys of one type, tags all text or all lists of text.

    Raises:
        UnprovenError: They are others, or Python might read them otherwise.
        ShardError: Columns are missing, or it is no complete file.
        OSError: The store failed.
    """
    with open_records(uri) as records:
        key, tags = choose(records.names)
        first = [record for _, record in islice(records.rows, NUM_PEEKED)]
    schema = pa.schema(
        [
            (key, _find_type([record.get(key) for record in first], {str: pa.string(), int: pa.int64()})),
            (tags, _find_type([record.get(tags) for record in first], {str: pa.string(), list: pa.list_(pa.string())})),
        ]
    )
    num_rows = 0
    with _open_utf_8(uri) as raw, closing(_LineCounter(raw)) as counted:
        for batch in pa_json.open_json(
            pa.PythonFile(counted, mode="r"),
            pa_json.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        ):
            # Arrow does not check what it copies.
            batch.validate(full=True)
            num_rows += batch.num_rows
            yield batch.select([key, tags])
        if num_rows != counted.num_lines:
            raise UnprovenError("its rows are not its lines")


def _find_type(values: list[Any], types: dict[type, pa.DataType]) -> pa.DataType:
    """Arrow's type of values that are all of one Python type, or null."""
    found = {type(value) for value in values if value is not None}
    if len(found) != 1 or (kind := found.pop()) not in types:
        raise UnprovenError("its values are of several types")
    if kind is list and not all(isinstance(entry, str) for value in values for entry in value or ()):
        raise UnprovenError("its lists hold no text")
    return types[kind]


@contextmanager
def _open_utf_8(uri: str) -> Iterator[io.BufferedReader]:
    """Open a table in UTF-8; turn Arrow's errors into `UnprovenError`."""
    with open_bytes(uri) as (raw, encoding):
        if encoding != UTF_8:
            raise UnprovenError("it is not in UTF-8")
        try:
            yield raw
        except (pa.ArrowException, OSError) as error:
            if is_store_failure(error):
                raise
            raise UnprovenError(str(error)) from error


class _Piecewise(io.RawIOBase):
    """A stream that looks at the bytes that are read."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._raw.read(size)
        if piece:
            self._look_at(piece)
        return piece

    @abstractmethod
    def _look_at(self, piece: bytes) -> None:
        """Look at the next bytes."""


class _QuoteChecker(_Piecewise):
    """Checks that quotes only enclose whole cells, or are doubled within them: then all parsers agree."""

    def __init__(self, raw: io.BufferedReader, header: Header) -> None:
        super().__init__(raw)
        self._around = np.zeros(256, np.bool_)
        self._around[[QUOTE, LINE_FEED, RETURN, ord(header.delimiter)]] = True
        self._is_inside = False
        self._last = LINE_FEED

    def _look_at(self, piece: bytes) -> None:
        letters = np.frombuffer(piece, np.uint8)
        is_after_closing = self._last == QUOTE and not self._is_inside
        if is_after_closing and not self._around[letters[0]]:
            raise UnprovenError("text follows a quoted cell")
        quotes = np.flatnonzero(letters == QUOTE)
        opening, closing = quotes[self._is_inside :: 2], quotes[1 - self._is_inside :: 2]
        before = np.where(opening > 0, letters[opening - 1], self._last)
        after = letters[closing[closing + 1 < len(letters)] + 1]
        if not (self._around[before].all() and self._around[after].all()):
            raise UnprovenError("a quote stands within a cell")
        self._is_inside ^= bool(len(quotes) % 2)
        self._last = int(letters[-1])

    def require_end(self) -> None:
        """Check that the last quoted cell was closed; Arrow does not."""
        if self._is_inside:
            raise UnprovenError("the last quoted cell has no end")


class _LineCounter(_Piecewise):
    """Counts lines; there may be no blank one."""

    def __init__(self, raw: io.BufferedReader) -> None:
        super().__init__(raw)
        self._num_ends = 0
        self._tail = b"\n"

    def _look_at(self, piece: bytes) -> None:
        self._num_ends += piece.count(b"\n")
        joined = self._tail + piece[:2]
        if any(blank in piece or blank in joined for blank in BLANK_LINES):
            raise UnprovenError("it has blank lines")
        self._tail = (self._tail + piece)[-2:]

    @property
    def num_lines(self) -> int:
        """Number of lines so far; the last may lack its end."""
        return self._num_ends + (not self._tail.endswith(b"\n"))
