"""What an audit of a run can find wrong, and how the findings of many shards add up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from pipeline.printable import escape_controls
from pipeline.run.counts import LabelCounts

MAX_EXAMPLES = 5
"""Examples kept per check: those of the first shards, so that it does not matter who came back first."""
MAX_EXAMPLE_CHARS = 400
"""A key may be as long as its member's name, which has no bound."""


class Check(StrEnum):
    """One thing that can be wrong, in the words that users read."""

    CHANGED_RUN = "run.json changed"
    """Its fingerprint or checksum is not that of its content."""
    OTHER_MODEL = "another model"
    """The model that run.json names has another digest."""
    SHARD_NOT_BEGUN = "shard not begun"
    SHARD_IN_PROGRESS = "shard in progress"
    """It has parts and no manifest."""
    FOREIGN_FILE = "foreign file"
    """A manifest or part that belongs to no input of the run."""
    RIVAL_PARTS = "two parts for one chunk"
    UNREADABLE_MANIFEST = "manifest unreadable"
    """It is damaged, or has not the form of a manifest: some reader will fail on it or read something else."""
    OTHER_RUN = "manifest of another run"
    OTHER_INPUT = "manifest of another input"
    """Its footer names a shard, size or etag that is not the one in run.json."""
    WRONG_COUNTS = "counts do not balance"
    WRONG_FOOTER = "footer wrong"
    """It says more than a footer says, or in another way."""
    WRONG_STATISTICS = "column statistics wrong"
    """The Parquet file states other bounds, nulls or sizes of a column than it has: readers filter by them."""
    CHANGED_ROWS = "rows changed"
    """They are not the rows that were sealed."""
    INPUT_GONE = "input gone"
    INPUT_CHANGED = "input changed"
    INPUT_UNREADABLE = "input unreadable"
    MISSING_ROWS = "row missing"
    """A sample of the input that the manifest lacks."""
    DOUBLED_ROWS = "row doubled"
    """More rows of a key than the input has samples of it."""
    UNKNOWN_ROWS = "row unknown"
    """A row whose key the input does not have."""
    MISPLACED_ROWS = "row out of order"
    """Rows that would have to move for the manifest to stand in the input's order, as few as possible."""
    MISNUMBERED_ROWS = "row misnumbered"
    """Its `index` is not its place in the manifest."""
    INCONSISTENT_ROWS = "row inconsistent"
    """Its columns do not fit each other, the run, or their ranges: labelled without a mask, a quality of NaN."""
    WRONG_MASKS = "mask wrong"
    """It cannot be decoded, is not of its image's size, holds other classes, or is not what its statistics measured."""
    WRONG_IMAGES = "image of another row"
    """The image in the input has another digest, size or orientation than its row says."""
    LEFTOVER_PARTS = "leftover parts"
    """Parts of a published shard: the next run of the labelling job removes them."""
    TRUNCATED_INPUT = "input truncated"
    """The archive is truncated: nothing can be said of what it held behind that."""
    AUDIT_FAILED = "audit failed"
    """It met an error of another kind, in this shard alone: nothing is proved of it."""


WARNINGS = frozenset({Check.LEFTOVER_PARTS, Check.TRUNCATED_INPUT})
"""What is worth a line, and no imbalance: all rows that can be are there once."""

CONTENT_CHECKS = frozenset(
    {
        *(Check.INPUT_GONE, Check.INPUT_CHANGED, Check.INPUT_UNREADABLE),
        *(Check.MISSING_ROWS, Check.DOUBLED_ROWS, Check.UNKNOWN_ROWS, Check.MISPLACED_ROWS),
        *(Check.MISNUMBERED_ROWS, Check.INCONSISTENT_ROWS, Check.CHANGED_ROWS, Check.WRONG_STATISTICS),
        *(Check.WRONG_MASKS, Check.WRONG_IMAGES, Check.OTHER_MODEL),
    }
)
"""What footers alone cannot show."""


class Problem(NamedTuple):
    """Something wrong with one shard."""

    check: Check
    num_rows: int
    """Rows concerned; 0 when it is not a matter of single rows."""
    example: str


class Example(NamedTuple):
    """Where to look."""

    position: int
    """Place of the shard among the inputs; files that belong to none come behind."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """How often a check failed."""

    num_shards: int = 0
    num_rows: int = 0
    examples: tuple[Example, ...] = ()
    """The first `MAX_EXAMPLES`, by position."""

    def merge(self, other: "Finding") -> "Finding":
        """Add two findings of different shards, in any order and grouping."""
        return Finding(
            num_shards=self.num_shards + other.num_shards,
            num_rows=self.num_rows + other.num_rows,
            # Stable: examples of one shard stay in the order of its rows.
            examples=tuple(sorted(self.examples + other.examples, key=lambda item: item.position)[:MAX_EXAMPLES]),
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an audit says of a shard, or of many."""

    num_shards: int = 0
    """Input shards."""
    num_published: int = 0
    """Of these, how many have a manifest of this run."""
    counts: LabelCounts = field(default_factory=LabelCounts)
    """Of the published shards: the rows as they were counted, or as the footers count them."""
    findings: Mapping[Check, Finding] = field(default_factory=dict)
    """Failed checks only."""

    @property
    def failed_checks(self) -> list[Check]:
        """The checks that found an imbalance; warnings are none."""
        return [check for check in Check if check in self.findings and check not in WARNINGS]

    def merge(self, other: "Verdict") -> "Verdict":
        """Add the verdicts on different shards, in any order and grouping."""
        return Verdict(
            num_shards=self.num_shards + other.num_shards,
            num_published=self.num_published + other.num_published,
            counts=self.counts.merge(other.counts),
            findings={
                check: self.findings.get(check, Finding()).merge(other.findings.get(check, Finding()))
                for check in sorted({*self.findings, *other.findings})
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Turn the verdict into plain values."""
        return {
            "balances": not self.failed_checks,
            "num_shards": self.num_shards,
            "num_published": self.num_published,
            "counts": self.counts.to_dict(),
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
    """Sums up the problems of one shard as they are found: as large for a million of them as for a few."""

    def __init__(self, position: int) -> None:
        """Start without any.

        Args:
            position: Place of the shard among the inputs, another one for each.
        """
        self._position = position
        self._num_rows: dict[Check, int] = {}
        self._examples: dict[Check, list[Example]] = {}

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it as an example if there are few of its kind."""
        check, num_rows, text = problem
        self._num_rows[check] = self._num_rows.get(check, 0) + num_rows
        examples = self._examples.setdefault(check, [])
        if len(examples) < MAX_EXAMPLES:
            shown = escape_controls(text[:MAX_EXAMPLE_CHARS]) + (" ..." if len(text) > MAX_EXAMPLE_CHARS else "")
            examples.append(Example(self._position, shown))

    def judge(self, *, counts: LabelCounts | None = None, is_input: bool = True) -> Verdict:
        """Sum up.

        Args:
            counts: Of the shard's rows; None when it has no manifest of this run.
            is_input: False for a file that belongs to no input.
        """
        return Verdict(
            num_shards=int(is_input),
            num_published=int(counts is not None),
            counts=counts or LabelCounts(),
            findings={
                check: Finding(num_shards=1, num_rows=num_rows, examples=tuple(self._examples[check]))
                for check, num_rows in self._num_rows.items()
            },
        )


def judge_shard(
    position: int, problems: Iterable[Problem], *, counts: LabelCounts | None = None, is_input: bool = True
) -> Verdict:
    """Sum up one shard, or one file that belongs to none; arguments as those of `Tally`."""
    tally = Tally(position)
    for problem in problems:
        tally.add(problem)
    return tally.judge(counts=counts, is_input=is_input)
