"""What became of published shards, as far as an operator should know it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import pyarrow as pa

from pipeline.commit.manifests import Manifest, read_members, stream_manifest
from pipeline.commit.names import locate_manifest
from pipeline.run.counts import LabelCounts
from pipeline.run.records import MemberCounts, Reason, merge_members

MAX_NAMED = 5
"""Shards without labelled images that are named."""
MAX_ROWS = 3
"""Rows of such shards that are shown."""
NUM_THREADS = 16
MAX_TAGS = 5
MAX_LETTERS = 240


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Counts of one published shard, or of several."""

    counts: LabelCounts = field(default_factory=LabelCounts)
    members: MemberCounts | None = None
    """Members of the archives; None if they were not counted."""
    num_unlabelled: int = 0
    """Shards of which no image was labelled."""
    unlabelled: tuple[str, ...] = ()
    """Names of the first of them."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Rejected samples of these shards by reason. Fragments of one sample count once."""
    first_rows: tuple[str, ...] = ()
    """Descriptions of their first rows."""

    def merge(self, other: "Outcome") -> "Outcome":
        """Add the counts of other shards."""
        return Outcome(
            counts=self.counts.merge(other.counts),
            members=merge_members([self.members, other.members]),
            num_unlabelled=self.num_unlabelled + other.num_unlabelled,
            unlabelled=(self.unlabelled + other.unlabelled)[:MAX_NAMED],
            reasons=dict(Counter(self.reasons) + Counter(other.reasons)),
            first_rows=(self.first_rows + other.first_rows)[:MAX_ROWS],
        )


def describe_outcome(
    shard_name: str,
    tables: Sequence[pa.Table],
    counts: LabelCounts,
    members: MemberCounts | None,
    reasons: Mapping[str, int] | None = None,
) -> Outcome:
    """Describe a published shard.

    Args:
        shard_name: Its name.
        tables: Its rows.
        counts: Their counts.
        members: Members of its archive; None if they were not counted.
        reasons: Rejected samples by reason; None: as in `counts`.
    """
    if counts.num_labelled:
        return Outcome(counts=counts, members=members)
    rows = [row for table in tables for row in table.slice(0, MAX_ROWS).to_pylist()][:MAX_ROWS]
    return Outcome(
        counts=counts,
        members=members,
        num_unlabelled=1,
        unlabelled=(shard_name,),
        reasons=dict(counts.rejected_by_reason if reasons is None else reasons),
        first_rows=tuple(map(_describe_row, rows)),
    )


def read_outcome(manifest: Manifest, shard_name: str) -> Outcome:
    """Describe a published shard from its manifest.

    Raises:
        ManifestError: Its footer is not one of this project.
    """
    counts = LabelCounts.from_dict(manifest.footer["counts"])
    first = range(0 if counts.num_labelled else min(MAX_ROWS, manifest.file.num_row_groups))
    tables = [
        manifest.file.read_row_group(group, columns=["key", "reason", "error", "tags_unknown"]) for group in first
    ]
    return describe_outcome(shard_name, tables, counts, read_members(manifest))


def read_outcomes(out_uri: str, shard_names: Sequence[str]) -> Outcome:
    """Describe published shards together, from their manifests.

    Raises:
        ManifestError: A manifest is not one of this project.
    """

    def read(shard_name: str) -> Outcome:
        with stream_manifest(locate_manifest(out_uri, shard_name)) as manifest:
            return read_outcome(manifest, shard_name)

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return reduce(Outcome.merge, threads.map(read, shard_names), Outcome())


def _describe_row(row: Mapping[str, Any]) -> str:
    error = shorten(row["error"] or "no message")
    tags = [f"'{shorten(tag)}'" for tag in (row["tags_unknown"] or ())[:MAX_TAGS]]
    is_tagged = row["reason"] == Reason.NO_KNOWN_TAG and tags
    return f"'{shorten(row['key'])}' ({row['reason']}: {error}{': ' + ', '.join(tags) if is_tagged else ''})"


def shorten(text: str) -> str:
    """Truncate a key or an error for a message."""
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}..."
