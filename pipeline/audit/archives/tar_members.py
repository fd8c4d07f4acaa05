"""Members of a tar archive, and of archives appended behind its end marks, as `tarfile` yields them."""

import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.storage.reading import ByteStream

BLOCK_BYTES = 512


class BrokenArchiveError(Exception):
    """Archive that is damaged or truncated at an offset."""

    def __init__(self, offset: int, *, is_inside_sample: bool) -> None:
        """Keep the byte offset, and whether it is within a member."""
        super().__init__(f"the archive is broken at byte {offset}")
        self.offset = offset
        self.is_inside_sample = is_inside_sample


class FoundMember(NamedTuple):
    """Member of an archive."""

    header: tarfile.TarInfo
    is_whole: bool
    """False if the archive ends within its content; nothing follows it."""


class NamedHeader(tarfile.TarInfo):
    """Header whose name is right in incremental archives of GNU tar, too.

    They hold times where those of POSIX hold the start of a long name; `tarfile` looks at neither mark.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "NamedHeader":
        """Parse a header of 512 bytes."""
        header = super().frombuf(buf, encoding, errors)
        is_gnu, field = buf[257:262] == b"ustar" and buf[262:264] == b"  ", buf[345:500]
        is_octal = len(field[:11].strip(b"01234567")) == 0 and field[11:12] in (b" ", b"\0") and field[0] != 0
        if is_gnu and (is_octal or field[0] in (0x80, 0xFF)):
            wrong = field.split(b"\0")[0].decode(encoding, errors) + "/"
            if header.name.startswith(wrong):
                header.name = header.name[len(wrong) :]
        return header


class WatchedStream:
    """Stream that records whether a read reached its end."""

    def __init__(self, stream: ByteStream) -> None:
        """Watch a stream."""
        self._stream = stream
        self.is_at_end = False

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes; fewer only at the end."""
        pieces = []
        missing = size
        while missing > 0 and (piece := self._stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        self.is_at_end = missing > 0
        return b"".join(pieces)

    def seek(self, offset: int) -> None:
        """Go to a byte of the stream."""
        self._stream.seek(offset)

    def tell(self) -> int:
        """Position in the stream."""
        return self._stream.tell()


def list_members(stream: WatchedStream, num_bytes: int) -> Iterator[FoundMember | int]:
    """Yield the members of an archive, then the offset of its end marks.

    Raises:
        BrokenArchiveError: The archive is damaged or truncated.
    """
    start = 0
    while True:
        archive = _open_archive(stream, start, num_bytes)
        member = archive.firstmember  # type: ignore[attr-defined]
        archive.firstmember = None  # type: ignore[attr-defined]
        while member is not None:
            # `tarfile` keeps all members, of which a shard may have a million.
            archive.members = []  # type: ignore[attr-defined]
            here = archive.offset
            yield FoundMember(member, is_whole=here <= num_bytes)
            if here <= member.offset:
                raise BrokenArchiveError(member.offset, is_inside_sample=False)
            try:
                member = archive.next()
            except (tarfile.TarError, ValueError, OverflowError) as error:
                at_end = stream.is_at_end
                raise BrokenArchiveError(num_bytes if at_end else here, is_inside_sample=at_end) from error
        end = archive.offset
        start = _find_next_archive(stream, end, num_bytes)
        if start == num_bytes:
            yield end
            return


def _open_archive(stream: WatchedStream, start: int, num_bytes: int) -> tarfile.TarFile:
    """Open the archive at an offset and read its first member.

    Raises:
        BrokenArchiveError: Its first header is intact, and what follows is not.
    """
    stream.seek(start)
    block = stream.read(BLOCK_BYTES)
    stream.seek(start)
    try:
        return tarfile.TarFile(
            fileobj=stream,  # type: ignore[arg-type]
            tarinfo=NamedHeader,
            encoding="utf-8",
            errors="backslashreplace",
        )
    except (tarfile.TarError, ValueError, OverflowError) as error:
        at_end = stream.is_at_end
        if block != bytes(BLOCK_BYTES):
            # Raises if it is not a header: then this is not an archive.
            tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        raise BrokenArchiveError(num_bytes if at_end else start, is_inside_sample=at_end) from error


def _find_next_archive(stream: WatchedStream, end: int, num_bytes: int) -> int:
    """Start of the next archive after the end marks; the end of the stream if there is none."""
    stream.seek(end)
    block = stream.read(BLOCK_BYTES)
    if len(block) < BLOCK_BYTES:
        raise BrokenArchiveError(num_bytes, is_inside_sample=False)
    offset = end
    while block and not block.strip(b"\0"):
        offset += len(block)
        block = stream.read(BLOCK_BYTES)
    if not block:
        return num_bytes
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        raise BrokenArchiveError(end, is_inside_sample=False) from error
    if offset == end:
        # It is a header of this archive, which `tarfile` refused.
        raise BrokenArchiveError(end, is_inside_sample=False)
    return offset
