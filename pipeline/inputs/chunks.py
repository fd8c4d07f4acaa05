"""Chunks of samples of a shard, read from any offset."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from pipeline.errors import LabellingError, ShardError, describe_exception, is_store_failure
from pipeline.inputs.parquet_reader import read_parquet_samples
from pipeline.inputs.path_reader import read_index_samples
from pipeline.inputs.sample_tags import find_json_download_error, read_tags
from pipeline.inputs.tag_join import join_tags
from pipeline.inputs.tar.names import TAG_SUFFIXES
from pipeline.inputs.tar_reader import ArchiveEnd, MemberGroup, read_groups
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard, MemberCounts, Sample, ShardEnd, merge_members
from pipeline.storage.listing import (
    UNKNOWN_ETAG,
    StoredObject,
    find_object,
)


def read_chunks(
    shard: InputShard, config: InputConfig, *, start_offset: int = 0, first_chunk: int = 0
) -> Iterator[Chunk | ShardEnd]:
    """Read the chunks of a shard in order, then one `ShardEnd`.

    Restarted at the `end_offset` of chunk k, with `first_chunk=k + 1`, it yields the same later chunks. So
    `is_continuation` only covers keys repeated within a chunk; sealing finds keys that are repeated in another chunk.
    Of several images of one key the first is used. Members of a tar that are in no sample are counted by
    `records.PassedOver`, in the chunk that contains their header.

    Raises:
        ShardError: The shard does not exist, is neither a tar archive nor a Parquet file that fits the configuration,
            or its parser fails.
        OSError: The store failed.
    """
    try:
        yield from _chunk_samples(shard, config, start_offset, first_chunk)
    except LabellingError:
        raise
    except Exception as error:  # parsers raise anything on hostile bytes, and one shard must not stop the others
        if is_store_failure(error):
            raise
        raise ShardError(
            f"shard '{shard.uri}' cannot be read: {describe_exception(error)}; copy it again or leave it out"
        ) from error


class _Item(NamedTuple):
    """A sample on its way into a chunk."""

    offset: int
    sample: Sample
    is_start: bool = True
    """Whether a chunk may start with it."""
    members_before: MemberCounts | None = None


def _read_samples(shard: InputShard, config: InputConfig, start: int) -> Iterator[_Item | ArchiveEnd]:
    """Read the samples of a shard from an offset, then the end."""
    if not shard.is_parquet:
        for group in read_groups(shard, start, max_image_bytes=config.max_image_bytes, key_rule=config.key):
            if isinstance(group, ArchiveEnd):
                yield group
            else:
                sample = _make_tar_sample(group, config)
                yield _Item(group.offset, sample, group.is_start, group.members_before)
        return
    number = start - 1
    read = read_index_samples if shard.is_index else read_parquet_samples
    for number, sample in read(shard, config, start):
        yield _Item(number, sample)
    yield ArchiveEnd(offset=number + 1, truncated_at=None, members_before=None, members_after=None)


def require_unchanged(shard: InputShard) -> None:
    """Check that a shard has not changed since it was listed.

    Raises:
        ShardError: It does not exist, or has another size or etag.
    """
    found = find_object(shard.uri)
    if found is None:
        raise ShardError(f"shard '{shard.uri}' does not exist; it was there when it was listed")
    if change := describe_change(shard, found):
        raise ShardError(
            f"shard '{shard.uri}' changed since it was listed ({change}); put the old one back, or label the new one "
            "with a new --out"
        )


def describe_change(shard: InputShard, found: StoredObject) -> str:
    """Change of size and etag of a shard since it was listed; empty if unchanged or if its etag is unknown."""
    if shard.etag == UNKNOWN_ETAG or (found.size_bytes, found.etag) == (shard.size_bytes, shard.etag):
        return ""
    return f"was {shard.size_bytes} bytes, etag {shard.etag}; is {found.size_bytes} bytes, etag {found.etag}"


def _make_tar_sample(group: MemberGroup, config: InputConfig) -> Sample:
    found = read_tags(group.key, group.tag_payloads, config, group.oversized_tags)
    has_tags = bool(found.tags or found.class_numbers)
    broken = next((group.broken_tags[name] for name in TAG_SUFFIXES if name in group.broken_tags), "")
    return Sample(
        key=group.key,
        image=group.image,
        image_name=group.image_name,
        image_bytes=group.image_bytes,
        image_offset=group.image_offset,
        image_error=group.image_error,
        no_image_error=group.no_image_error,
        no_tags_error=group.no_tags_error,
        dotted_name_error=group.dotted_name_error,
        tags=found.tags,
        class_numbers=found.class_numbers,
        tags_error=found.error if has_tags or not broken else broken,
        download_error="" if group.image_name else find_json_download_error(group.tag_payloads.get("json")),
    )


def read_missing_chunks(
    shard: InputShard,
    config: InputConfig,
    end_offsets: Mapping[int, int],
    *,
    first_chunk: int = 0,
    start_offset: int = 0,
) -> Iterator[Chunk | ShardEnd]:
    """Read the uncommitted chunks of a shard, then its end. Committed chunks are skipped.

    Args:
        shard: The shard.
        config: Settings of the reader.
        end_offsets: End offset of each committed chunk, by its index.
        first_chunk: Index of the first chunk.
        start_offset: Start offset of that chunk.
    """
    index, offset = first_chunk, start_offset
    while True:
        while index in end_offsets:
            offset = end_offsets[index]
            index += 1
        for piece in read_chunks(shard, config, start_offset=offset, first_chunk=index):
            yield piece
            if isinstance(piece, ShardEnd):
                return
            index, offset = piece.index + 1, piece.end_offset
            if index in end_offsets:
                break


def _chunk_samples(
    shard: InputShard, config: InputConfig, start_offset: int, first_chunk: int
) -> Iterator[Chunk | ShardEnd]:
    index, num_bytes = first_chunk, 0
    samples: list[Sample] = []
    keys: set[str] = set()
    members: MemberCounts | None = None
    for item in _read_samples(shard, config, start_offset):
        if item.members_before is not None:
            members = merge_members([members, item.members_before])
        is_full = len(samples) >= config.max_chunk_samples or num_bytes >= config.max_chunk_bytes
        if samples and (isinstance(item, ArchiveEnd) or (is_full and item.is_start)):
            yield Chunk(index=index, end_offset=item.offset, samples=tuple(samples), members=members)
            index, num_bytes, samples, keys, members = index + 1, 0, [], set(), None
        if isinstance(item, ArchiveEnd):
            members = merge_members([members, item.members_after])
            yield ShardEnd(num_chunks=index, truncated_at=item.truncated_at, members=members)
            return
        sample = join_tags(item.sample, config)
        samples.append(replace(sample, is_continuation=True) if sample.key in keys else sample)
        keys.add(sample.key)
        # Includes images above the limit: the boundaries of chunks must not depend on the limit.
        num_bytes += sample.image_bytes
