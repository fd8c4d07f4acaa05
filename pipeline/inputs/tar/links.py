"""Hard links of a tar archive: their content stands in a member before them.

The first hard link of a reading makes an index of all members before it, from the headers alone and from the start of
the archive. So a reading finds the same targets wherever it started.
"""

import posixpath
import tarfile
from collections import OrderedDict
from contextlib import closing, suppress
from hashlib import blake2b
from typing import NamedTuple

from pipeline.errors import ShardError
from pipeline.inputs.tar.stream import BrokenArchiveError, TarStream, read_members
from pipeline.storage.reading import ByteStream, open_random, open_stream
from pipeline.storage.uris import get_local_path

MAX_TARGETS = 2**18
"""Members before a link among which its target is searched; each takes about 300 bytes of memory."""
LOCAL_JUMP_BYTES = 2**16
REMOTE_JUMP_BYTES = 16 * 2**20
"""Gaps between headers above these are skipped by a seek; a store reads 8 MiB ahead after each."""


class LinkTarget(NamedTuple):
    """Where the content of a hard link is."""

    offset: int
    size: int


def is_plain_file(member: tarfile.TarInfo) -> bool:
    """Whether a member is a regular file whose content stands behind its header as it is."""
    return member.isreg() and not member.issparse()


class LinkTargets:
    """Regular members and hard links of an archive that were read so far, by name."""

    def __init__(self, uri: str) -> None:
        """Make no index yet: most archives have no hard link."""
        self._uri = uri
        self._targets: OrderedDict[int, LinkTarget] | None = None
        self._stream: ByteStream | None = None

    def note(self, member: tarfile.TarInfo) -> None:
        """Enter a member that stands behind the first hard link."""
        if self._targets is not None:
            _enter_member(self._targets, member)

    def find(self, link: tarfile.TarInfo) -> LinkTarget | None:
        """Find the content of a hard link, and enter the link; None if no member of that name stands before it.

        Raises:
            HostileHeaderError: A header before the link is beyond the limits.
            OSError: The store failed.
        """
        if self._targets is None:
            self._targets = self._index_members_before(link.offset)
        return _enter_member(self._targets, link)

    def read(self, target: LinkTarget) -> bytes:
        """Read the content of a hard link."""
        if self._stream is None:
            self._stream = open_random(self._uri)
        self._stream.seek(target.offset)
        pieces, missing = [], target.size
        while missing > 0 and (piece := self._stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
        if missing:
            raise ShardError(f"shard '{self._uri}' changed while it was read; run the same command again")
        return b"".join(pieces)

    def close(self) -> None:
        """Release the connection or file handle."""
        if self._stream is not None:
            self._stream.close()

    def _index_members_before(self, end: int) -> OrderedDict[int, LinkTarget]:
        targets: OrderedDict[int, LinkTarget] = OrderedDict()
        min_jump_bytes = REMOTE_JUMP_BYTES if get_local_path(self._uri) is None else LOCAL_JUMP_BYTES
        with (
            closing(TarStream(open_stream(self._uri), min_jump_bytes=min_jump_bytes)) as stream,
            suppress(BrokenArchiveError),
        ):
            for member in read_members(stream):
                if member.offset >= end:
                    break
                _enter_member(targets, member)
        return targets


def _enter_member(targets: OrderedDict[int, LinkTarget], member: tarfile.TarInfo) -> LinkTarget | None:
    """Enter a regular file or a hard link; return where its content is."""
    if is_plain_file(member):
        target: LinkTarget | None = LinkTarget(member.offset_data, member.size)
    else:
        target = targets.get(_hash_name(member.linkname)) if member.islnk() else None
    if target is not None:
        number = _hash_name(member.name)
        # The newest are last.
        targets.pop(number, None)
        targets[number] = target
        if len(targets) > MAX_TARGETS:
            targets.popitem(last=False)
    return target


def _hash_name(name: str) -> int:
    """Hash a name: paths of the same file are one."""
    path = posixpath.normpath(name).lstrip("/")
    return int.from_bytes(blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
