"""Tar archives as sequences of samples: adjacent members with the same key, as in WebDataset."""

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from pipeline.errors import ShardError
from pipeline.inputs.sample_tags import MAX_TAGS_BYTES
from pipeline.run.records import InputShard, describe_oversized_image
from pipeline.storage.reading import ByteStream, open_stream

BLOCK_BYTES = tarfile.BLOCKSIZE
SKIP_BYTES = 2**20
MIN_JUMP_BYTES = 64 * 2**20
"""Shorter gaps are read and discarded, as the store reads ahead anyway; longer gaps are skipped by a seek."""
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
TAG_SUFFIXES = frozenset({"json", "txt", "cls"})

MAX_HEADER_BYTES = 2**18
"""Maximum size of the headers of one member, including chained ones: `tarfile` holds them in memory. Long names take
a few kilobytes, extended attributes up to 64."""
MAX_DIGITS = 255
"""Maximum digits in a row in extended headers, as many as in a file name: `tarfile` takes quadratic time for them."""
_LONG_NUMBER = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))


@dataclass(kw_only=True)
class MemberGroup:
    """Adjacent members with the same key. Of repeated suffixes and of several images the first counts."""

    key: str
    offset: int
    """Byte offset of the first member's headers in the archive."""
    image: bytes | None = None
    image_name: str = ""
    image_bytes: int = 0
    """Size of the image's member, also if it was not read."""
    image_error: str = ""
    """Why an existing image was not read; empty if it was read."""
    tag_payloads: dict[str, bytes] = field(default_factory=dict)
    """Contents of the members that may contain tags, by suffix."""
    oversized_tags: dict[str, int] = field(default_factory=dict)
    """Sizes of such members above the limit, in bytes, by suffix."""

    @property
    def is_complete(self) -> bool:
        """Whether there is a member for the image and one for the tags."""
        return bool(self.image_name and (self.tag_payloads or self.oversized_tags))


@dataclass(frozen=True, kw_only=True)
class ArchiveEnd:
    """The end of an archive: complete or truncated."""

    offset: int
    """Byte offset after the last sample, where a read can resume."""
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
    """An archive that is truncated or damaged at an offset."""

    def __init__(self, offset: int, *, is_inside_sample: bool) -> None:
        """Keep the byte offset of the damage, and whether it is inside a member."""
        super().__init__(f"archive is truncated at byte {offset}")
        self.offset = offset
        self.is_inside_sample = is_inside_sample


class _HostileHeaderError(Exception):
    """A header beyond the limits; the message contains the reason."""


class _TarStream:
    """Forward-only stream for `tarfile`, with positions relative to the archive."""

    def __init__(self, stream: ByteStream, position: int) -> None:
        self._stream = stream
        self._position = position
        self._pending = b""
        self.last_read = b""
        self.is_at_end = False
        self.end_mark_offset = position
        self._num_header_bytes = 0

    def begin_headers(self) -> None:
        """Start to count the bytes of another member's headers."""
        self._num_header_bytes = 0

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        """Read for `tarfile`, which only reads headers, of the sizes that they claim.

        Raises:
            _HostileHeaderError: The headers are too large or contain too long a number.
        """
        self._num_header_bytes += size
        if self._num_header_bytes > MAX_HEADER_BYTES:
            raise _HostileHeaderError(
                f"the headers of a member before byte {self._position + size} take more than {MAX_HEADER_BYTES} bytes"
            )
        block = self.take(size)
        if size > BLOCK_BYTES and _LONG_NUMBER.search(block):
            raise _HostileHeaderError(
                f"a header before byte {self._position} holds more than {MAX_DIGITS} digits in a row"
            )
        return block

    def take(self, size: int) -> bytes:
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
        if position - self._position > MIN_JUMP_BYTES:
            # Not beyond the end: the offset of a truncation is reported.
            self._position = self._stream.seek(min(position, self._stream.seek(0, os.SEEK_END)))
            self._pending = b""
        while self._position < position and self.take(min(SKIP_BYTES, position - self._position)):
            pass

    def peek_block(self) -> bytes:
        block = self.take(BLOCK_BYTES)
        self._pending = block + self._pending
        self._position -= len(block)
        return block

    def close(self) -> None:
        self._stream.close()


def read_groups(
    shard: InputShard, start_offset: int = 0, *, max_image_bytes: int
) -> Iterator[MemberGroup | ArchiveEnd]:
    """Read the samples of an archive in order, then how it ended.

    A group is yielded once the next one starts. Of a truncated archive all complete samples are yielded. A member
    above the limit is skipped and never held in memory.

    Raises:
        ShardError: The shard does not exist, is not a tar archive, or has a header beyond the limits.
    """
    try:
        byte_stream = open_stream(shard.uri, start_offset)
    except FileNotFoundError as error:
        raise ShardError(f"shard '{shard.uri}' does not exist; it was there when it was listed") from error
    with closing(_TarStream(byte_stream, start_offset)) as stream:
        if start_offset == 0:
            _require_tar(shard, stream.peek_block())
        try:
            yield from _group_members(stream, max_image_bytes)
        except _HostileHeaderError as error:
            raise ShardError(f"shard '{shard.uri}' cannot be read: {error}; write it again or leave it out") from error


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


def _group_members(stream: _TarStream, max_image_bytes: int) -> Iterator[MemberGroup | ArchiveEnd]:
    group: MemberGroup | None = None
    num_ignored = 0
    end_offset, truncated_at = stream.tell(), None
    try:
        for member in _read_members(stream):
            names = split_member_name(member.name) if _is_plain_file(member) else None
            if names is None:
                num_ignored += 1
                continue
            key, suffix = names
            if group is None or key != group.key:
                if group is not None:
                    yield group
                group = MemberGroup(key=key, offset=member.offset)
            _read_member_payload(stream, member, suffix, group, max_image_bytes)
        end_offset = stream.end_mark_offset
    except _BrokenArchiveError as error:
        truncated_at = end_offset = error.offset
        # Truncated between two members: the last sample may be incomplete.
        if group is not None and (error.is_inside_sample or not group.is_complete):
            end_offset, group = group.offset, None
    if group is not None:
        yield group
    yield ArchiveEnd(offset=end_offset, num_ignored_members=num_ignored, truncated_at=truncated_at)


def _is_plain_file(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def _read_member_payload(
    stream: _TarStream, member: tarfile.TarInfo, suffix: str, group: MemberGroup, max_image_bytes: int
) -> None:
    """Read an image or tags into their group; skip other members."""
    is_image = suffix in IMAGE_SUFFIXES and not group.image_name
    if not is_image and (suffix not in TAG_SUFFIXES or suffix in group.tag_payloads or suffix in group.oversized_tags):
        return
    if is_image:
        group.image_name = suffix
        group.image_bytes = member.size
    limit = max_image_bytes if is_image else MAX_TAGS_BYTES
    if member.size > limit:
        if is_image:
            group.image_error = describe_oversized_image(member.size, limit)
        else:
            group.oversized_tags[suffix] = member.size
        return
    payload = stream.take(member.size)
    if len(payload) < member.size:
        raise _BrokenArchiveError(stream.tell(), is_inside_sample=True)
    if is_image:
        group.image = payload
    else:
        group.tag_payloads[suffix] = payload


def _read_members(stream: _TarStream) -> Iterator[tarfile.TarInfo]:
    """Read the members of an archive, and of further archives appended after its end marks.

    After the last one the stream holds the offset of the end marks.

    Raises:
        _BrokenArchiveError: A header is not valid, or the stream ends without an end mark.
        _HostileHeaderError: A header is beyond the limits.
    """
    archive: tarfile.TarFile | None = None
    while True:
        start = archive.offset if archive is not None else stream.tell()
        stream.begin_headers()
        try:
            if archive is None:
                archive = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="backslashreplace")  # type: ignore[arg-type]
                member = archive.firstmember  # type: ignore[attr-defined]
                archive.firstmember = None  # type: ignore[attr-defined]
            else:
                member = archive.next()
        except (tarfile.TarError, ValueError, OverflowError) as error:
            # After a truncated payload tarfile finds no data; other invalid headers count from their start.
            offset = stream.tell() if stream.is_at_end else start
            raise _BrokenArchiveError(offset, is_inside_sample=stream.is_at_end) from error
        if member is not None and member.size < 0:
            raise _BrokenArchiveError(start, is_inside_sample=False)
        if member is not None:
            # tarfile keeps every header for random access; a shard may have a million of them.
            archive.members = []  # type: ignore[attr-defined]
            yield member
        elif not _skip_end_marks(stream, start):
            return
        else:
            archive = None


def _skip_end_marks(stream: _TarStream, start: int) -> bool:
    """Skip the end marks; return whether another archive follows.

    Raises:
        _BrokenArchiveError: There are no end marks at `start`, or they are not followed by an archive or the end of the
            file: a hole in a file looks like end marks.
    """
    if len(stream.last_read) < BLOCK_BYTES:
        raise _BrokenArchiveError(stream.tell(), is_inside_sample=False)
    if stream.last_read.strip(b"\0"):
        raise _BrokenArchiveError(start, is_inside_sample=False)
    stream.end_mark_offset = start
    while (block := stream.peek_block()) and not block.strip(b"\0"):
        stream.take(len(block))
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        if block:
            raise _BrokenArchiveError(start, is_inside_sample=False) from error
        return False
    return True
