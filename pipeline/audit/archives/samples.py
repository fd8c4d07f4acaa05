"""Grouping of the members of an archive into samples, and the book of those that are passed over."""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.audit.archives.member_counts import MemberBook
from pipeline.audit.archives.member_rules import (
    DOTTED_IMAGE,
    SECOND_IMAGE,
    SECOND_MEMBER,
    TAG_SUFFIXES,
    TRUNCATED,
    UNUSED_SUFFIX,
    MemberRules,
    NamedMember,
)

MAX_DOTTED = 1000
"""Members such as `k.0.jpg` after which a sample without an image ends."""
MAX_SUFFIXES = 1000
"""Suffixes of a sample that are compared with later ones, beside those of images and tags."""


@dataclass(frozen=True, kw_only=True)
class WalkedImage:
    """Image of a sample."""

    sha256: str
    head: bytes
    """Its first bytes, at most `MAX_HEAD_BYTES`."""
    is_whole: bool
    """True if `head` is the whole image."""


@dataclass(frozen=True, kw_only=True)
class ImagePlace:
    """Place of an encoded image."""

    offset: int | None = None
    """Byte in a tar, or row of a Parquet file; None for a file of its own."""
    num_bytes: int | None = None
    """None: not known without reading it, and it may not be there."""
    uri: str | None = None
    """URI of a file of its own."""


@dataclass(kw_only=True)
class WalkedSample:
    """One sample of a shard."""

    key: str
    offset: int
    """Start of the sample: bytes of a tar, rows of a Parquet file."""
    has_image: bool = False
    """True also if images are not read."""
    has_tags: bool = False
    is_dotted: bool = False
    """True if its name has more dots than one: it is a row without a mask, and its image is not read."""
    image: WalkedImage | None = None
    """None if there is none, or if it was not wanted."""
    place: ImagePlace | None = None
    """None if there is no image, or a row of a Parquet file or of an index names none."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Bytes of a file in an archive."""

    offset: int
    num_bytes: int


FindContent = Callable[[tarfile.TarInfo], Content | None]
"""Content of a member, that of its target for a hard link; None if there is no target."""


@dataclass(kw_only=True)
class _Member:
    """Member of a sample that is not complete yet."""

    name: str
    offset: int
    kind: str | None
    """Kind under which it is passed over; None: it is in the row."""


@dataclass(kw_only=True)
class _Group:
    """Sample that is not complete yet."""

    sample: WalkedSample
    is_tentative: bool
    """True if its key has a sample already, and this one no image."""
    members: list[_Member] = field(default_factory=list)
    suffixes: set[str] = field(default_factory=set)
    num_dotted: int = 0
    """Members such as `k.0.jpg`."""
    holds_image: bool = False
    """True also for a hard link without a target."""

    def may_lack_members(self, *, is_inside: bool) -> bool:
        """True if members may be missing where the archive is truncated, perhaps within a member."""
        return is_inside or not self.holds_image or not self.sample.has_tags


class Grouping:
    """Samples of one archive, from its members in order."""

    def __init__(
        self,
        rules: MemberRules,
        find_content: FindContent,
        read_image: Callable[[str, Content], WalkedImage | None],
    ) -> None:
        """Start before the first member.

        Args:
            rules: Of the run.
            find_content: Finds the content of an image.
            read_image: Reads the image of a sample by its key; None if it is not wanted.
        """
        self._rules = rules
        self._find_content = find_content
        self._read_image = read_image
        self._group: _Group | None = None
        self.book = MemberBook()

    def add(self, member: tarfile.TarInfo, *, is_whole: bool = True) -> Iterator[WalkedSample]:
        """Add a member; yield the samples that end before it.

        Args:
            member: The next one.
            is_whole: False if the archive ends within it: it is not counted, and its sample is dropped.
        """
        found = self._rules.judge(member)
        if not isinstance(found, NamedMember):
            if is_whole:
                self.book.pass_over(found, member.name, member.offset)
            return
        group = self._group
        if group is None or group.sample.key != found.key or self._begins_sample(found.suffix, group):
            follows_image = group is not None and group.sample.key == found.key and group.holds_image
            yield from self.close()
            sample = WalkedSample(key=found.key, offset=member.offset)
            group = self._group = _Group(sample=sample, is_tentative=follows_image)
        entry = _Member(name=member.name, offset=member.offset, kind=UNUSED_SUFFIX)
        if is_whole:
            group.members.append(entry)
        self._place(member, found.suffix, group, entry)

    def close(self, *, is_truncated: bool = False, is_inside: bool = False) -> Iterator[WalkedSample]:
        """End the current sample; yield it, or several of dotted names, or none.

        Args:
            is_truncated: True if the archive is truncated here, so that an incomplete sample is dropped.
            is_inside: True if it is truncated within a member.
        """
        group, self._group = self._group, None
        if group is None:
            return
        if is_truncated and group.may_lack_members(is_inside=is_inside):
            self._book_all(group, TRUNCATED)
        elif group.is_tentative:
            self._book_all(group, SECOND_MEMBER)
        elif not group.holds_image and any(member.kind == DOTTED_IMAGE for member in group.members):
            for member in group.members:
                if member.kind == DOTTED_IMAGE:
                    self.book.add_row()
                    yield WalkedSample(key=member.name.rpartition(".")[0], offset=member.offset, is_dotted=True)
                else:
                    self.book.pass_over(UNUSED_SUFFIX, member.name, member.offset)
        else:
            self._book_all(group, None)
            yield group.sample

    def find_dropped(self, *, is_inside: bool) -> int | None:
        """Offset of the sample that a truncation here drops; None if it drops none."""
        group = self._group
        return group.sample.offset if group and group.may_lack_members(is_inside=is_inside) else None

    def _begins_sample(self, suffix: str, group: _Group) -> bool:
        """True if a member begins another sample of the key of the one before."""
        if self._rules.is_old:
            return False
        if group.num_dotted >= MAX_DOTTED and not group.holds_image:
            return True
        # Without an image, a second json belongs to the sample before it.
        return suffix in group.suffixes and (suffix in self._rules.image_suffixes or group.holds_image)

    def _place(self, member: tarfile.TarInfo, suffix: str, group: _Group, entry: _Member) -> None:
        """Give a member its role in its sample."""
        is_second, is_image = suffix in group.suffixes, suffix in self._rules.image_suffixes
        if len(group.suffixes) < MAX_SUFFIXES or is_image or suffix in TAG_SUFFIXES:
            group.suffixes.add(suffix)
        if self._rules.is_dotted_image(suffix):
            entry.kind = DOTTED_IMAGE
            group.num_dotted += 1
        elif is_second:
            entry.kind = SECOND_MEMBER
        elif is_image and group.holds_image:
            entry.kind = SECOND_IMAGE
        elif is_image:
            entry.kind = None
            group.holds_image, group.is_tentative = True, False
            content = self._find_content(member)
            if content is not None:
                group.sample.has_image = True
                group.sample.image = self._read_image(group.sample.key, content)
                group.sample.place = ImagePlace(offset=content.offset, num_bytes=content.num_bytes)
        elif suffix in TAG_SUFFIXES:
            entry.kind = None
            group.sample.has_tags = True

    def _book_all(self, group: _Group, kind: str | None) -> None:
        """Count the members of a sample, all under one kind or each under its own."""
        for member in group.members:
            final = kind or member.kind
            if final is None:
                self.book.add_row()
            else:
                self.book.pass_over(final, member.name, member.offset)
