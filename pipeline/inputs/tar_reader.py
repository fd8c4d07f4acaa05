"""Tar archives as sequences of samples: adjacent members with the same key, as in WebDataset."""

import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum

from pipeline.errors import ShardError
from pipeline.inputs.patterns.file_kinds import FileKind, recognise_kind
from pipeline.inputs.sample_tags import MAX_TAGS_BYTES
from pipeline.inputs.tar.links import LinkTargets
from pipeline.inputs.tar.names import (
    IMAGE_SUFFIXES,
    TAG_SUFFIXES,
    USED_SUFFIXES,
    classify_member,
    describe_missing_image,
    describe_missing_tags,
    is_dotted_image,
    split_member_name,
)
from pipeline.inputs.tar.spans import (
    OF_DOTTED_SAMPLE,
    OF_REPEATED_MEMBERS,
    OF_SAMPLE,
    OF_TRUNCATED_SAMPLE,
    Part,
    Role,
    Span,
)
from pipeline.inputs.tar.stream import BLOCK_BYTES, BrokenArchiveError, HostileHeaderError, TarStream, read_members
from pipeline.run.config import KeyRule
from pipeline.run.records import InputShard, MemberCounts, PassedOver, describe_oversized_image
from pipeline.storage.reading import open_stream

MAX_SUFFIXES = 1000
"""Suffixes of a sample that are remembered; images and tags always are."""
MAX_DOTTED = 1000
"""Members such as `IMG_1.0.jpg` after which a sample without a plain image ends: their names are held in memory."""
MAX_NAMED = 5
"""Members of a sample without an image that its error names."""


@dataclass(kw_only=True)
class MemberGroup:
    """Members of one row. Of repeated suffixes and of several images the first counts."""

    key: str
    offset: int
    """Byte offset of the first member's headers in the archive."""
    image: bytes | None = None
    image_name: str = ""
    """Suffix of the image's member, also if it was not read."""
    image_bytes: int = 0
    """Size of the image, also if it was not read."""
    image_offset: int | None = None
    """Byte offset of the image in the archive, that of its target for a hard link; None without an image."""
    image_error: str = ""
    """Why an existing image was not read; empty if it was read."""
    no_image_error: str = ""
    """Why there is no image; empty if there is one."""
    no_tags_error: str = ""
    """Why there are no tags; empty if a member may contain them."""
    dotted_name_error: str = ""
    """Why this is one of several images of a name with dots; empty if it is not."""
    tag_payloads: dict[str, bytes] = field(default_factory=dict)
    """Contents of the members that may contain tags, by suffix."""
    oversized_tags: dict[str, int] = field(default_factory=dict)
    """Sizes of such members above the limit, in bytes, by suffix."""
    broken_tags: dict[str, str] = field(default_factory=dict)
    """Why such members have no content, by suffix."""
    is_start: bool = True
    """Whether a reading may start at its offset and give the same rows and counts."""
    members_before: MemberCounts = field(default_factory=MemberCounts)
    """All members from the offset of the previous group, or from the start of the reading, to this one's."""

    @property
    def has_tags(self) -> bool:
        """Whether there is a member for the tags."""
        return bool(self.tag_payloads or self.oversized_tags or self.broken_tags)

    @property
    def is_complete(self) -> bool:
        """Whether there is a member for the image and one for the tags."""
        return bool(self.image_name) and self.has_tags


@dataclass(frozen=True, kw_only=True)
class ArchiveEnd:
    """The end of an archive: complete or truncated."""

    offset: int
    """Byte offset after the last sample, where a read can resume."""
    truncated_at: int | None
    members_before: MemberCounts | None
    """All members from the offset of the last group, or from the start of the reading, to this end."""
    members_after: MemberCounts | None
    """All members behind it: those of a truncated sample."""


def read_groups(
    shard: InputShard,
    start_offset: int = 0,
    *,
    max_image_bytes: int,
    key_rule: KeyRule = KeyRule.FIRST_DOT,
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
    with (
        closing(TarStream(byte_stream, start_offset)) as stream,
        closing(LinkTargets(shard.uri)) as links,
    ):
        if start_offset == 0:
            _require_tar(shard, stream.peek_block())
        try:
            yield from _Grouping(stream, links, max_image_bytes, key_rule).run()
        except HostileHeaderError as error:
            raise ShardError(f"shard '{shard.uri}' cannot be read: {error}; write it again or leave it out") from error


def _require_tar(shard: InputShard, block: bytes) -> None:
    """Check the first block of a shard; what another file is, is named as before a run starts."""
    if len(block) == BLOCK_BYTES and not block.strip(b"\0"):
        return
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        kind = recognise_kind(block)
        reason, advice = f"it is {kind}", kind.advice
        if kind in (FileKind.TAR, FileKind.UNKNOWN):
            reason, advice = str(error), "copy it again or leave it out"
        raise ShardError(f"shard '{shard.uri}' is no tar archive: {reason}; {advice}") from error


class _Start(Enum):
    """Whether a member starts another sample."""

    NONE = "none"
    SAMPLE = "sample"
    TENTATIVE = "tentative"


@dataclass(kw_only=True)
class _OpenSample:
    """A sample whose members are being read."""

    group: MemberGroup
    is_tentative: bool
    """Whether it starts with a repeated member, and is a sample only if it gets an image."""
    suffixes: set[str] = field(default_factory=set)
    names: list[str] = field(default_factory=list)
    """Its first members, for messages."""
    dotted: list[tuple[str, int]] = field(default_factory=list)
    """Names and offsets of members such as `IMG_1.0.jpg`."""
    lead: Span = field(default_factory=Span)
    """Members before the first one of these."""
    rest: Span = field(default_factory=Span)

    @property
    def has_image(self) -> bool:
        return bool(self.group.image_name)

    @property
    def span(self) -> Span:
        """Where the next member counts."""
        return self.rest if self.dotted else self.lead


class _Grouping:
    """Groups the members of an archive, from any offset of a group on."""

    def __init__(self, stream: TarStream, links: LinkTargets, max_image_bytes: int, key_rule: KeyRule) -> None:
        self._stream = stream
        self._links = links
        self._max_image_bytes = max_image_bytes
        self._key_rule = key_rule
        self._sample: _OpenSample | None = None
        self._before = Span()
        self._uncounted: tuple[Span, Role, int, str] | None = None
        """The last member: it counts once it is known to be whole."""

    def run(self) -> Iterator[MemberGroup | ArchiveEnd]:
        """Yield the groups of the archive, then its end."""
        truncated_at, after = None, Span()
        try:
            for member in read_members(self._stream):
                self._count_last()
                yield from self._enter(member)
            self._count_last()
            end_offset = self._stream.end_mark_offset
        except BrokenArchiveError as error:
            truncated_at = end_offset = error.offset
            if error.offset >= self._stream.next_header:
                self._count_last()
            # Truncated between two members: the last sample may be incomplete.
            sample = self._sample
            if sample is not None and (error.is_inside_sample or not sample.group.is_complete):
                end_offset, self._sample = sample.group.offset, None
                after.take(sample.lead, OF_TRUNCATED_SAMPLE)
                after.take(sample.rest, OF_TRUNCATED_SAMPLE)
        yield from self._close()
        yield ArchiveEnd(
            offset=end_offset,
            truncated_at=truncated_at,
            members_before=self._before.freeze(),
            members_after=after.freeze(),
        )

    def _count_last(self) -> None:
        if self._uncounted is not None:
            span, role, offset, name = self._uncounted
            span.add(role, offset, name)
            self._uncounted = None

    def _enter(self, member: tarfile.TarInfo) -> Iterator[MemberGroup]:
        """Enter a member; yield the groups that end before it."""
        found = classify_member(member, self._key_rule)
        if isinstance(found, PassedOver):
            self._links.note(member)
            span = self._before if self._sample is None else self._sample.span
            self._uncounted = (span, found, member.offset, member.name)
            return
        key, suffix = found
        sample = self._sample
        if sample is None or (start := _find_start(sample, key, suffix)) != _Start.NONE:
            is_tentative = sample is not None and start == _Start.TENTATIVE
            yield from self._close()
            group = MemberGroup(key=key, offset=member.offset)
            self._sample = sample = _OpenSample(group=group, is_tentative=is_tentative)
        role = self._choose_role(sample, suffix)
        if role == Part.DOTTED:
            sample.dotted.append((member.name, member.offset))
        if len(sample.names) < MAX_NAMED:
            sample.names.append(member.name)
        if len(sample.suffixes) < MAX_SUFFIXES or suffix in USED_SUFFIXES:
            sample.suffixes.add(suffix)
        self._uncounted = (sample.span, role, member.offset, member.name)
        if role != Part.IN_ROW or not member.islnk():
            # A link whose content is read is entered when its target is found.
            self._links.note(member)
        if role == Part.IN_ROW:
            self._read_payload(sample, member, suffix)

    def _choose_role(self, sample: _OpenSample, suffix: str) -> Role:
        if suffix in IMAGE_SUFFIXES:
            return PassedOver.SECOND_IMAGE if sample.has_image else Part.IN_ROW
        if self._is_dotted(suffix):
            return Part.DOTTED
        if suffix in sample.suffixes:
            return PassedOver.SECOND_MEMBER
        return Part.IN_ROW if suffix in TAG_SUFFIXES else PassedOver.UNUSED_SUFFIX

    def _is_dotted(self, suffix: str) -> bool:
        return self._key_rule == KeyRule.FIRST_DOT and is_dotted_image(suffix)

    def _close(self) -> Iterator[MemberGroup]:
        """Yield the groups of the current sample, of which no further member comes."""
        sample, self._sample = self._sample, None
        if sample is None:
            return
        if sample.is_tentative and not sample.has_image:
            self._before.take(sample.lead, OF_REPEATED_MEMBERS)
            self._before.take(sample.rest, OF_REPEATED_MEMBERS)
        elif sample.dotted and not sample.has_image:
            self._before.take(sample.lead, OF_DOTTED_SAMPLE)
            yield from self._close_dotted(sample)
        else:
            sample.group.members_before = self._before.freeze()
            self._before = Span()
            self._before.take(sample.lead, OF_SAMPLE)
            self._before.take(sample.rest, OF_SAMPLE)
            if not sample.has_image:
                sample.group.no_image_error = describe_missing_image(sample.names, MAX_NAMED)
            if not sample.group.has_tags:
                sample.group.no_tags_error = describe_missing_tags(sample.names, MAX_NAMED)
            yield sample.group

    def _close_dotted(self, sample: _OpenSample) -> Iterator[MemberGroup]:
        for place, (name, offset) in enumerate(sample.dotted):
            split = split_member_name(name, KeyRule.LAST_DOT)
            assert not isinstance(split, PassedOver)
            group = MemberGroup(
                key=split.key,
                offset=offset,
                image_name=split.suffix,
                dotted_name_error=f"'{name}' has several dots and belongs to sample '{sample.group.key}', which has no "
                "image; if it is a sample of its own, give --inputs.key last-dot",
                is_start=place == 0,
            )
            if group.is_start:
                group.members_before = self._before.freeze()
                self._before = Span()
                self._before.take(sample.rest, OF_DOTTED_SAMPLE)
            yield group

    def _read_payload(self, sample: _OpenSample, member: tarfile.TarInfo, suffix: str) -> None:
        """Read an image or tags into their group."""
        group, is_image = sample.group, suffix in IMAGE_SUFFIXES
        target = self._links.find(member) if member.islnk() else None
        if member.islnk() and target is None:
            error = (
                f"'{member.name}' is a hard link to '{member.linkname}', which is not in the archive before it; "
                "pack the archive with both, or with --hard-dereference"
            )
            if is_image:
                group.image_name, group.no_image_error = suffix, error
            else:
                group.broken_tags[suffix] = error
            return
        size = member.size if target is None else target.size
        if is_image:
            group.image_name, group.image_bytes = suffix, size
            group.image_offset = member.offset_data if target is None else target.offset
        limit = self._max_image_bytes if is_image else MAX_TAGS_BYTES
        if size > limit:
            if is_image:
                group.image_error = describe_oversized_image(size, limit)
            else:
                group.oversized_tags[suffix] = size
            return
        payload = self._stream.take(size) if target is None else self._links.read(target)
        if len(payload) < size:
            raise BrokenArchiveError(self._stream.tell(), is_inside_sample=True)
        if is_image:
            group.image = payload
        else:
            group.tag_payloads[suffix] = payload


def _find_start(sample: _OpenSample, key: str, suffix: str) -> _Start:
    """Whether a member starts another sample than the current one."""
    is_full = len(sample.dotted) >= MAX_DOTTED and not sample.has_image
    if key != sample.group.key or is_full:
        return _Start.SAMPLE
    if suffix not in sample.suffixes or not sample.has_image:
        return _Start.NONE
    return _Start.SAMPLE if suffix in IMAGE_SUFFIXES else _Start.TENTATIVE
