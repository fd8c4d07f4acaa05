"""The headers of a Parquet file's pages, checked before a page is unpacked: pyarrow does not show them.

A page is the least that can be read of a column, and its header says how many bytes it unpacks to: a gigabyte of zeros
takes 33 kB in the file. Nothing is read twice for it: what pyarrow fetches passes through here first.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.storage import ByteStream

MAX_PAGE_BYTES = 256 * 2**20
"""What a page may unpack to, whatever it takes in the file."""
MAX_PAGE_RATIO = 8
"""A larger page may unpack to so many times what it takes in the file: pyarrow writes 1024 images into a page, however
large they are, and encoded images do not shrink."""
MAX_LIST_VALUES = 2**26
"""Values of a column of lists in a row group: a run of a billion equal ones takes a few bytes in the file."""
MAX_HEADER_BYTES = 2**20
"""A page header takes tens of bytes; those of some writers hold the least and greatest value, too."""
MAX_DEPTH = 8

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)


@dataclass(frozen=True, kw_only=True)
class PageLimits:
    """How large pages and lists may be."""

    max_page_bytes: int = MAX_PAGE_BYTES
    """Of a page when it is unpacked, unless it takes an eighth of that in the file."""
    max_list_values: int = MAX_LIST_VALUES
    """Of a column of lists in a row group."""


class HostilePageError(Exception):
    """A page that is not unpacked; the message says which, and why."""


class PageHeader(NamedTuple):
    """What is known of a page before it is unpacked."""

    header_bytes: int
    page_bytes: int
    """In the file, without its header."""
    unpacked_bytes: int
    num_values: int


def parse_page_header(content: bytes | memoryview) -> PageHeader:
    """Parse the header of a page.

    Raises:
        IndexError: The content ends before the header does.
        ValueError: It is no page header.

    Source: `PageHeader` of Apache Parquet's parquet.thrift, in Thrift's compact protocol.
    """
    parser = _ThriftParser(content)
    fields = parser.read_struct()
    unpacked, packed = fields.get((2,)), fields.get((3,))
    if unpacked is None or packed is None or unpacked < 0 or packed < 0:
        raise ValueError(f"a page header says {unpacked} bytes, {packed} of them in the file")
    # By the kind of the page: data, dictionary, data of version 2.
    num_values = max(fields.get((kind, 1), 0) for kind in (5, 7, 8))
    return PageHeader(parser.position, packed, unpacked, num_values)


class _ThriftParser:
    """Reads Thrift's compact protocol; keeps the 32-bit integers, passes over all else."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = content
        self.position = 0

    def read_struct(self, depth: int = 0) -> dict[tuple[int, ...], int]:
        """Read a struct: its integers by the numbers of the fields that lead there."""
        if depth > MAX_DEPTH:
            raise ValueError(f"a page header is nested more than {MAX_DEPTH} deep")
        fields: dict[tuple[int, ...], int] = {}
        number = 0
        while (head := self._read_byte()) & 0x0F != _STOP:
            number = number + (head >> 4) if head >> 4 else _unzigzag(self._read_varint())
            kind = head & 0x0F
            if kind == _I32:
                # Of a field that comes twice the last counts, as it does for who reads the file.
                fields[number,] = _unzigzag(self._read_varint() & 0xFFFFFFFF)
            elif kind == _STRUCT:
                fields |= {(number, *path): value for path, value in self.read_struct(depth + 1).items()}
            else:
                self._skip(kind, depth, is_field=True)
        return fields

    def _skip(self, kind: int, depth: int, *, is_field: bool = False) -> None:
        if kind in (_TRUE, _FALSE):
            # A field's truth stands in its head; an entry of a list takes a byte.
            self._advance(0 if is_field else 1)
        elif kind in (_BYTE, _DOUBLE):
            self._advance(1 if kind == _BYTE else 8)
        elif kind in (_I16, _I32, _I64):
            self._read_varint()
        elif kind == _BINARY:
            self._advance(self._read_varint())
        elif kind in (_LIST, _SET):
            head = self._read_byte()
            self._skip_entries(head >> 4 if head >> 4 != 15 else self._read_varint(), (head & 0x0F,), depth)
        elif kind == _MAP:
            if number := self._read_varint():
                head = self._read_byte()
                self._skip_entries(number, (head >> 4, head & 0x0F), depth)
        elif kind == _STRUCT:
            self.read_struct(depth + 1)
        else:
            raise ValueError(f"a page header holds a value of the unknown kind {kind}")

    def _skip_entries(self, number: int, kinds: Sequence[int], depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ValueError(f"a page header is nested more than {MAX_DEPTH} deep")
        for _ in range(number):
            for kind in kinds:
                self._skip(kind, depth + 1)

    def _advance(self, num_bytes: int) -> None:
        self.position += num_bytes
        if self.position > len(self._content):
            raise IndexError("the header goes on")

    def _read_byte(self) -> int:
        value = self._content[self.position]
        self.position += 1
        return value

    def _read_varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._read_byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a page header holds a number of more than 64 bits")


def _unzigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


class _ColumnPages:
    """Where the pages of a column in a row group stand, and up to where they are checked."""

    def __init__(self, column: pq.ColumnChunkMetaData, limits: PageLimits, *, is_list: bool) -> None:
        start = column.data_page_offset
        if column.dictionary_page_offset is not None and 0 < column.dictionary_page_offset < start:
            start = column.dictionary_page_offset
        self.name = column.path_in_schema
        self.next_header = start
        self.stop = start + column.total_compressed_size
        self._limits = limits
        self._is_list = is_list
        self._num_values = 0

    def check(self, header: PageHeader) -> None:
        """Enter the next page.

        Raises:
            HostilePageError: It should not be unpacked.
        """
        limit = max(self._limits.max_page_bytes, MAX_PAGE_RATIO * header.page_bytes)
        if header.unpacked_bytes > limit:
            raise HostilePageError(
                f"column '{self.name}' holds a page that unpacks from {header.page_bytes} to {header.unpacked_bytes} "
                f"bytes, limit {limit}; write it with smaller pages or raise --inputs.max-image-bytes"
            )
        self._num_values += header.num_values
        if self._is_list and self._num_values > self._limits.max_list_values:
            raise HostilePageError(
                f"column '{self.name}' holds {self._num_values} values in one row group, limit "
                f"{self._limits.max_list_values}; write smaller row groups"
            )
        self.next_header += header.header_bytes + header.page_bytes
        if self.next_header > self.stop:
            raise HostilePageError(f"column '{self.name}' holds a page that ends behind its row group; copy it again")


class PageGuard(io.RawIOBase):
    """A Parquet file that is read through here: the headers of its pages are checked as they come by."""

    def __init__(self, stream: ByteStream, limits: PageLimits) -> None:
        """Let pages through that are within the limits."""
        self._stream = stream
        self._limits = limits
        self._columns: list[_ColumnPages] = []

    def expect(self, file: pq.ParquetFile, group: int, names: Sequence[str]) -> None:
        """Note that columns of a row group are read next."""
        metadata = file.metadata.row_group(group)
        columns = [(metadata.column(place), file.schema.column(place)) for place in range(metadata.num_columns)]
        self._columns = [
            _ColumnPages(column, self._limits, is_list=schema.max_repetition_level > 0)
            for column, schema in columns
            if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in names)
        ]

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be read here and there."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a position."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Say where the stream is."""
        return self._stream.tell()

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes.

        Raises:
            HostilePageError: They belong to a page that should not be unpacked.
            ArrowInvalid: They belong to a page whose header cannot be read.
        """
        start = self._stream.tell()
        content = self._stream.read(size)
        stop = start + len(content)
        for column in self._columns:
            while start < column.stop and column.next_header < min(stop, column.stop):
                column.check(self._read_header(column, start, content))
        return content

    def _read_header(self, column: _ColumnPages, start: int, content: bytes) -> PageHeader:
        """Read the next header of a column, from what was read just now if it is there whole."""
        try:
            if column.next_header >= start:
                try:
                    return parse_page_header(memoryview(content)[column.next_header - start :])
                except IndexError:
                    pass
            position = self._stream.tell()
            self._stream.seek(column.next_header)
            header = self._stream.read(min(MAX_HEADER_BYTES, column.stop - column.next_header))
            self._stream.seek(position)
            return parse_page_header(header)
        except (IndexError, ValueError) as error:
            raise pa.ArrowInvalid(f"column '{column.name}' holds a page without a readable header: {error}") from error
