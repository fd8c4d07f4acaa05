"""Text of tables: any store, gzip, UTF-8, and UTF-16 or UTF-32 with a byte order mark."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, BinaryIO, cast

from pipeline.errors import ShardError
from pipeline.inputs.patterns.file_kinds import HEAD_BYTES, IN_PLACE_OF_TEXT, FileKind, recognise_kind
from pipeline.inputs.tables.kinds import GZIP_SUFFIX, strip_suffix
from pipeline.storage.reading import ByteStream, open_stream, read_head

BUFFER_BYTES = 2**20
MARKS = {
    # The mark of UTF-32 begins with the mark of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UTF_8 = "utf-8-sig"
MAX_LINE_LETTERS = 64 * 2**20
"""Maximum letters of a line; tags and paths take a few hundred."""


@contextmanager
def open_bytes(uri: str) -> Iterator[tuple["io.BufferedReader[Any]", str]]:
    """Open a table; yield its decompressed bytes and the name of their encoding.

    Raises:
        ShardError: It does not exist, or is no complete gzip file. So does reading within the context.
        OSError: The store failed.
    """
    try:
        with closing(open_stream(uri)) as stream:
            raw: io.BufferedReader[Any] = io.BufferedReader(_Readable(stream), BUFFER_BYTES)
            if uri.lower().endswith(GZIP_SUFFIX):
                unpacked = gzip.GzipFile(fileobj=cast(BinaryIO, raw))
                raw = io.BufferedReader(cast(io.RawIOBase, unpacked), BUFFER_BYTES)
            head = raw.peek(HEAD_BYTES)[:HEAD_BYTES]
            require_table_text(uri, head)
            yield raw, find_encoding(head)
    except FileNotFoundError as error:
        raise ShardError(f"table '{uri}' does not exist; check the path") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ShardError(f"table '{uri}' is no complete gzip file: {error}; copy it again") from error


@contextmanager
def open_lines(uri: str) -> Iterator[Iterator[str]]:
    """Open a table; yield its lines, with their ends as written.

    Raises:
        ShardError: It does not exist, is no text, or has too long a line. So does reading within the context.
        OSError: The store failed.
    """
    with open_bytes(uri) as (raw, encoding):
        try:
            yield _read_lines(uri, io.TextIOWrapper(raw, encoding=encoding, newline=""))
        except UnicodeError as error:
            raise ShardError(_describe_binary(uri, encoding, error)) from error


def find_encoding(head: bytes) -> str:
    """Name of the encoding by the byte order mark; UTF-8 without one."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), UTF_8)


def require_table_text(uri: str, head: bytes) -> None:
    """Check by the first bytes of a table that it is no pointer or page that was saved in its place.

    Raises:
        ShardError: It is.
    """
    kind = recognise_kind(head)
    if kind in IN_PLACE_OF_TEXT:
        raise ShardError(f"table '{uri}' is {kind}; {kind.advice}")


def _describe_binary(uri: str, encoding: str, error: UnicodeError) -> str:
    """Message for a table that is not in its encoding: its kind, if it is no text at all."""
    kind = recognise_kind(read_head(uri, HEAD_BYTES))
    is_unpacked = uri.lower().endswith(GZIP_SUFFIX)
    if kind == FileKind.GZIP and not is_unpacked:
        return f"table '{uri}' is {kind}; name it *{strip_suffix(uri)}{GZIP_SUFFIX}"
    if kind not in (FileKind.TEXT, FileKind.TABLE, FileKind.JSON_LINES, FileKind.UNKNOWN) and not is_unpacked:
        return f"table '{uri}' is {kind}; write it as text in UTF-8, or name it by what it is"
    name = "UTF-8" if encoding == UTF_8 else encoding.upper()
    where = f", byte {error.object[error.start]:#04x}" if isinstance(error, UnicodeDecodeError) else ""
    return f"table '{uri}' is not {name}: {getattr(error, 'reason', error)}{where}; save it as UTF-8"


def _read_lines(uri: str, text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_LINE_LETTERS):
        number += 1
        if number == 1 and "\0" in line:
            kind = recognise_kind(read_head(uri, HEAD_BYTES))
            if kind == FileKind.UNKNOWN or uri.lower().endswith(GZIP_SUFFIX):
                raise ShardError(f"table '{uri}' is no text, or UTF-16 without a byte order mark; save it as UTF-8")
            raise ShardError(f"table '{uri}' is {kind}; write it as text in UTF-8, or name it by what it is")
        if len(line) == MAX_LINE_LETTERS:
            raise ShardError(
                f"table '{uri}': line {number} has more than {MAX_LINE_LETTERS} letters; is it a table of its suffix?"
            )
        yield line


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
