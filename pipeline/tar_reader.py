"""Tar archives as a sequence of samples: members of one key that follow each other, as WebDataset writes them."""

import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from pipeline.errors import ShardError
from pipeline.records import InputShard
from pipeline.storage import ByteStream, open_stream

BLOCK_BYTES = tarfile.BLOCKSIZE
SKIP_BYTES = 2**20
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
TAG_SUFFIXES = frozenset({"json", "txt", "cls"})


@dataclass(kw_only=True)
class MemberGroup:
    """A run of members that share a key. Of a suffix that comes twice, and of several images, the first counts."""

    key: str
    offset: int
    """Where the first member's headers start in the archive, in bytes."""
    image: bytes | None = None
    image_name: str = ""
    tag_payloads: dict[str, bytes] = field(default_factory=dict)
    """Contents of the members that may hold tags, by suffix."""


@dataclass(frozen=True, kw_only=True)
class ArchiveEnd:
    """How an archive ended."""

    offset: int
    """Where reading could go on: behind the last sample that was given."""
    num_ignored_members: int
    truncated_at: int | None


def split_member_name(name: str) -> tuple[str, str] | None:
    """Split a member's name into key and suffix at the first dot of its base name; None for names to ignore.

    >>> split_member_name("dogs/IMG_1.seg.PNG")
    ('dogs/IMG_1', 'seg.png')
    >>> split_member_name("dogs/._IMG_1.jpg") is None
    True
    """
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    is_meta = base.startswith("__") and base.endswith("__")
    if not stem or not suffix or is_meta:
        return None
    return folder + slash + stem, suffix.lower()


class _BrokenArchiveError(Exception):
    """The archive cannot be read on from here."""

    def __init__(self, offset: int, *, is_inside_sample: bool) -> None:
        """Keep the byte at which it broke off, and whether a member was cut there."""
        super().__init__(f"archive breaks off at byte {offset}")
        self.offset = offset
        self.is_inside_sample = is_inside_sample


class _Tape:
    """A stream as `tarfile` wants it: positions are those in the archive, seeks go forward only."""

    def __init__(self, stream: ByteStream, position: int) -> None:
        self._stream = stream
        self._position = position
        self._pending = b""
        self.last_read = b""
        self.is_at_end = False
        self.end_mark_offset = position

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        """Read `size` bytes; fewer only at the end of the stream."""
        pieces = [self._pending[:size]]
        self._pending = self._pending[size:]
        missing = size - len(pieces[0])
        while missing > 0 and (piece := self._stream.read(min(missing, 64 * SKIP_BYTES))):
            pieces.append(piece)
            missing -= len(piece)
        self.is_at_end = missing > 0
        self.last_read = b"".join(pieces)
        self._position += len(self.last_read)
        return self.last_read

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("a header points back")
        while self._position < position and self.read(min(SKIP_BYTES, position - self._position)):
            pass

    def peek_block(self) -> bytes:
        block = self.read(BLOCK_BYTES)
        self._pending = block + self._pending
        self._position -= len(block)
        return block

    def close(self) -> None:
        self._stream.close()


def read_groups(shard: InputShard, start_offset: int = 0) -> Iterator[MemberGroup | ArchiveEnd]:
    """Read the samples of an archive in order, then how it ended.

    A group is given once the next one starts. An archive that breaks off gives what is whole before that.

    Raises:
        ShardError: There is no such shard, or it is no tar archive.
    """
    try:
        stream = open_stream(shard.uri, start_offset)
    except FileNotFoundError as error:
        raise ShardError(f"shard '{shard.uri}' does not exist; it was there when it was listed") from error
    with closing(_Tape(stream, start_offset)) as tape:
        if start_offset == 0:
            _require_tar(shard, tape.peek_block())
        yield from _group_members(tape)


def _require_tar(shard: InputShard, block: bytes) -> None:
    """Check the first block of a shard."""
    if block.startswith(b"\x1f\x8b"):
        reason, advice = "it is compressed with gzip", "decompress it, as images do not shrink"
    elif not block:
        reason, advice = "it is empty", "copy it again or leave it out"
    elif len(block) == BLOCK_BYTES and not block.strip(b"\0"):
        return
    else:
        try:
            tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            reason, advice = str(error), "copy it again or leave it out"
        else:
            return
    raise ShardError(f"shard '{shard.uri}' is no tar archive: {reason}; {advice}")


def _group_members(tape: _Tape) -> Iterator[MemberGroup | ArchiveEnd]:
    group: MemberGroup | None = None
    num_ignored = 0
    end_offset, truncated_at = tape.tell(), None
    try:
        for member in _read_members(tape):
            names = split_member_name(member.name) if _is_plain_file(member) else None
            if names is None:
                num_ignored += 1
                continue
            key, suffix = names
            if group is None or key != group.key:
                if group is not None:
                    yield group
                group = MemberGroup(key=key, offset=member.offset)
            _read_payload(tape, member, suffix, group)
        end_offset = tape.end_mark_offset
    except _BrokenArchiveError as error:
        truncated_at = end_offset = error.offset
        # Cut between two members: nobody can tell whether more of the last sample was to come.
        if group is not None and (error.is_inside_sample or group.image is None or not group.tag_payloads):
            end_offset, group = group.offset, None
    if group is not None:
        yield group
    yield ArchiveEnd(offset=end_offset, num_ignored_members=num_ignored, truncated_at=truncated_at)


def _is_plain_file(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def _read_payload(tape: _Tape, member: tarfile.TarInfo, suffix: str, group: MemberGroup) -> None:
    """Read what labelling needs of a member into its group; the rest is passed over."""
    is_image = suffix in IMAGE_SUFFIXES and group.image is None
    if not is_image and (suffix not in TAG_SUFFIXES or suffix in group.tag_payloads):
        return
    payload = tape.read(member.size)
    if len(payload) < member.size:
        raise _BrokenArchiveError(tape.tell(), is_inside_sample=True)
    if is_image:
        group.image, group.image_name = payload, suffix
    else:
        group.tag_payloads[suffix] = payload


def _read_members(tape: _Tape) -> Iterator[tarfile.TarInfo]:
    """Read the members of an archive, and of those that were appended to it behind its end marks.

    After the last one the tape holds where the end marks start.

    Raises:
        _BrokenArchiveError: A header is not valid, or the stream ends without an end mark.
    """
    archive: tarfile.TarFile | None = None
    while True:
        start = archive.offset if archive is not None else tape.tell()
        try:
            if archive is None:
                archive = tarfile.TarFile(fileobj=tape, encoding="utf-8", errors="backslashreplace")  # type: ignore[arg-type]
                member = archive.firstmember  # type: ignore[attr-defined]
                archive.firstmember = None  # type: ignore[attr-defined]
            else:
                member = archive.next()
        except (tarfile.TarError, ValueError, OverflowError) as error:
            # Behind a payload that ends early tarfile finds no data; other headers are wrong where they start.
            offset = tape.tell() if tape.is_at_end else start
            raise _BrokenArchiveError(offset, is_inside_sample=tape.is_at_end) from error
        if member is not None:
            # tarfile keeps every header for random access; a shard may have a million.
            archive.members = []  # type: ignore[attr-defined]
            yield member
        elif not _skip_end_marks(tape, start):
            return
        else:
            archive = None


def _skip_end_marks(tape: _Tape, start: int) -> bool:
    """Tell whether another archive was appended behind the end marks, and move to it.

    Raises:
        _BrokenArchiveError: There are no end marks at `start`, or something else than an archive behind them: a hole
            in the file looks like end marks.
    """
    if len(tape.last_read) < BLOCK_BYTES:
        raise _BrokenArchiveError(tape.tell(), is_inside_sample=False)
    if tape.last_read.strip(b"\0"):
        raise _BrokenArchiveError(start, is_inside_sample=False)
    tape.end_mark_offset = start
    while (block := tape.peek_block()) and not block.strip(b"\0"):
        tape.read(len(block))
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        if block:
            raise _BrokenArchiveError(start, is_inside_sample=False) from error
        return False
    return True
