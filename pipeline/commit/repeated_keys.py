"""Rows whose key comes again in their shard: duplicates, and fragments of samples whose members stand apart.

Found at the seal and not by the reader: a resumed reader has not seen the earlier keys, and a part must be a function
of its chunk alone.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.run.records import PART_SCHEMA, PLACE_COLUMNS, Reason, Status

APART = "members of this key stand apart in the shard; sort its members by name"
KEPT_COLUMNS = ("key", "width", "height", "exif_orientation", "image_sha256", *PLACE_COLUMNS)
"""Columns of a rejected row that lie in its image."""
DUPLICATE = "an earlier sample of this shard has the same key; only that one is labelled"


class _Place(NamedTuple):
    table: int
    row: int


def reject_repeated_keys(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Reject every row whose key an earlier row of the shard has.

    An image without tags and tags without an image are fragments of one sample: the row with the image gets the reason
    `split_sample` as well, so that it shows the cause.
    """
    seen: set[str] = set()
    without_image: dict[str, _Place] = {}
    without_tags: dict[str, _Place] = {}
    changes: dict[int, dict[int, Reason]] = defaultdict(dict)
    for number, table in enumerate(tables):
        for row, (key, reason, is_bare) in enumerate(_list_keys(table)):
            lacks_image = reason in (Reason.NO_IMAGE, Reason.SPLIT_SAMPLE)
            place = _Place(number, row)
            if key in seen:
                other = (without_tags if lacks_image else without_image if is_bare else {}).get(key)
                changes[number][row] = Reason.SPLIT_SAMPLE if lacks_image or other else Reason.DUPLICATE_KEY
                if other is not None:
                    changes[other.table][other.row] = Reason.SPLIT_SAMPLE
                continue
            seen.add(key)
            if lacks_image:
                without_image[key] = place
            elif is_bare:
                without_tags[key] = place
    return [_change_rows(table, changes[number]) if changes[number] else table for number, table in enumerate(tables)]


def _list_keys(table: pa.Table) -> list[tuple[str, str | None, bool]]:
    """Key and reason of each row, and whether it has an image and no tags."""
    keys, reasons = table["key"].to_pylist(), table["reason"].to_pylist()
    if Reason.NO_KNOWN_TAG not in reasons:
        return [(key, reason, False) for key, reason in zip(keys, reasons, strict=True)]
    unknown = table["tags_unknown"].to_pylist()
    return [
        (key, reason, reason == Reason.NO_KNOWN_TAG and not tags)
        for key, reason, tags in zip(keys, reasons, unknown, strict=True)
    ]


def _change_rows(table: pa.Table, reasons: dict[int, Reason]) -> pa.Table:
    rows: list[dict[str, Any]] = table.to_pylist()
    for index, reason in reasons.items():
        row = rows[index]
        kept = {name: row[name] for name in KEPT_COLUMNS}
        rows[index] = kept | {
            "status": str(Status.REJECTED),
            "reason": str(reason),
            "error": APART if reason == Reason.SPLIT_SAMPLE else DUPLICATE,
        }
    return pa.Table.from_pylist(rows, schema=PART_SCHEMA)


class SampleCounts(NamedTuple):
    """Samples of a shard: rows, but the fragments of one sample count once."""

    num: int
    rejected_by_reason: dict[str, int]


def count_samples(tables: Sequence[pa.Table]) -> SampleCounts:
    """Count the samples of a shard whose repeated keys are rejected."""
    columns = [(table["key"].to_pylist(), table["reason"].to_pylist()) for table in tables]
    rows = [pair for keys, reasons in columns for pair in zip(keys, reasons, strict=True)]
    split = {key for key, reason in rows if reason == Reason.SPLIT_SAMPLE}
    counted: set[str] = set()
    rejected: Counter[str] = Counter()
    num = 0
    for key, reason in rows:
        if key in split and reason is not None:
            if key in counted:
                continue
            counted.add(key)
        num += 1
        if reason is not None:
            rejected[reason] += 1
    return SampleCounts(num, dict(rejected))
