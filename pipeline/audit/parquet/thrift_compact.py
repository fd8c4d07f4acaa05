"""Strict decoder of Thrift's compact protocol, in which Parquet writes its footers and page headers.

Readers skip unknown fields, so damage can be visible to some readers alone. Here a field that is not in the table of
its struct is refused, and so is any encoding of a value other than that of writers. So two different byte strings never
decode to equal values.

Source: doc/specs/thrift-compact-protocol.md of Apache Thrift.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

MAX_VARINT_BYTES = 10


class Kind(IntEnum):
    """Type of a value, by its number in the protocol."""

    TRUE = 1
    """As the type of a field it is its value; in a list and in `Field` it means a boolean."""
    FALSE = 2
    BYTE = 3
    I16 = 4
    I32 = 5
    I64 = 6
    DOUBLE = 7
    BINARY = 8
    LIST = 9
    SET = 10
    MAP = 11
    STRUCT = 12
    UUID = 13


NUM_BITS: dict[int, int] = {Kind.I16: 16, Kind.I32: 32, Kind.I64: 64}


class Field(NamedTuple):
    """Field of a struct."""

    name: str
    kind: Kind
    struct: "Struct | None" = None
    """Table of a struct, or of the elements of a list of structs."""
    element: Kind = Kind.STRUCT
    """Kind of the elements of a list."""
    is_required: bool = False


Struct = Mapping[int, Field]
"""Fields of a struct by their numbers."""


class ThriftError(ValueError):
    """Bytes that do not match the table of their struct."""


@dataclass(kw_only=True)
class _Cursor:
    payload: bytes
    offset: int
    end: int

    def take(self, size: int) -> bytes:
        if size > self.end - self.offset:
            raise ThriftError(f"it ends at byte {self.end} within a value of {size} bytes at byte {self.offset}")
        piece = self.payload[self.offset : self.offset + size]
        self.offset += size
        return piece

    def read_varint(self, num_bits: int) -> int:
        number, start = 0, self.offset
        for place, byte in enumerate(self.payload[start : min(start + MAX_VARINT_BYTES, self.end)]):
            number |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                if (byte == 0 and place) or number >> num_bits:
                    break
                self.offset = start + place + 1
                return number
        raise ThriftError(f"the number at byte {start} is not written as numbers of {num_bits} bits are")

    def read_signed(self, num_bits: int) -> int:
        number = self.read_varint(num_bits)
        return (number >> 1) ^ -(number & 1)


def decode_struct(payload: bytes, offset: int, end: int, struct: Struct, name: str) -> tuple[dict[str, Any], int]:
    """Decode a struct to its fields by name, without those that are not written, and the offset after it.

    Args:
        payload: Bytes that contain the struct.
        offset: Start of the struct.
        end: Limit of the struct in the payload.
        struct: Table of its fields.
        name: Of the struct, for error messages.

    Raises:
        ThriftError: The bytes are not such a struct.
    """
    cursor = _Cursor(payload=payload, offset=offset, end=end)
    return _read_struct(cursor, struct, name), cursor.offset


def _read_struct(cursor: _Cursor, struct: Struct, name: str) -> dict[str, Any]:
    # The depth of the tables bounds the recursion for any input.
    found: dict[str, Any] = {}
    number = 0
    while header := cursor.take(1)[0]:
        step, kind = header >> 4, header & 0x0F
        if step == 0:
            raise ThriftError(f"{name} has a field at byte {cursor.offset - 1} that is not behind the one before")
        number += step
        field = struct.get(number)
        if field is None:
            raise ThriftError(f"{name} has the field {number}, which our writer does not write")
        stated = Kind.TRUE if kind == Kind.FALSE else kind
        if stated != field.kind:
            raise ThriftError(f"{name}.{field.name} has the type {kind}")
        if stated == Kind.TRUE:
            found[field.name] = kind == Kind.TRUE
        elif num_bits := NUM_BITS.get(kind):
            found[field.name] = cursor.read_signed(num_bits)
        else:
            found[field.name] = _read_value(cursor, field, name)
    missing = [field.name for field in struct.values() if field.is_required and field.name not in found]
    if missing:
        raise ThriftError(f"{name} lacks {', '.join(missing)}")
    return found


def _read_value(cursor: _Cursor, field: Field, name: str) -> Any:
    if field.kind != Kind.LIST:
        return _read_plain(cursor, field.kind, field.struct, f"{name}.{field.name}")
    header = cursor.take(1)[0]
    length, kind = header >> 4, header & 0x0F
    if length == 15:
        length = cursor.read_varint(31)
        if length < 15:
            raise ThriftError(f"{name}.{field.name} writes its short length as a long one")
    if kind != field.element:
        raise ThriftError(f"{name}.{field.name} has elements of the type {kind}")
    if length > cursor.end - cursor.offset:
        raise ThriftError(f"{name}.{field.name} has {length} elements, more than bytes are left")
    if (num_bits := NUM_BITS.get(kind)) is not None:
        return [cursor.read_signed(num_bits) for _ in range(length)]
    return [_read_plain(cursor, field.element, field.struct, f"{name}.{field.name}") for _ in range(length)]


def _read_plain(cursor: _Cursor, kind: Kind, struct: Struct | None, name: str) -> Any:
    if kind == Kind.STRUCT:
        assert struct is not None
        return _read_struct(cursor, struct, name)
    if kind == Kind.BINARY:
        return cursor.take(cursor.read_varint(31))
    byte = cursor.take(1)[0]
    if kind == Kind.BYTE:
        return byte - 256 if byte > 127 else byte
    # Boolean within a list.
    if byte not in (Kind.TRUE, Kind.FALSE):
        raise ThriftError(f"{name} holds {byte} where true or false is needed")
    return byte == Kind.TRUE
