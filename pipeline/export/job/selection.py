"""Which rows an export takes, and which filter leaves out the others."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from pipeline.published.corrected_rows import correct_row
from pipeline.published.decisions import Decisions
from pipeline.published.overrides import Overrides
from pipeline.published.rows import MaskRow
from pipeline.published.splits import ONE_SPLIT, Splits
from pipeline.run.fingerprint import compute_fingerprint

SELECTION_COLUMNS = ("status", "reason", "class_ids", "quality")
"""Columns that a selection reads, besides the names of rows."""
CORRECTED_COLUMNS = (*SELECTION_COLUMNS, "image_sha256")
"""With those that tell whether a corrected mask applies."""


class LeftOut(StrEnum):
    """Why a row is not exported."""

    REJECTED = "rejected"
    KEYS = "keys"
    CLASSES = "classes"
    MIN_QUALITY = "min-quality"
    BEST_FRACTION = "best-fraction"
    REVIEWED = "reviewed"
    WITHOUT_REFUSED = "without-refused"
    SKIP_MISSING = "skip-missing"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What rows have to be. A row has a mask and meets every condition that is set."""

    keys: frozenset[str] | None = None
    """Keys of samples; None: all."""
    class_ids: frozenset[int] | None = None
    """At least one of these classes; None: any."""
    min_quality: float | None = None
    """Lowest quality, 0 to 1."""
    best_fraction: float | None = None
    """Share of the rows of each set of classes, the best by quality."""
    levels: Mapping[tuple[int, ...], int] | None = None
    """Lowest level of quality for each set of classes, by `best_rows.find_levels`; None: all."""
    is_reviewed: bool = False
    """Only rows that a reviewer accepted."""
    is_without_refused: bool = False
    """No rows with which a reviewer found fault."""
    decisions: Decisions = field(default_factory=Decisions)
    """Of the reviewers of the run, when the export was opened."""
    overrides: Overrides | None = None
    """Corrected masks of the run, when the export was opened; None: there are none, or they are not used."""
    splits: Splits = ONE_SPLIT

    def __post_init__(self) -> None:
        if self.min_quality is not None and not 0 <= self.min_quality <= 1:
            raise ValueError(f"need --min-quality between 0 and 1, got {self.min_quality}")
        if self.best_fraction is not None and not 0 < self.best_fraction <= 1:
            raise ValueError(f"need --best-fraction above 0 and at most 1, got {self.best_fraction}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that `correct` and `find_reason` read, besides the names of rows."""
        return CORRECTED_COLUMNS if self.overrides else SELECTION_COLUMNS

    def correct(self, row: MaskRow) -> MaskRow:
        """The row with its corrected mask; as it is, if it has none."""
        return correct_row(self.overrides, row) if self.overrides else row

    def find_reason(self, row: MaskRow) -> LeftOut | None:
        """Find the first filter that leaves out a row, which is corrected; None: the row is taken."""
        if not row.is_labelled:
            return LeftOut.REJECTED
        if self.keys is not None and row.key not in self.keys:
            return LeftOut.KEYS
        ids = tuple(row.get("class_ids") or ())
        if self.class_ids is not None and self.class_ids.isdisjoint(ids):
            return LeftOut.CLASSES
        # The column holds float32: a quality of 0.7 is not below 0.7.
        if self.min_quality is not None and (row.quality or 0.0) < float(np.float32(self.min_quality)):
            return LeftOut.MIN_QUALITY
        if self.levels is not None and to_level(row.quality) < self.levels.get(tuple(sorted(ids)), 0):
            return LeftOut.BEST_FRACTION
        return None

    def find_reason_of_review(self, row: MaskRow) -> LeftOut | None:
        """Find whether the decision of a reviewer leaves out a row.

        Args:
            row: As it is in the manifest, with the columns `image_sha256` and `mask`: a decision does not apply to a
                row that was labelled again.
        """
        if self.overrides and self.overrides.find(row) is not None:
            # The decision was about the mask before; a person has drawn this one.
            return None
        if self.is_reviewed and not self.decisions.is_accepted(row):
            return LeftOut.REVIEWED
        if self.is_without_refused and self.decisions.is_refused(row):
            return LeftOut.WITHOUT_REFUSED
        return None

    def describe(self) -> dict[str, Any]:
        """Collect what determines the rows, as plain values."""
        keys, ids, levels = self.keys, self.class_ids, self.levels
        return {
            "keys_sha256": None if keys is None else _hash_keys(keys),
            "class_ids": None if ids is None else sorted(ids),
            "min_quality": self.min_quality,
            "best_fraction": self.best_fraction,
            "levels_sha256": None
            if levels is None
            else compute_fingerprint({" ".join(map(str, ids)): level for ids, level in levels.items()}),
            "splits": dict(self.splits.shares),
        } | (self._describe_review() | self._describe_overrides())

    def _describe_review(self) -> dict[str, Any]:
        if not self.is_reviewed and not self.is_without_refused:
            return {}
        decided = {
            f"{one.shard}/{one.index}": [str(one.decision), one.image_sha256, one.mask_sha256]
            for one in self.decisions.values()
        }
        return {
            "reviewed": self.is_reviewed,
            "without_refused": self.is_without_refused,
            "decisions_sha256": compute_fingerprint(decided),
        }

    def _describe_overrides(self) -> dict[str, Any]:
        if not self.overrides:
            return {}
        used = {
            f"{one.shard}/{one.index}": [one.tool, one.source, one.annotator, one.time.isoformat(), one.image_sha256]
            for one in self.overrides.values()
        }
        return {"overrides_sha256": compute_fingerprint(used)}


def _hash_keys(keys: frozenset[str]) -> str:
    digest = hashlib.sha256()
    for key in sorted(keys):
        digest.update(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()


LEVELS = 1000
"""Steps of quality in which the best rows are chosen, so that the figures of millions of rows stay small."""


def to_level(quality: float | None) -> int:
    """Level of a quality, 0 to `LEVELS`.

    >>> to_level(0.5), to_level(1.0), to_level(None)
    (500, 1000, 0)
    """
    return int((quality or 0.0) * LEVELS)


def find_level(levels: Mapping[int, int], fraction: float) -> int:
    """Find the highest level above which at least a share of the rows lies.

    >>> find_level({100: 2, 500: 1, 900: 1}, 0.5)
    500

    Args:
        levels: Number of rows by level.
        fraction: Share of rows, above 0 and at most 1.
    """
    wanted = fraction * sum(levels.values())
    num = 0
    for level, rows in sorted(levels.items(), reverse=True):
        num += rows
        # Shares such as 0.1 of 30 rows are not exact.
        if num >= wanted - 1e-9:
            return level
    return 0


def merge_levels(counts: Mapping[tuple[int, ...], Counter[int]], fraction: float) -> dict[tuple[int, ...], int]:
    """Find the lowest level of each set of classes, from the number of rows by level."""
    return {ids: find_level(levels, fraction) for ids, levels in counts.items()}
