"""Audit of one published shard: its footer, rows and masks, and the samples of its input, which is read again.

Everything is measured by other code than that which made it. Behind a damaged part nothing is checked.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audit.archives.member_checks import parse_members
from pipeline.audit.archives.member_counts import MemberCounts
from pipeline.audit.footers import check_footer, check_identity, parse_counts
from pipeline.audit.inputs import InputReader, compare_rows
from pipeline.audit.manifest_format import parse_footer, require_format
from pipeline.audit.masks import check_mask
from pipeline.audit.parquet.columns import check_columns
from pipeline.audit.parquet.layout import Layout, read_layout, require_head, require_pages
from pipeline.audit.rows import REASONS, check_row
from pipeline.audit.run import RunRecord
from pipeline.audit.verdict import Check, Problem, Tally, Verdict
from pipeline.errors import ManifestError
from pipeline.run.counts import LabelCounts
from pipeline.run.records import InputShard, Status
from pipeline.storage.reading import ByteStream, open_stream

BATCH_ROWS = 64
"""Rows of a row group converted to Python values at once."""

_UNREADABLE = (ManifestError, OSError, UnicodeDecodeError, pa.ArrowException)
"""Exceptions for a damaged file; pyarrow raises OSError for some damage."""


@dataclass(frozen=True, kw_only=True)
class PublishedShard:
    """Input shard with the manifest of its name."""

    position: int
    """Index among the inputs."""
    shard: InputShard
    manifest_uri: str
    fingerprint: str
    """Of the run that is audited."""
    has_members: bool
    """True if its footer counts the members of its archive."""


@dataclass(frozen=True, kw_only=True)
class AuditRules:
    """Record of the run for the audit of its manifests, and the share of rows checked in full."""

    record: RunRecord
    sample_fraction: float = 1.0
    """Share of the rows whose masks are decoded and whose images are read, chosen by a hash of their keys."""

    def chooses(self, key: str) -> bool:
        """True if mask and image of a row are checked: for the same rows in each audit."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.sample_fraction * 2**64


def verify_footer(item: PublishedShard, rules: AuditRules) -> Verdict:
    """Audit a published shard by the footer of its manifest alone, without its input."""
    return _ShardAudit(item).judge_footer(rules)


def verify_shard(item: PublishedShard, rules: AuditRules) -> Verdict:
    """Audit a published shard by all rows of its manifest and all samples of its input."""
    return _ShardAudit(item).judge_all(rules)


class _ShardAudit:
    """Audit of one shard, which sums its problems."""

    def __init__(self, item: PublishedShard) -> None:
        self._item = item
        self._tally = Tally(item.position)
        self._num_rows = 0
        self._num_labelled = 0
        self._rejected: Counter[str] = Counter()

    def judge_footer(self, rules: AuditRules) -> Verdict:
        try:
            with closing(open_stream(self._item.manifest_uri)) as stream:
                layout, footer = self._read_footer(stream)
                counts = self._check_footer(layout, footer, rules)
                members = parse_members(footer, self._item.position) if counts else None
                return self._tally.judge(counts=counts, members=self._mark_unrecorded(members))
        except Exception as error:  # noqa: BLE001 (an exception for one manifest must not end the audit of the others)
            return self._judge_failure(error)

    def judge_all(self, rules: AuditRules) -> Verdict:
        try:
            with closing(open_stream(self._item.manifest_uri)) as stream:
                layout, footer = self._read_footer(stream)
                if self._check_footer(layout, footer, rules) is None:
                    return self._tally.judge()
                require_head(stream, self._item.manifest_uri)
                file = pq.ParquetFile(stream, page_checksum_verification=True)
                rows = self._read_rows(stream, layout, file, footer, rules)
                chooses = rules.chooses if rules.sample_fraction > 0 else None
                reader = InputReader(self._item.shard, rules.record, chooses)
                with closing(reader):
                    for problem in compare_rows(self._item.shard, reader, rows, file, footer):
                        self._tally.add(problem)
        except Exception as error:  # noqa: BLE001 (likewise)
            return self._judge_failure(error)
        counts = self._count_rows()
        stated, found = footer["counts"], counts.to_dict() | {"num_bytes": self._item.shard.size_bytes}
        if json.dumps(stated, sort_keys=True) != json.dumps(found, sort_keys=True) and parse_counts(footer) is not None:
            self._add_problem(Check.WRONG_COUNTS, f"its footer counts {stated}, its rows are {found}")
        members = reader.end.members if reader.end else None
        return self._tally.judge(
            counts=counts, members=self._mark_unrecorded(members.at(self._item.position) if members else None)
        )

    def _mark_unrecorded(self, members: MemberCounts | None) -> MemberCounts | None:
        """Counts of the members, marked if the footer lacks them as it is of an old format."""
        if self._item.has_members or self._item.shard.is_parquet:
            return members
        return (members or MemberCounts()).merge(MemberCounts(num_unrecorded=1))

    def _read_footer(self, stream: ByteStream) -> tuple[Layout, dict[str, Any]]:
        layout = read_layout(stream, self._item.manifest_uri)
        return layout, parse_footer(layout, self._item.manifest_uri)

    def _check_footer(self, layout: Layout, footer: dict[str, Any], rules: AuditRules) -> LabelCounts | None:
        """Counts of the footer; None if it is not of this run and shard."""
        problems = list(check_identity(self._item.shard, self._item.fingerprint, footer))
        if not problems:
            require_format(layout, self._item.manifest_uri, rules.record.format)
        for problem in problems or check_footer(self._item.shard, footer, layout, has_members=self._item.has_members):
            self._tally.add(problem)
        return None if problems else parse_counts(footer) or LabelCounts()

    def _read_rows(
        self, stream: ByteStream, layout: Layout, file: pq.ParquetFile, footer: dict[str, Any], rules: AuditRules
    ) -> Iterator[dict[str, Any]]:
        """Read and check all rows, with one row group in memory."""
        digest = hashlib.sha256()
        for index, group in enumerate(layout.groups):
            pages = require_pages(stream, layout, index, self._item.manifest_uri)
            table = file.read_row_group(index, use_threads=False)
            for fault in check_columns([chunk["meta_data"] for chunk in group["columns"]], pages, table):
                self._add_problem(Check.WRONG_STATISTICS, f"row group {index}, {fault}")
            for batch in table.to_batches(max_chunksize=BATCH_ROWS):
                for row in batch.to_pylist():
                    digest.update(json.dumps(row, default=bytes.hex).encode() + b"\n")
                    self._check_row(row, rules)
                    yield row
        # Manifests of earlier versions have no digest.
        if "rows_sha256" in footer and footer["rows_sha256"] != digest.hexdigest():
            self._add_problem(
                Check.CHANGED_ROWS, f"their digest is {digest.hexdigest()}, sealed {footer['rows_sha256']}"
            )

    def _check_row(self, row: dict[str, Any], rules: AuditRules) -> None:
        where = f"row {self._num_rows}, key '{row['key']}'"
        if row["index"] != self._num_rows:
            self._add_problem(Check.MISNUMBERED_ROWS, f"{where} has index {row['index']}", 1)
        self._num_rows += 1
        if row["status"] == Status.LABELLED:
            self._num_labelled += 1
        elif row["status"] == Status.REJECTED:
            reason = row["reason"] or ""
            self._rejected[reason if reason in REASONS else ""] += 1
        if rules.record.rules.has_place_columns and row["shard"] != self._item.shard.uri:
            text = f"{where} has the shard {row['shard'][:200]!r}, its footer {self._item.shard.uri!r}"
            self._add_problem(Check.INCONSISTENT_ROWS, text, 1)
        elif fault := next(check_row(row, rules.record.rules), None):
            self._add_problem(Check.INCONSISTENT_ROWS, f"{where} {fault}", 1)
            return
        is_measured = row["status"] == Status.LABELLED and rules.chooses(row["key"])
        if is_measured and (fault := next(check_mask(row, rules.record.rules.mask), None)):
            self._add_problem(Check.WRONG_MASKS, f"{where} {fault}", 1)

    def _count_rows(self) -> LabelCounts:
        return LabelCounts(
            num_read=self._num_rows,
            num_labelled=self._num_labelled,
            num_rejected=self._rejected.total(),
            rejected_by_reason=dict(self._rejected),
        )

    def _add_problem(self, check: Check, text: str, num_rows: int = 0) -> None:
        self._tally.add(Problem(check, num_rows, f"{self._item.shard.name}: {text}"))

    def _judge_failure(self, error: Exception) -> Verdict:
        """Verdict after an exception: the manifest is unreadable or its audit failed, and its rows do not count."""
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, _UNREADABLE):
            self._add_problem(Check.UNREADABLE_MANIFEST, text)
        else:
            self._add_problem(Check.AUDIT_FAILED, f"{type(error).__name__}: {text}")
        return self._tally.judge()
