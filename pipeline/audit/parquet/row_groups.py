"""Number of rows of any Parquet file, from its footer, without Arrow.

`layout` refuses what our writer does not write. Files of other writers have fields that it does not know, which are
skipped here.

Source: doc/specs/thrift-compact-protocol.md of Apache Thrift, src/main/thrift/parquet.thrift of apache/parquet-format.
"""

from collections.abc import Iterator

from pipeline.audit.parquet.layout import MAGIC, MAX_FOOTER_BYTES, read_at
from pipeline.audit.parquet.thrift_compact import Kind, ThriftError
from pipeline.storage.reading import ByteStream

NUM_ROWS_FIELD, GROUPS_FIELD, GROUP_ROWS_FIELD = 3, 4, 3
"""Fields of `FileMetaData` (number of rows, row groups) and `RowGroup` (number of rows)."""
MAX_DEPTH = 32
"""Footers nest a few levels; more would exceed Python's stack."""


def count_group_rows(stream: ByteStream) -> int:
    """Count the rows of a Parquet file: sum over its row groups.

    Raises:
        ThriftError: It has no footer, or the footer states another sum.
    """
    num_bytes = stream.seek(0, 2)
    tail = read_at(stream, max(0, num_bytes - 8), min(num_bytes, 8))
    footer_bytes = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or not 0 < footer_bytes <= min(num_bytes - 8, MAX_FOOTER_BYTES):
        raise ThriftError(f"its last bytes {tail.hex(' ')} are not the end of a Parquet file")
    scanner = _Scanner(read_at(stream, num_bytes - 8 - footer_bytes, footer_bytes))
    stated, of_groups = scanner.scan_footer()
    if stated != sum(of_groups):
        raise ThriftError(f"its footer states {stated} rows, its row groups have {sum(of_groups)}")
    return stated


class _Scanner:
    """Forward reader of a struct whose other fields are skipped."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._offset = 0

    def scan_footer(self) -> tuple[int | None, list[int]]:
        """Stated number of rows, and that of each row group."""
        stated, of_groups = None, []
        for number, kind in self._iterate_fields():
            if (number, kind) == (NUM_ROWS_FIELD, Kind.I64):
                stated = self._read_signed()
            elif (number, kind) == (GROUPS_FIELD, Kind.LIST):
                length, element = self._read_list_header()
                if length and element != Kind.STRUCT:
                    raise ThriftError(f"its row groups have the type {element}")
                of_groups = [self._scan_group() for _ in range(length)]
            else:
                self._skip(kind)
        return stated, of_groups

    def _scan_group(self) -> int:
        num_rows = None
        for number, kind in self._iterate_fields():
            if (number, kind) == (GROUP_ROWS_FIELD, Kind.I64):
                num_rows = self._read_signed()
            else:
                self._skip(kind)
        if num_rows is None or num_rows < 0:
            raise ThriftError(f"a row group states {num_rows} rows")
        return num_rows

    def _iterate_fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field; the caller reads or skips its value."""
        number = 0
        while header := self._take(1)[0]:
            step, kind = header >> 4, header & 0x0F
            number = number + step if step else self._read_signed()
            yield number, kind

    def _skip(self, kind: int, depth: int = 0, *, is_element: bool = False) -> None:
        if depth > MAX_DEPTH:
            raise ThriftError(f"its footer nests more than {MAX_DEPTH} levels")
        match kind:
            case Kind.TRUE | Kind.FALSE:
                # As a field, the type is the value.
                self._take(int(is_element))
            case Kind.BYTE:
                self._take(1)
            case Kind.I16 | Kind.I32 | Kind.I64:
                self._read_varint()
            case Kind.BINARY:
                self._take(self._read_varint())
            case Kind.STRUCT:
                for _, inner in self._iterate_fields():
                    self._skip(inner, depth + 1)
            case Kind.LIST | Kind.SET:
                length, element = self._read_list_header()
                for _ in range(length):
                    self._skip(element, depth + 1, is_element=True)
            case Kind.DOUBLE:
                self._take(8)
            case Kind.UUID:
                self._take(16)
            case Kind.MAP:
                self._skip_map(depth)
            case _:
                raise ThriftError(f"byte {self._offset} of its footer has the type {kind}")

    def _skip_map(self, depth: int) -> None:
        if length := self._read_varint():
            kinds = self._take(1)[0]
            for _ in range(length):
                self._skip(kinds >> 4, depth + 1, is_element=True)
                self._skip(kinds & 0x0F, depth + 1, is_element=True)

    def _read_list_header(self) -> tuple[int, int]:
        header = self._take(1)[0]
        length = header >> 4
        return (self._read_varint() if length == 15 else length), header & 0x0F

    def _read_signed(self) -> int:
        number = self._read_varint()
        return (number >> 1) ^ -(number & 1)

    def _read_varint(self) -> int:
        number = shift = 0
        while (byte := self._take(1)[0]) >= 0x80:
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ThriftError(f"byte {self._offset} of its footer continues a number of more than 64 bits")
        return number | byte << shift

    def _take(self, size: int) -> bytes:
        if size > len(self._payload) - self._offset:
            raise ThriftError("its footer ends within a value")
        self._offset += size
        return self._payload[self._offset - size : self._offset]
