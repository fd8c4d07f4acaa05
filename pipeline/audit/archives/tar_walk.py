"""Samples of a tar archive as an audit counts them: keys in order, offsets, digests of images, and the members of none.

No code is shared with the readers of labelling; the rule which members are samples is written twice. Images are read
piece by piece, so no member has to fit into memory. Of members the names are kept, and only while a sample is read or
after the first hard link.
"""

import hashlib
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.audit.archives.member_counts import MemberCounts
from pipeline.audit.archives.member_rules import MemberRules
from pipeline.audit.archives.samples import Content, Grouping, WalkedImage, WalkedSample
from pipeline.audit.archives.tar_members import BrokenArchiveError, FoundMember, WatchedStream, list_members
from pipeline.storage.reading import ByteStream

PIECE_BYTES = 2**20
MAX_HEAD_BYTES = 16 * 2**20
"""Bytes kept of an image to measure its size; nearly all images are smaller."""

MAX_TARGETS = 2**18
"""Files to which a hard link may point: the last ones before it."""


@dataclass(frozen=True, kw_only=True)
class WalkEnd:
    """End of a shard."""

    offset: int
    """End of the last whole sample."""
    truncated_at: int | None
    members: MemberCounts | None = None
    """Of a tar; None for a Parquet file."""


def walk_tar(
    stream: ByteStream, rules: MemberRules, wants_image: Callable[[str], bool]
) -> Iterator[WalkedSample | WalkEnd]:
    """Walk through a tar archive and the archives appended to it.

    Args:
        stream: Of the archive.
        rules: Of the run that read it.
        wants_image: True for the keys of samples whose images are read.

    Raises:
        tarfile.TarError: It is not a tar archive. For a hostile archive `tarfile` may raise other exceptions.
    """
    num_bytes = stream.seek(0, 2)
    watched = WatchedStream(stream)
    targets = _LinkTargets(watched, num_bytes)
    images = _ImageReader(watched, wants_image)
    grouping = Grouping(rules, targets.find, images.read)
    num_members = 0
    try:
        members = list_members(watched, num_bytes)
        while isinstance(found := next(members), FoundMember):
            # This count knows no rules: it shows what they lose.
            num_members += found.is_whole
            yield from grouping.add(found.header, is_whole=found.is_whole)
            targets.add(found.header)
        yield from grouping.close()
        offset, truncated_at = found, None
    except BrokenArchiveError as error:
        truncated_at, is_inside = error.offset, error.is_inside_sample
        dropped = grouping.find_dropped(is_inside=is_inside)
        offset = truncated_at if dropped is None else dropped
        yield from grouping.close(is_truncated=True, is_inside=is_inside)
    yield WalkEnd(offset=offset, truncated_at=truncated_at, members=grouping.book.close(num_members))


class _LinkTargets:
    """Contents of the files before a member by name, for hard links. Nothing is kept before the first link."""

    def __init__(self, stream: WatchedStream, num_bytes: int) -> None:
        self._stream = stream
        self._num_bytes = num_bytes
        self._content_of: dict[str, Content] | None = None

    def find(self, member: tarfile.TarInfo) -> Content | None:
        """Content of a member, or of the target of a hard link; None if it has no target before it."""
        if not member.islnk():
            return Content(offset=member.offset_data, num_bytes=member.size)
        if self._content_of is None:
            self._content_of = {}
            for earlier in list_members(self._stream, self._num_bytes):
                if not isinstance(earlier, FoundMember) or earlier.header.offset >= member.offset:
                    break
                self.add(earlier.header)
        return self._content_of.get(_normalise_name(member.linkname))

    def add(self, member: tarfile.TarInfo) -> None:
        """Add a member that was read; links may point to it from now on."""
        if self._content_of is None or member.issparse() or not (member.isreg() or member.islnk()):
            return
        if content := self.find(member):
            name = _normalise_name(member.name)
            self._content_of.pop(name, None)
            self._content_of[name] = content
            if len(self._content_of) > MAX_TARGETS:
                del self._content_of[next(iter(self._content_of))]


def _normalise_name(name: str) -> str:
    """Name of a member as links are matched with it.

    >>> _normalise_name("./a//b.jpg"), _normalise_name("/a/b.jpg")
    ('a/b.jpg', 'a/b.jpg')
    """
    return posixpath.normpath(name).lstrip("/")


class _ImageReader:
    """Reads images, piece by piece. The last one is kept, as many links may have one target."""

    def __init__(self, stream: WatchedStream, wants_image: Callable[[str], bool]) -> None:
        self._stream = stream
        self._wants_image = wants_image
        self._last: tuple[Content, WalkedImage] | None = None

    def read(self, key: str, content: Content) -> WalkedImage | None:
        """Read the image of a sample; None if it is not wanted.

        Raises:
            BrokenArchiveError: The archive ends within it.
        """
        if not self._wants_image(key):
            return None
        if self._last is None or self._last[0] != content:
            self._last = content, self._read(content)
        return self._last[1]

    def _read(self, content: Content) -> WalkedImage:
        self._stream.seek(content.offset)
        digest, head, missing = hashlib.sha256(), bytearray(), content.num_bytes
        while missing > 0:
            piece = self._stream.read(min(missing, PIECE_BYTES))
            if not piece:
                raise BrokenArchiveError(self._stream.tell(), is_inside_sample=True)
            digest.update(piece)
            head += piece[: MAX_HEAD_BYTES - len(head)]
            missing -= len(piece)
        is_whole = len(head) == content.num_bytes
        return WalkedImage(sha256=digest.hexdigest(), head=bytes(head), is_whole=is_whole)
