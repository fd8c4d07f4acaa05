"""One published shard held against its footer, its rows, and its input, which is read anew."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.config import InputConfig
from pipeline.counts import LabelCounts
from pipeline.errors import ManifestError, ShardError
from pipeline.key_comparison import compare_keys
from pipeline.manifests import Manifest, stream_manifest
from pipeline.records import InputShard, ShardEnd, Status
from pipeline.run import describe_shard
from pipeline.shards import describe_change, read_chunks
from pipeline.storage import find_object
from pipeline.verdict import Check, Problem, Verdict, judge_shard

COLUMNS = ("key", "index", "status", "reason", "mask")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_UNREADABLE = (ManifestError, ShardError, OSError, UnicodeDecodeError, pa.ArrowException)
"""What a damaged file raises; pyarrow reports some damage as OSError. One bad file must not end the audit."""


@dataclass(frozen=True, kw_only=True)
class PublishedShard:
    """An input shard and the manifest under its name."""

    position: int
    """Place among the inputs."""
    shard: InputShard
    manifest_uri: str
    fingerprint: str
    """Of the run that should have made the manifest."""

    def judge(self, problems: Sequence[Problem], counts: LabelCounts | None = None) -> Verdict:
        """Sum up what is wrong with the shard."""
        return judge_shard(self.position, problems, counts=counts)


def verify_footer(item: PublishedShard) -> Verdict:
    """Judge a published shard by the footer of its manifest alone; the input is not looked at."""
    try:
        with stream_manifest(item.manifest_uri) as manifest:
            problems = list(_check_identity(item, manifest))
            if problems:
                return item.judge(problems)
            problems = list(_check_footer(item, manifest))
            return item.judge(problems, _parse_counts(manifest) or LabelCounts())
    except _UNREADABLE as error:
        return item.judge([Problem(Check.UNREADABLE_MANIFEST, 0, f"{item.shard.name}: {error}")])


def verify_shard(item: PublishedShard, inputs: InputConfig) -> Verdict:
    """Judge a published shard by all rows of its manifest and all samples of its input."""
    try:
        with stream_manifest(item.manifest_uri) as manifest:
            problems = list(_check_identity(item, manifest))
            if problems:
                return item.judge(problems)
            rows = _read_rows(item.shard.name, manifest)
            problems = [*_check_footer(item, manifest), *rows.problems]
            stated = _parse_counts(manifest)
            truncated_at = manifest.footer.get("truncated_at")
    except _UNREADABLE as error:
        return item.judge([Problem(Check.UNREADABLE_MANIFEST, 0, f"{item.shard.name}: {error}")])
    if stated is not None and stated.to_dict() | {"num_bytes": 0} != rows.counts.to_dict():
        text = f"{item.shard.name}: its footer counts {_describe(stated)}, its rows are {_describe(rows.counts)}"
        problems.append(Problem(Check.WRONG_COUNTS, 0, text))
    problems += _check_input(item.shard, inputs, rows.keys, truncated_at)
    return item.judge(problems, rows.counts)


def _check_identity(item: PublishedShard, manifest: Manifest) -> Iterator[Problem]:
    """Find manifests that are not of this run and shard; nothing else of them is comparable."""
    name, footer = item.shard.name, manifest.footer
    if footer.get("fingerprint") != item.fingerprint:
        yield Problem(Check.OTHER_RUN, 0, f"{name}: fingerprint {str(footer.get('fingerprint'))[:12]}")
    elif footer.get("shard") != describe_shard(item.shard):
        yield Problem(Check.OTHER_INPUT, 0, f"{name}: made from {footer.get('shard')}")


def _check_footer(item: PublishedShard, manifest: Manifest) -> Iterator[Problem]:
    """Check that a footer agrees with itself and with the number of rows."""
    name, counts = item.shard.name, _parse_counts(manifest)
    num_rows = manifest.file.metadata.num_rows
    if counts is None:
        yield Problem(Check.WRONG_COUNTS, 0, f"{name}: its footer has the counts {manifest.footer.get('counts')}")
    elif not counts.num_labelled + counts.num_rejected == counts.num_read == num_rows:
        yield Problem(Check.WRONG_COUNTS, 0, f"{name}: its footer counts {_describe(counts)}, it has {num_rows} rows")
    if manifest.footer.get("truncated_at") is not None:
        yield Problem(Check.TRUNCATED_INPUT, 0, f"{name}: at byte {manifest.footer['truncated_at']}")


def _parse_counts(manifest: Manifest) -> LabelCounts | None:
    try:
        return LabelCounts.from_dict(manifest.footer["counts"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _describe(counts: LabelCounts) -> str:
    return f"{counts.num_read} read, {counts.num_labelled} labelled, rejected {dict(counts.rejected_by_reason)}"


class _Rows(NamedTuple):
    keys: list[str]
    counts: LabelCounts
    problems: list[Problem]


def _read_rows(shard_name: str, manifest: Manifest) -> _Rows:
    """Read what has to agree of every row, a batch in memory at a time.

    Raises:
        ManifestError: It lacks a column.
    """
    missing = set(COLUMNS) - set(manifest.file.schema_arrow.names)
    if missing:
        raise ManifestError(f"'{manifest.uri}' lacks the columns {sorted(missing)}; label the shard again")
    keys: list[str] = []
    rejected: Counter[str] = Counter()
    num_labelled = 0
    problems = []
    for row in manifest.iterate_rows(COLUMNS):
        where = f"{shard_name}: row {len(keys)}, key '{row['key']}'"
        if row["index"] != len(keys):
            problems.append(Problem(Check.MISNUMBERED_ROWS, 1, f"{where} has index {row['index']}"))
        if fault := _find_fault(row):
            problems.append(Problem(Check.INCONSISTENT_ROWS, 1, f"{where} {fault}"))
        keys.append(row["key"])
        num_labelled += row["status"] == Status.LABELLED
        if row["status"] == Status.REJECTED:
            rejected[row["reason"] or ""] += 1
    counts = LabelCounts(
        num_read=len(keys),
        num_labelled=num_labelled,
        num_rejected=rejected.total(),
        rejected_by_reason=dict(rejected),
    )
    return _Rows(keys=keys, counts=counts, problems=problems)


def _find_fault(row: dict[str, Any]) -> str:
    """Say what does not go together in a row; empty when all does."""
    png = (row["mask"] or {}).get("bytes")
    if row["status"] == Status.LABELLED:
        if row["reason"] is not None:
            return f"is labelled and has the reason {row['reason']!r}"
        return "" if png and png.startswith(PNG_SIGNATURE) else "is labelled and its mask is no PNG"
    if row["status"] == Status.REJECTED:
        if not row["reason"]:
            return "is rejected without a reason"
        return "" if row["mask"] is None else "is rejected and has a mask"
    return f"has the status {row['status']!r}"


def _check_input(
    shard: InputShard, inputs: InputConfig, keys: Sequence[str], truncated_at: int | None
) -> Iterator[Problem]:
    """Read the input anew and compare; one that changed is reported as such and not as missing rows."""
    try:
        found = find_object(shard.uri)
        if found is None:
            yield Problem(Check.INPUT_GONE, 0, shard.uri)
            return
        if change := describe_change(shard, found):
            yield Problem(Check.INPUT_CHANGED, 0, f"{shard.uri}: {change}")
            return
        wanted, end = read_keys(shard, inputs)
    except _UNREADABLE as error:
        yield Problem(Check.INPUT_UNREADABLE, 0, f"{shard.uri}: {error}")
        return
    if end.truncated_at != truncated_at:
        text = f"{shard.name}: its footer says truncated at {truncated_at}, the input is at {end.truncated_at}"
        yield Problem(Check.WRONG_COUNTS, 0, text)
    yield from compare_keys(shard.name, wanted, keys)


def read_keys(shard: InputShard, inputs: InputConfig) -> tuple[list[str], ShardEnd]:
    """Read the keys of a shard's samples in order, and how the shard ended.

    Raises:
        ShardError: The shard is gone or no archive.
    """
    keys: list[str] = []
    for piece in read_chunks(shard, inputs):
        if isinstance(piece, ShardEnd):
            return keys, piece
        keys += [sample.key for sample in piece.samples]
    raise AssertionError("a shard ends with its end")
