"""Bytes and headers of a tar archive: a forward-only stream with limits, and the members that `tarfile` finds in it."""

import os
import re
import tarfile
from collections.abc import Iterator

from pipeline.inputs.tar.plain_headers import parse_plain_header
from pipeline.storage.reading import ByteStream

BLOCK_BYTES = tarfile.BLOCKSIZE
SKIP_BYTES = 2**20
MIN_JUMP_BYTES = 64 * 2**20
"""Shorter gaps are read and discarded, as the store reads ahead anyway; longer gaps are skipped by a seek."""

MAX_HEADER_BYTES = 2**18
"""Maximum size of the headers of one member, including chained ones: `tarfile` holds them in memory. Long names take
a few kilobytes, extended attributes up to 64."""
MAX_DIGITS = 255
"""Maximum digits in a row in extended headers, as many as in a file name: `tarfile` takes quadratic time for them."""
_LONG_NUMBER = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))

PREFIX = slice(345, 500)
"""Start of a long name in headers of POSIX; in those of GNU's incremental archives times of access and change."""
_TIMES = re.compile(rb"[0-7]{11}[\0 ]|[\x80\xff]")
"""Start of these times: octal digits, or the mark of a binary number."""


class _Header(tarfile.TarInfo):
    """A header; `tarfile` takes times of GNU's incremental archives for a part of the name."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        member = super().frombuf(buf, encoding, errors)
        # Writers other than GNU tar put names there, with GNU's mark.
        if buf[257:265] == tarfile.GNU_MAGIC and _TIMES.match(buf, PREFIX.start):
            times = buf[PREFIX].partition(b"\0")[0].decode(encoding, errors)
            member.name = member.name.removeprefix(f"{times}/")
        return member


class BrokenArchiveError(Exception):
    """An archive that is truncated or damaged at an offset."""

    def __init__(self, offset: int, *, is_inside_sample: bool) -> None:
        """Keep the byte offset of the damage, and whether it is inside a member."""
        super().__init__(f"archive is truncated at byte {offset}")
        self.offset = offset
        self.is_inside_sample = is_inside_sample


class HostileHeaderError(Exception):
    """A header beyond the limits; the message contains the reason."""


class TarStream:
    """Forward-only stream for `tarfile`, with positions relative to the archive."""

    def __init__(self, stream: ByteStream, position: int = 0, *, min_jump_bytes: int = MIN_JUMP_BYTES) -> None:
        """Read on from `position`, where the stream stands; skip gaps above `min_jump_bytes` by a seek."""
        self._stream = stream
        self._position = position
        self._min_jump_bytes = min_jump_bytes
        self._pending = b""
        self.last_read = b""
        self.is_at_end = False
        self.end_mark_offset = position
        self.next_header = position
        self._num_header_bytes = 0

    def begin_headers(self) -> None:
        """Start to count the bytes of another member's headers."""
        self._num_header_bytes = 0

    def tell(self) -> int:
        """Position in the archive."""
        return self._position

    def read(self, size: int) -> bytes:
        """Read for `tarfile`, which only reads headers, of the sizes that they claim.

        Raises:
            HostileHeaderError: The headers are too large or contain too long a number.
        """
        self._num_header_bytes += size
        if self._num_header_bytes > MAX_HEADER_BYTES:
            raise HostileHeaderError(
                f"the headers of a member before byte {self._position + size} take more than {MAX_HEADER_BYTES} bytes"
            )
        block = self.take(size)
        if size > BLOCK_BYTES and _LONG_NUMBER.search(block):
            raise HostileHeaderError(
                f"a header before byte {self._position} holds more than {MAX_DIGITS} digits in a row"
            )
        return block

    def take(self, size: int) -> bytes:
        """Read `size` bytes; fewer only at the end of the stream."""
        if not self._pending and size <= 64 * SKIP_BYTES:
            first = self._stream.read(size)
            if len(first) == size:
                self.is_at_end = False
                self.last_read = first
                self._position += size
                return first
        else:
            first = self._pending[:size]
            self._pending = self._pending[size:]
        pieces = [first]
        missing = size - len(first)
        while missing > 0 and (piece := self._stream.read(min(missing, 64 * SKIP_BYTES))):
            pieces.append(piece)
            missing -= len(piece)
        self.is_at_end = missing > 0
        self.last_read = b"".join(pieces)
        self._position += len(self.last_read)
        return self.last_read

    def seek(self, position: int) -> None:
        """Move forward, to the end of the stream at most."""
        if position < self._position:
            raise tarfile.ReadError("a header points back")
        if position - self._position > self._min_jump_bytes:
            # Not beyond the end: the offset of a truncation is reported.
            self._position = self._stream.seek(min(position, self._stream.seek(0, os.SEEK_END)))
            self._pending = b""
        while self._position < position and self.take(min(SKIP_BYTES, position - self._position)):
            pass

    def peek_block(self) -> bytes:
        """Return the next block; it will be read again."""
        block = self.take(BLOCK_BYTES)
        self._put_back(block)
        return block

    def take_plain_header(self, position: int) -> tarfile.TarInfo | None:
        """Read the header of an ordinary file less than a block ahead; None, and no move, if there is none."""
        padding = position - self._position
        if not 0 <= padding < BLOCK_BYTES:
            return None
        content = self.take(padding + BLOCK_BYTES)
        member = parse_plain_header(content[padding:])
        if member is None:
            self._put_back(content)
            return None
        member.offset, member.offset_data = position, self._position
        return member

    def _put_back(self, content: bytes) -> None:
        self._pending = content + self._pending
        self._position -= len(content)

    def close(self) -> None:
        """Release the connection or file handle."""
        self._stream.close()


def read_members(stream: TarStream) -> Iterator[tarfile.TarInfo]:
    """Read the members of an archive, and of further archives appended after its end marks.

    With each the stream holds the offset of the next header, which is behind the end of the file if the member is
    truncated; after the last one it holds the offset of the end marks.

    Raises:
        BrokenArchiveError: A header is not valid, or the stream ends without an end mark.
        HostileHeaderError: A header is beyond the limits.
    """
    archive: tarfile.TarFile | None = None
    while True:
        start = archive.offset if archive is not None else stream.tell()
        stream.begin_headers()
        try:
            if archive is None:
                archive = tarfile.TarFile(
                    fileobj=stream,  # type: ignore[arg-type]
                    tarinfo=_Header,
                    encoding="utf-8",
                    errors="backslashreplace",
                )
                member = archive.firstmember  # type: ignore[attr-defined]
                archive.firstmember = None  # type: ignore[attr-defined]
            else:
                member = _next_plain_member(archive, stream) or archive.next()
        except (tarfile.TarError, ValueError, OverflowError) as error:
            # After a truncated payload tarfile finds no data; other invalid headers count from their start.
            offset = stream.tell() if stream.is_at_end else start
            raise BrokenArchiveError(offset, is_inside_sample=stream.is_at_end) from error
        if member is not None and member.size < 0:
            raise BrokenArchiveError(start, is_inside_sample=False)
        if member is not None:
            # tarfile keeps every header for random access; a shard may have a million of them.
            archive.members = []  # type: ignore[attr-defined]
            stream.next_header = archive.offset
            yield member
        elif not _skip_end_marks(stream, start):
            return
        else:
            archive = None


def _next_plain_member(archive: tarfile.TarFile, stream: TarStream) -> tarfile.TarInfo | None:
    """The next member as `archive.next()` returns it, if it is an ordinary file; otherwise None, and no move."""
    # Those of the whole archive change its members.
    if archive.pax_headers:
        return None
    member = stream.take_plain_header(archive.offset)
    if member is not None:
        archive.offset = member.offset_data + -(-member.size // BLOCK_BYTES) * BLOCK_BYTES
    return member


def _skip_end_marks(stream: TarStream, start: int) -> bool:
    """Skip the end marks; return whether another archive follows.

    Raises:
        BrokenArchiveError: There are no end marks at `start`, or they are not followed by an archive or the end of the
            file: a hole in a file looks like end marks.
    """
    if len(stream.last_read) < BLOCK_BYTES:
        raise BrokenArchiveError(stream.tell(), is_inside_sample=False)
    if stream.last_read.strip(b"\0"):
        raise BrokenArchiveError(start, is_inside_sample=False)
    stream.end_mark_offset = start
    while (block := stream.peek_block()) and not block.strip(b"\0"):
        stream.take(len(block))
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        if block:
            raise BrokenArchiveError(start, is_inside_sample=False) from error
        return False
    return True
