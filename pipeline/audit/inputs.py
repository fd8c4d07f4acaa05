"""Comparison of the rows of a manifest with the samples of its input, one by one while their keys are equal.

No key is kept during this. At the first difference both sides are read again, for their keys alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from pipeline.audit.archives.images import check_image, check_place, check_reason
from pipeline.audit.archives.member_checks import parse_members
from pipeline.audit.archives.member_counts import MemberCounts, PassedOver
from pipeline.audit.archives.parquet_walk import walk_parquet
from pipeline.audit.archives.path_walk import walk_index
from pipeline.audit.archives.samples import WalkedSample
from pipeline.audit.archives.tar_walk import WalkEnd, walk_tar
from pipeline.audit.keys import compare_keys
from pipeline.audit.run import RunRecord
from pipeline.audit.verdict import Check, Problem
from pipeline.run.records import PARQUET_SUFFIX, InputShard
from pipeline.storage.listing import UNKNOWN_ETAG, find_object
from pipeline.storage.reading import ByteStream, open_random, open_stream

KEY_ROWS = 1024
MAX_IMAGE_BYTES = 256 * 2**20
"""Default of a run's limit of encoded images, which its record omits."""


class InputReader:
    """Samples of an input in order, up to its end or to the first unreadable byte."""

    def __init__(self, shard: InputShard, record: RunRecord, wants_image: Callable[[str], bool] | None) -> None:
        """Open the input.

        Args:
            shard: As it was listed by the run.
            record: Of the run, for the configuration of the inputs.
            wants_image: True for the keys of samples whose images are read; None: no image is read.
        """
        self._shard = shard
        self._record = record
        self.has_places = record.rules.has_places
        """Whether rows of the run state where their images are."""
        self._stream: ByteStream | None = None
        self._walk: Iterator[WalkedSample | WalkEnd] = iter(())
        self.problem: Problem | None = None
        """Reason why it cannot be read, or not to its end."""
        self.end: WalkEnd | None = None
        """End of the input, after it was reached."""
        self._guard(lambda: self._open_input(wants_image))

    def read(self) -> WalkedSample | None:
        """Next sample; None at the end or after a `problem`."""
        found = self._guard(lambda: next(self._walk, None)) if self.end is None and self.problem is None else None
        if isinstance(found, WalkEnd):
            self.end = found
            return None
        return found

    def list_keys(self) -> list[str] | None:
        """Keys of the whole input, read again; None if it cannot be read."""
        with_keys = InputReader(self._shard, self._record, None)
        keys = []
        while sample := with_keys.read():
            keys.append(sample.key)
        with_keys.close()
        self.end, self.problem = with_keys.end, with_keys.problem
        return None if self.problem else keys

    def close(self) -> None:
        """Close the input."""
        if self._stream is not None:
            self._stream.close()

    def _open_input(self, wants_image: Callable[[str], bool] | None) -> None:
        shard = self._shard
        found = find_object(shard.uri)
        if found is None:
            self.problem = Problem(Check.INPUT_GONE, 0, shard.uri)
            return
        was, now = (shard.size_bytes, shard.etag), (found.size_bytes, found.etag)
        if shard.etag != UNKNOWN_ETAG and was != now:
            text = f"was {was[0]} bytes, etag {was[1]}; is {now[0]} bytes, etag {now[1]}"
            self.problem = Problem(Check.INPUT_CHANGED, 0, f"{shard.uri}: {text}")
            return
        if shard.is_index:
            limit = self._record.inputs.get("max_image_bytes", MAX_IMAGE_BYTES)
            self._walk = walk_index(shard.uri, limit, wants_image)
        elif shard.uri.lower().endswith(PARQUET_SUFFIX):
            self._stream = open_random(shard.uri)
            self._walk = walk_parquet(shard.uri, self._stream, self._record.inputs, wants_image)
        else:
            self._stream = open_stream(shard.uri)
            self._walk = walk_tar(self._stream, self._record.members, wants_image or (lambda key: False))

    def _guard(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:  # noqa: BLE001 (a hostile input makes tarfile, Arrow and stores raise any exception)
            text = " ".join(str(error).split())
            self.problem = Problem(Check.INPUT_UNREADABLE, 0, f"{self._shard.uri}: {type(error).__name__}: {text}")
            return None


def compare_rows(
    shard: InputShard,
    reader: InputReader,
    rows: Iterator[dict[str, Any]],
    file: pq.ParquetFile,
    footer: Mapping[str, Any],
) -> Iterator[Problem]:
    """Compare rows with samples. All rows are read, even after the input has failed.

    Args:
        shard: The input.
        reader: Of the samples of the input.
        rows: Of the manifest, in order.
        file: The manifest, whose keys may be read again.
        footer: Of the manifest.
    """
    starts = _list_starts(footer)
    number = -1
    for number, row in enumerate(rows):
        sample = reader.read()
        if sample is None or sample.key != row["key"]:
            break
        where = f"{shard.name}: row {number}, key '{row['key']}'"
        if starts.get(number, sample.offset) != sample.offset:
            text = f"its footer states that a chunk starts at {starts[number]}, in the input at {sample.offset}"
            yield Problem(Check.WRONG_FOOTER, 0, f"{where}: {text}")
        yield from _check_sample(row, sample, where, has_places=reader.has_places)
    else:
        if reader.read() is None:
            yield from _check_end(shard, reader, footer, starts.get(number + 1))
            return
    for _ in rows:
        pass
    if reader.problem:
        yield reader.problem
        return
    wanted = reader.list_keys()
    if wanted is None:
        assert reader.problem is not None
        yield reader.problem
        return
    found = [key for batch in file.iter_batches(KEY_ROWS, columns=["key"]) for key in batch["key"].to_pylist()]
    yield from compare_keys(shard.name, wanted, found)
    yield from _check_end(shard, reader, footer, None)


def _check_sample(row: Mapping[str, Any], sample: WalkedSample, where: str, *, has_places: bool) -> Iterator[Problem]:
    """Check a sample against its row, and its image if it was read."""
    if fault := next(check_reason(row, sample), None):
        yield Problem(Check.INCONSISTENT_ROWS, 1, f"{where} {fault}")
    if has_places and (fault := next(check_place(row, sample), None)):
        yield Problem(Check.WRONG_IMAGES, 1, f"{where} {fault}")
    if sample.image is None and sample.has_image:
        return
    if fault := next(check_image(row, sample.image), None):
        yield Problem(Check.WRONG_IMAGES, 1, f"{where} {fault}")


def _list_starts(footer: Mapping[str, Any]) -> dict[int, int]:
    """Offset in the input of each chunk by the number of its first row, and the end of the last chunk."""
    starts: dict[int, int] = {}
    number = 0
    try:
        for num_rows, end_offset in footer["chunks"]:
            number += num_rows
            starts[number] = end_offset
    except (KeyError, TypeError, ValueError):
        # `check_footer` reports this.
        return {}
    return starts


def _check_end(
    shard: InputShard, reader: InputReader, footer: Mapping[str, Any], end_offset: int | None
) -> Iterator[Problem]:
    """Compare the end of the input with the footer."""
    if reader.problem or reader.end is None:
        if reader.problem:
            yield reader.problem
        return
    stated = footer.get("truncated_at")
    if reader.end.truncated_at != stated:
        text = f"its footer states truncated at {stated}, the input is at {reader.end.truncated_at}"
        yield Problem(Check.WRONG_COUNTS, 0, f"{shard.name}: {text}")
    elif end_offset is not None and end_offset != reader.end.offset:
        text = f"its footer states that the last chunk ends at {end_offset}, in the input at {reader.end.offset}"
        yield Problem(Check.WRONG_FOOTER, 0, f"{shard.name}: {text}")
    members = parse_members(footer)
    if members is not None and reader.end.members is not None:
        yield from check_members(shard.name, members, reader.end.members)


def check_members(shard_name: str, stated: MemberCounts, found: MemberCounts) -> Iterator[Problem]:
    """Compare the members that a footer counts with those of the archive.

    Args:
        shard_name: Shown in the examples.
        stated: By the footer.
        found: By the audit: all of them without any rule, and by kind.
    """
    if found.num != found.num_in_rows + found.num_passed_over:
        raise AssertionError(f"the audit counts {found.num} members and books {found}")
    if stated.num != found.num:
        text = f"its footer counts {stated.num} members, the archive has {found.num}"
        yield Problem(Check.UNACCOUNTED_MEMBERS, 0, f"{shard_name}: {text}")
    if (num := found.num_in_rows + stated.num_passed_over) != found.num:
        text = (
            f"{found.num_in_rows} members in rows and {stated.num_passed_over} passed over by its footer are {num}, "
            f"the archive has {found.num}{_name_first(stated, found)}"
        )
        yield Problem(Check.UNACCOUNTED_MEMBERS, 0, f"{shard_name}: {text}")
    for kind in sorted({*stated.passed_over, *found.passed_over}):
        if fault := _compare_kind(stated.passed_over.get(kind), found.passed_over.get(kind)):
            yield Problem(Check.MISCOUNTED_MEMBERS, 0, f"{shard_name}: {kind}: {fault}")


def _compare_kind(stated: PassedOver | None, found: PassedOver | None) -> str:
    """Difference between the members passed over under one kind; empty if there is none."""
    num_stated, num_found = (entry.num if entry else 0 for entry in (stated, found))
    if num_stated != num_found:
        example = found or stated
        assert example is not None
        return f"its footer counts {num_stated}, the archive has {num_found}, such as '{example.example}'"
    if stated and found and stated.example != found.example:
        return f"its footer names '{stated.example}', the first in the archive is '{found.example}'"
    return ""


def _name_first(stated: MemberCounts, found: MemberCounts) -> str:
    """First member of the kinds of which the footer counts too few."""
    lost = [
        entry
        for kind, entry in found.passed_over.items()
        if kind not in stated.passed_over or stated.passed_over[kind].num < entry.num
    ]
    return f"; perhaps '{min(lost).example}' is missing" if lost else ""
