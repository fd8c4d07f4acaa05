"""Limits on the page headers of a Parquet file, checked before pyarrow unpacks a page.

A page is the smallest readable unit of a column, and its header contains its unpacked size: a gigabyte of zeros takes
33 kB in the file. pyarrow does not expose these headers. All its reads pass through this module, so that no byte is
read twice.
"""

import io
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.reading import ByteStream

MAX_PAGE_BYTES = 256 * 2**20
"""Maximum unpacked size of a page, regardless of its size in the file."""
MAX_PAGE_RATIO = 8
"""Maximum ratio of unpacked to stored size of a larger page: pyarrow writes 1024 images of any size into a page, and
encoded images do not shrink."""
MAX_LIST_VALUES = 2**26
"""Maximum values of a list column in a row group: a run of a billion equal ones takes a few bytes in the file."""
MAX_HEADER_BYTES = 2**20
"""Maximum size of a page header: it takes tens of bytes, plus the minimum and maximum value by some writers."""
MAX_DEPTH = 8
_DICTIONARY_PAGE, _DELTA_BYTE_ARRAY = 2, 7
POOLED_BYTES = 2**17
"""Reads of this size or more use memory that is used again."""
ROUNDED_BYTES = 8 * 2**20
MAX_SPARE_BYTES = 64 * 2**20
"""Maximum size of memory that is kept for the next read."""

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)


@dataclass(frozen=True, kw_only=True)
class PageLimits:
    """Maximum sizes of pages and lists."""

    max_page_bytes: int = MAX_PAGE_BYTES
    """Unpacked size of a page, unless the page takes at least an eighth of it in the file."""
    max_list_values: int = MAX_LIST_VALUES
    """Values of a list column in a row group."""


class HostilePageError(Exception):
    """A page beyond the limits; the message contains its column and the reason."""


class PageHeader(NamedTuple):
    """Sizes of a page, known before it is unpacked."""

    header_bytes: int
    page_bytes: int
    """Size in the file, without the header."""
    unpacked_bytes: int
    num_values: int
    is_dictionary: bool
    has_prefixes: bool
    """Whether a value is the end of one that starts as the value before it."""


def parse_page_header(content: bytes | memoryview) -> PageHeader:
    """Parse the header of a page.

    Raises:
        IndexError: The content ends before the header does.
        ValueError: The content is not a page header.

    Source: `PageHeader` of Apache Parquet's parquet.thrift, in Thrift's compact protocol.
    """
    parser = _ThriftParser(content)
    fields = parser.read_struct()
    unpacked, packed = fields.get((2,)), fields.get((3,))
    if unpacked is None or packed is None or unpacked < 0 or packed < 0:
        raise ValueError(f"a page header claims {unpacked} bytes unpacked, {packed} in the file")
    # By the kind of the page: data, dictionary, data of version 2.
    num_values = max(fields.get((kind, 1), 0) for kind in (5, 7, 8))
    encodings = fields.get((5, 2)), fields.get((8, 4))
    return PageHeader(
        header_bytes=parser.position,
        page_bytes=packed,
        unpacked_bytes=unpacked,
        num_values=num_values,
        is_dictionary=fields.get((1,)) == _DICTIONARY_PAGE,
        has_prefixes=_DELTA_BYTE_ARRAY in encodings,
    )


class _ThriftParser:
    """A parser of Thrift's compact protocol that keeps 32-bit integers and skips other values."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = content
        self.position = 0

    def read_struct(self, depth: int = 0) -> dict[tuple[int, ...], int]:
        """Read a struct: its integers, by the path of their field numbers."""
        if depth > MAX_DEPTH:
            raise ValueError(f"a page header is nested more than {MAX_DEPTH} deep")
        fields: dict[tuple[int, ...], int] = {}
        number = 0
        while (head := self._read_byte()) & 0x0F != _STOP:
            number = number + (head >> 4) if head >> 4 else _decode_zigzag(self._read_varint())
            kind = head & 0x0F
            if kind == _I32:
                # Of a repeated field the last value counts, as for pyarrow.
                fields[number,] = _decode_zigzag(self._read_varint() & 0xFFFFFFFF)
            elif kind == _STRUCT:
                fields |= {(number, *path): value for path, value in self.read_struct(depth + 1).items()}
            else:
                self._skip_value(kind, depth, is_field=True)
        return fields

    def _skip_value(self, kind: int, depth: int, *, is_field: bool = False) -> None:
        if kind in (_TRUE, _FALSE):
            # The type byte of a field contains its boolean value; an entry of a list takes a byte.
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
                self._skip_value(kind, depth + 1)

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


def _decode_zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


class _PageCursor:
    """The pages of a column in a row group, and the position of the next unchecked header."""

    def __init__(self, column: pq.ColumnChunkMetaData, limits: PageLimits, *, is_list: bool) -> None:
        start = column.data_page_offset
        if column.dictionary_page_offset is not None and 0 < column.dictionary_page_offset < start:
            start = column.dictionary_page_offset
        self.name = column.path_in_schema
        self.next_header = start
        self.num_bytes = column.total_compressed_size
        self.start, self.stop = start, start + self.num_bytes
        self.unpacked_bytes = column.total_uncompressed_size
        self.has_prefixes = "DELTA_BYTE_ARRAY" in column.encodings
        self._limits = limits
        self._is_list = is_list
        self._num_values = 0

    def check(self, header: PageHeader) -> None:
        """Check a page header and move to the next page.

        Raises:
            HostilePageError: The page exceeds a limit.
        """
        limit = max(self._limits.max_page_bytes, MAX_PAGE_RATIO * header.page_bytes)
        if header.unpacked_bytes > limit:
            raise HostilePageError(
                f"column '{self.name}' holds a page that unpacks from {header.page_bytes} to {header.unpacked_bytes} "
                f"bytes, limit {limit}; write it with smaller pages or raise --inputs.max-image-bytes"
            )
        if (header.is_dictionary and self.next_header > self.start) or (header.has_prefixes and not self.has_prefixes):
            raise HostilePageError(
                f"column '{self.name}' holds a page that its footer does not announce; write it again"
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


class _ReadMemory:
    """Memory of large reads, used again once pyarrow has released it: new pages took up to half of the time."""

    def __init__(self) -> None:
        """Hold no memory yet."""
        self._spare: list[pa.Buffer] = []
        self._lent: dict[int, tuple[weakref.ref[memoryview], pa.Buffer]] = {}

    def read(self, stream: ByteStream, size: int) -> bytes | memoryview:
        """Read up to `size` bytes of a stream, into this memory if the stream can."""
        if size < POOLED_BYTES or not isinstance(stream, io.BufferedReader):
            return stream.read(size)
        buffer = next((one for one in self._spare if one.size >= size), None)
        if buffer is None:
            # Rounded up: row groups differ a little in size.
            buffer = pa.allocate_buffer(-(-size // ROUNDED_BYTES) * ROUNDED_BYTES)
        self._spare.clear()
        # Arrow's buffers of the content hold the view.
        content = memoryview(buffer).cast("B")[:size]
        content = content[: stream.readinto(content)]
        number = id(content)
        self._lent[number] = weakref.ref(content, lambda _: self._take_back(number)), buffer
        return content

    def _take_back(self, number: int) -> None:
        _, buffer = self._lent.pop(number)
        if buffer.size <= MAX_SPARE_BYTES:
            self._spare = [buffer]


class PageGuard(io.RawIOBase):
    """A stream of a Parquet file that checks the page headers in all bytes that are read."""

    def __init__(self, stream: ByteStream, limits: PageLimits) -> None:
        """Check pages against the limits."""
        self._stream = stream
        self._memory = _ReadMemory()
        self._limits = limits
        self._columns: list[_PageCursor] = []

    def expect(self, file: pq.ParquetFile, group: int, names: Sequence[str]) -> None:
        """Set the columns of a row group that are read next."""
        metadata = file.metadata.row_group(group)
        columns = [(metadata.column(place), file.schema.column(place)) for place in range(metadata.num_columns)]
        self._columns = [
            _PageCursor(column, self._limits, is_list=schema.max_repetition_level > 0)
            for column, schema in columns
            if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in names)
        ]

    @property
    def num_expected_bytes(self) -> int:
        """Size in the file of the columns that are read next."""
        return sum(column.num_bytes for column in self._columns)

    def count_shared_bytes(self, max_unread: int) -> int:
        """Count the bytes that several values of a column may share, so that each row gets a copy of them.

        Args:
            max_unread: Of columns of at most this size, all bytes are counted, and their dictionary is not read.

        Raises:
            ArrowInvalid: A page header cannot be parsed.
        """
        return max((self._count_shared(column, max_unread) for column in self._columns), default=0)

    def _count_shared(self, column: _PageCursor, max_unread: int) -> int:
        if column.has_prefixes or column.unpacked_bytes <= max_unread:
            return column.unpacked_bytes
        header = self._read_header(column, column.stop, b"")
        return header.unpacked_bytes if header.is_dictionary else 0

    def readable(self) -> bool:
        """True: the stream is readable."""
        return True

    def seekable(self) -> bool:
        """True: the stream is seekable."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a position."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Position in bytes."""
        return self._stream.tell()

    def read(self, size: int = -1, /) -> bytes | memoryview:  # pyarrow takes any buffer
        """Read up to `size` bytes.

        Raises:
            HostilePageError: They contain the header of a page that exceeds a limit.
            ArrowInvalid: They contain a page header that cannot be parsed.
        """
        start = self._stream.tell()
        content = self._memory.read(self._stream, size)
        stop = start + len(content)
        for column in self._columns:
            while start < column.stop and column.next_header < min(stop, column.stop):
                column.check(self._read_header(column, start, content))
        return content

    def _read_header(self, column: _PageCursor, start: int, content: bytes | memoryview) -> PageHeader:
        """Parse the next header of a column, from the last read if it contains the whole header."""
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
