"""Checks of an audit, and the sum of their findings over shards."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from pipeline.audit.archives.member_counts import MemberCounts
from pipeline.printable import escape_controls
from pipeline.run.counts import LabelCounts

MAX_EXAMPLES = 5
"""Examples kept for each check: those of the first shards, so that the order of results does not matter."""
MAX_EXAMPLE_CHARS = 400
"""A key may be as long as the name of its member, which has no limit."""


class Check(StrEnum):
    """Kind of fault, in the words that users read."""

    CHANGED_RUN = "run.json changed"
    """Its fingerprint or checksum is not that of its content."""
    CHANGED_EXTENSION = "extension changed"
    """A file in extensions/ is edited, missing, foreign or of another run."""
    OTHER_MODEL = "another model"
    """The model that run.json names has another digest."""
    SHARD_NOT_BEGUN = "shard not begun"
    SHARD_IN_PROGRESS = "shard in progress"
    """It has parts and no manifest."""
    FOREIGN_FILE = "foreign file"
    """A manifest or part that belongs to no input of the run."""
    RIVAL_PARTS = "two parts for one chunk"
    UNREADABLE_MANIFEST = "manifest unreadable"
    """It is damaged or lacks the format of a manifest, so some readers fail on it or read other values."""
    OTHER_RUN = "manifest of another run"
    OTHER_INPUT = "manifest of another input"
    """Its footer names another shard, size or etag than run.json."""
    WRONG_COUNTS = "counts do not balance"
    WRONG_FOOTER = "footer wrong"
    """It has fields or values that no writer writes."""
    WRONG_STATISTICS = "column statistics wrong"
    """The Parquet file states wrong bounds, nulls or sizes of a column, by which readers filter."""
    CHANGED_ROWS = "rows changed"
    """They differ from the sealed rows."""
    INPUT_GONE = "input gone"
    INPUT_CHANGED = "input changed"
    INPUT_UNREADABLE = "input unreadable"
    MISSING_ROWS = "row missing"
    """A sample of the input that the manifest lacks."""
    DOUBLED_ROWS = "row doubled"
    """More rows of a key than samples in the input."""
    UNKNOWN_ROWS = "row unknown"
    """A row whose key the input does not have."""
    UNACCOUNTED_MEMBERS = "members not accounted for"
    """Members of the archive that are neither in a row nor in the counts of what was passed over; or more of these."""
    MISCOUNTED_MEMBERS = "passed over wrongly"
    """The footer counts other members under a kind than the archive has, or names another as the first."""
    UNLISTED_IMAGES = "image not in the index"
    """An image or row of a collection that its index neither has as a row nor counts as passed over."""
    WRONG_INDEX_ROWS = "index row wrong"
    """A row of an index that its collection does not have, or has with other tags or another file."""
    WRONG_INDEX = "index counts wrong"
    """index.json is missing, or states other numbers than its shards have."""
    CHANGED_COLLECTION = "collection changed"
    """Images or tables were added, written or removed since the collection was listed; the run keeps its list."""
    MISPLACED_ROWS = "row out of order"
    """Smallest number of rows whose move restores the order of the input."""
    MISNUMBERED_ROWS = "row misnumbered"
    """Its `index` is not its place in the manifest."""
    INCONSISTENT_ROWS = "row inconsistent"
    """Its columns contradict each other, the run or their ranges: labelled without a mask, a quality of NaN."""
    WRONG_MASKS = "mask wrong"
    """It cannot be decoded, differs from its image in size, has other classes, or contradicts its statistics."""
    WRONG_IMAGES = "image of another row"
    """The image in the input has another place, digest, size or orientation than its row."""
    LEFTOVER_PARTS = "leftover parts"
    """Parts of a published shard, which the next run of the labelling job removes."""
    TRUNCATED_INPUT = "input truncated"
    """The archive is truncated; its content behind that is unknown."""
    AUDIT_FAILED = "audit failed"
    """Another error ended the audit of this shard alone; nothing is proved of it."""


WARNINGS = frozenset({Check.LEFTOVER_PARTS, Check.TRUNCATED_INPUT, Check.CHANGED_COLLECTION})
"""Checks that are reported without failing the audit: each row that can exist is there once."""

CONTENT_CHECKS = frozenset(
    {
        *(Check.INPUT_GONE, Check.INPUT_CHANGED, Check.INPUT_UNREADABLE),
        *(Check.MISSING_ROWS, Check.DOUBLED_ROWS, Check.UNKNOWN_ROWS, Check.MISPLACED_ROWS),
        *(Check.UNACCOUNTED_MEMBERS, Check.MISCOUNTED_MEMBERS),
        *(Check.UNLISTED_IMAGES, Check.WRONG_INDEX_ROWS, Check.WRONG_INDEX, Check.CHANGED_COLLECTION),
        *(Check.MISNUMBERED_ROWS, Check.INCONSISTENT_ROWS, Check.CHANGED_ROWS, Check.WRONG_STATISTICS),
        *(Check.WRONG_MASKS, Check.WRONG_IMAGES, Check.OTHER_MODEL),
    }
)
"""Checks that footers alone cannot make."""


class Problem(NamedTuple):
    """Fault of one shard."""

    check: Check
    num_rows: int
    """Rows concerned; 0 if it does not concern single rows."""
    example: str


class Example(NamedTuple):
    """Text of one problem, with the position of its shard."""

    position: int
    """Index of the shard among the inputs; files of no input follow."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Sum of the problems of one check."""

    num_shards: int = 0
    num_rows: int = 0
    examples: tuple[Example, ...] = ()
    """The first `MAX_EXAMPLES`, by position."""

    def merge(self, other: "Finding") -> "Finding":
        """Sum of the findings of different shards, in any order and grouping."""
        return Finding(
            num_shards=self.num_shards + other.num_shards,
            num_rows=self.num_rows + other.num_rows,
            # Stable: examples of one shard stay in the order of its rows.
            examples=tuple(sorted(self.examples + other.examples, key=lambda item: item.position)[:MAX_EXAMPLES]),
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Outcome of the audit of one or more shards."""

    num_shards: int = 0
    """Input shards."""
    num_published: int = 0
    """Those of them with a manifest of this run."""
    counts: LabelCounts = field(default_factory=LabelCounts)
    """Of the published shards: counted rows, or the counts of the footers."""
    members: MemberCounts = field(default_factory=MemberCounts)
    """Of their archives: counted members, or the counts of the footers."""
    findings: Mapping[Check, Finding] = field(default_factory=dict)
    """Failed checks only."""

    @property
    def failed_checks(self) -> list[Check]:
        """Failed checks without warnings."""
        return [check for check in Check if check in self.findings and check not in WARNINGS]

    def merge(self, other: "Verdict") -> "Verdict":
        """Sum of the verdicts on different shards, in any order and grouping."""
        return Verdict(
            num_shards=self.num_shards + other.num_shards,
            num_published=self.num_published + other.num_published,
            counts=self.counts.merge(other.counts),
            members=self.members.merge(other.members),
            findings={
                check: self.findings.get(check, Finding()).merge(other.findings.get(check, Finding()))
                for check in sorted({*self.findings, *other.findings})
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Verdict as plain values."""
        return {
            "balances": not self.failed_checks,
            "num_shards": self.num_shards,
            "num_published": self.num_published,
            "counts": self.counts.to_dict(),
            "members": self.members.to_dict(),
            "findings": {
                str(check): {
                    "num_shards": finding.num_shards,
                    "num_rows": finding.num_rows,
                    "examples": [example.text for example in finding.examples],
                    "is_warning": check in WARNINGS,
                }
                for check, finding in self.findings.items()
            },
        }


class Tally:
    """Sum of the problems of one shard, in memory that does not grow with their number."""

    def __init__(self, position: int) -> None:
        """Start without problems.

        Args:
            position: Index of the shard among the inputs.
        """
        self._position = position
        self._num_rows: dict[Check, int] = {}
        self._examples: dict[Check, list[Example]] = {}

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it as an example of the first few of its check."""
        check, num_rows, text = problem
        self._num_rows[check] = self._num_rows.get(check, 0) + num_rows
        examples = self._examples.setdefault(check, [])
        if len(examples) < MAX_EXAMPLES:
            shown = escape_controls(text[:MAX_EXAMPLE_CHARS]) + (" ..." if len(text) > MAX_EXAMPLE_CHARS else "")
            examples.append(Example(self._position, shown))

    def judge(
        self, *, counts: LabelCounts | None = None, members: MemberCounts | None = None, is_input: bool = True
    ) -> Verdict:
        """Verdict on the shard.

        Args:
            counts: Of the rows of the shard; None without a manifest of this run.
            members: Of its archive; None if they are not known.
            is_input: False for a file of no input.
        """
        return Verdict(
            num_shards=int(is_input),
            num_published=int(counts is not None),
            counts=counts or LabelCounts(),
            members=members or MemberCounts(),
            findings={
                check: Finding(num_shards=1, num_rows=num_rows, examples=tuple(self._examples[check]))
                for check, num_rows in self._num_rows.items()
            },
        )


def judge_shard(
    position: int, problems: Iterable[Problem], *, counts: LabelCounts | None = None, is_input: bool = True
) -> Verdict:
    """Verdict on one shard, or on one file of no shard; arguments are those of `Tally`."""
    tally = Tally(position)
    for problem in problems:
        tally.add(problem)
    return tally.judge(counts=counts, is_input=is_input)
