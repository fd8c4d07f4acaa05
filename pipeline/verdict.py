"""What an audit of a run can find wrong, and how the findings of many shards add up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from pipeline.counts import LabelCounts

MAX_EXAMPLES = 5
"""Examples kept per check: those of the first shards, so that it does not matter who came back first."""


class Check(StrEnum):
    """One thing that can be wrong, in the words that users read."""

    SHARD_NOT_BEGUN = "shard not begun"
    SHARD_IN_PROGRESS = "shard in progress"
    """It has parts and no manifest."""
    FOREIGN_FILE = "foreign file"
    """A manifest or part that belongs to no input of the run."""
    RIVAL_PARTS = "two parts for one chunk"
    UNREADABLE_MANIFEST = "manifest unreadable"
    OTHER_RUN = "manifest of another run"
    OTHER_INPUT = "manifest of another input"
    """Its footer names a shard, size or etag that is not the one in run.json."""
    WRONG_COUNTS = "counts do not balance"
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
    """Labelled without a mask or with a reason; rejected with a mask or without a reason."""
    LEFTOVER_PARTS = "leftover parts"
    """Parts of a published shard: the next run of the labelling job removes them."""
    TRUNCATED_INPUT = "input truncated"
    """The archive breaks off: nothing can be said of what it held behind that."""


WARNINGS = frozenset({Check.LEFTOVER_PARTS, Check.TRUNCATED_INPUT})
"""What is worth a line, and no imbalance: all rows that can be are there once."""

CONTENT_CHECKS = frozenset(
    {
        *(Check.INPUT_GONE, Check.INPUT_CHANGED, Check.INPUT_UNREADABLE),
        *(Check.MISSING_ROWS, Check.DOUBLED_ROWS, Check.UNKNOWN_ROWS, Check.MISPLACED_ROWS),
        *(Check.MISNUMBERED_ROWS, Check.INCONSISTENT_ROWS),
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


def judge_shard(
    position: int, problems: Iterable[Problem], *, counts: LabelCounts | None = None, is_input: bool = True
) -> Verdict:
    """Sum up one shard, or one file that belongs to none.

    Args:
        position: Place of the shard among the inputs, another one for each.
        problems: What is wrong with it.
        counts: Of its rows; None when it has no manifest of this run.
        is_input: False for a file that belongs to no input.
    """
    findings: dict[Check, Finding] = {}
    for check, num_rows, text in problems:
        before = findings.get(check, Finding())
        examples = (*before.examples, Example(position, text))[:MAX_EXAMPLES]
        findings[check] = Finding(num_shards=1, num_rows=before.num_rows + num_rows, examples=examples)
    return Verdict(
        num_shards=int(is_input),
        num_published=int(counts is not None),
        counts=counts or LabelCounts(),
        findings=findings,
    )
