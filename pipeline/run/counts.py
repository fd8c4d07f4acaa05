"""Counts of rows; their merge is associative and commutative."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """Numbers of labelled and rejected samples of a shard, a chunk or a run."""

    num_read: int = 0
    num_labelled: int = 0
    num_rejected: int = 0
    rejected_by_reason: Mapping[str, int] = field(default_factory=dict)
    num_bytes: int = 0
    """Size of the input shards that were read completely."""

    def __post_init__(self) -> None:
        numbers = (self.num_read, self.num_labelled, self.num_rejected, self.num_bytes)
        if min(*numbers, *self.rejected_by_reason.values()) < 0:
            raise ValueError(f"counts cannot be negative, got {self}")
        if sum(self.rejected_by_reason.values()) != self.num_rejected:
            raise ValueError(f"need the reasons to add up to {self.num_rejected}, got {dict(self.rejected_by_reason)}")

    def merge(self, other: "LabelCounts") -> "LabelCounts":
        """Add two counts, in any order and grouping."""
        reasons = sorted({*self.rejected_by_reason, *other.rejected_by_reason})
        return LabelCounts(
            num_read=self.num_read + other.num_read,
            num_labelled=self.num_labelled + other.num_labelled,
            num_rejected=self.num_rejected + other.num_rejected,
            rejected_by_reason={
                reason: self.rejected_by_reason.get(reason, 0) + other.rejected_by_reason.get(reason, 0)
                for reason in reasons
            },
            num_bytes=self.num_bytes + other.num_bytes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert the counts to plain values."""
        return asdict(self) | {"rejected_by_reason": dict(sorted(self.rejected_by_reason.items()))}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "LabelCounts":
        """Parse counts from the plain values of `to_dict`.

        Raises:
            TypeError: A field is unknown.
        """
        return cls(**fields)
