"""Verdict on the index of a collection: each image and each row of the source is a row of the index, or passed over.

The source is listed and read again. What was added or changed since the run listed it is a warning; a source that is
gone cannot be compared.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from pipeline.audit.collections.comparison import CollectionComparison
from pipeline.audit.collections.recorded_sources import GoneError
from pipeline.audit.collections.records import RecordedIndex, RecordedShards, read_index_rows, read_indexes
from pipeline.audit.sources.tables import TableOptions
from pipeline.audit.verdict import Check, Problem, Tally, Verdict
from pipeline.errors import BucketError, UriError
from pipeline.run.records import InputShard

NOT_THERE = (GoneError, OSError, BucketError, UriError)
"""What a source raises that is gone, or whose store is down; any other error is one of the audit or of the run."""
NO_TAGS = (None, "null", '""', "[]")


@dataclass(kw_only=True)
class CollectionVerdict:
    """Outcome of the comparison of all indexes of a run with their sources."""

    verdict: Verdict = field(default_factory=Verdict)
    num_rows: int = 0
    """Rows of the indexes that were compared."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Files that these indexes passed over, by kind."""
    obstacles: list[str] = field(default_factory=list)
    """Reasons why sources could not be compared, as sentences."""


def judge_collections(shards: Sequence[InputShard], *, has_tags_table: bool) -> CollectionVerdict:
    """Compare the indexes of a run with their sources; a run of shards has none.

    Args:
        shards: All inputs of the run.
        has_tags_table: True if a table beside the images holds their tags.
    """
    result, tally = CollectionVerdict(), Tally(-1)
    try:
        indexes = list(read_indexes(shards))
    except ValueError as error:
        tally.add(Problem(Check.WRONG_INDEX, 0, str(error)))
        indexes = []
    except OSError as error:
        result.obstacles.append(f"the index cannot be read: {error}")
        indexes = []
    for index in indexes:
        try:
            for problem in _find_problems(index, has_tags_table=has_tags_table, result=result):
                tally.add(problem)
        except Exception as error:  # noqa: BLE001 (of any type: what was not compared must not look like a balance)
            text = f"{_name_source(index)}: {type(error).__name__}: {' '.join(str(error).split())}"
            tally.add(Problem(Check.AUDIT_FAILED, 0, text))
    result.verdict = tally.judge(is_input=False)
    return result


def _find_problems(index: RecordedIndex, *, has_tags_table: bool, result: CollectionVerdict) -> Iterator[Problem]:
    """Compare one index with its source; without the source, with its own numbers alone."""
    last = index.last
    comparison: CollectionComparison | None = None
    if last.listed_s is None:
        result.obstacles.append(f"'{last.uri}' was written by an earlier version and does not state when it was listed")
    else:
        try:
            comparison = CollectionComparison(index, _read_options(last.source, has_tags_table=has_tags_table))
            yield from comparison.check_tables()
        except NOT_THERE as error:
            comparison = None
            result.obstacles.append(_describe(index, error))
    try:
        for uri in index.unnamed:
            yield Problem(Check.WRONG_INDEX, 0, f"'{uri}' is named by no index.json")
            if comparison is not None:
                yield from chain.from_iterable(map(comparison.check_row, read_index_rows(uri, last)))
        for listing in index.listings:
            yield from _check_listing(listing, comparison)
        if comparison is not None:
            yield from comparison.close()
            result.num_rows += sum(listing.record.num_rows for listing in index.listings)
            result.passed_over.update(last.passed_over)
    except NOT_THERE as error:
        result.obstacles.append(_describe(index, error))


def _read_options(source: Mapping[str, Any], *, has_tags_table: bool) -> TableOptions:
    return TableOptions(
        tags_field=source["tags_field"],
        image_column=source["image_column"],
        key_column=source["key_column"],
        has_tags_table=has_tags_table,
    )


def _check_listing(listing: RecordedShards, comparison: CollectionComparison | None) -> Iterator[Problem]:
    """Compare the numbers of a record with the rows of its shards, and these with the source."""
    record = listing.record
    num_rows = num_with_tags = num_missing = 0
    for uri in listing.uris:
        for row in read_index_rows(uri, record):
            num_rows += 1
            num_with_tags += row.tags not in NO_TAGS
            num_missing += row.problem is not None
            if comparison is not None:
                yield from comparison.check_row(row)
    if listing.is_whole and len(listing.uris) < len(record.shard_names):
        text = f"'{record.uri}' names {len(record.shard_names)} shards, of which the run has {len(listing.uris)}"
        yield Problem(Check.WRONG_INDEX, 0, text)
    if not listing.is_whole:
        return
    for what, stated, found in (
        ("rows", record.num_rows, num_rows),
        ("rows with tags", record.num_rows_with_tags, num_with_tags),
        ("rows without an image", record.num_without_image, num_missing),
    ):
        if stated != found:
            yield Problem(Check.WRONG_INDEX, 0, f"'{record.uri}' states {what}: {stated}; its shards have {found}")


def _describe(index: RecordedIndex, error: Exception) -> str:
    """Reason why a collection could not be compared."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GoneError) else f"{_name_source(index)} cannot be read: {text}"


def _name_source(index: RecordedIndex) -> str:
    first, *others = index.last.source["patterns"]
    return f"'{first}'" + (f" and {len(others)} more" if others else "")
