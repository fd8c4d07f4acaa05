"""Numbers of members of archives: in rows, and passed over by kind. Sums of them for any number of shards."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

MAX_EXAMPLE_CHARS = 200
"""Letters of a name that a footer keeps."""


@dataclass(frozen=True, order=True, kw_only=True)
class PassedOver:
    """Members that were passed over under one kind."""

    place: tuple[int, int]
    """Where the example stands: position of the shard, then offset in it. Smallest first."""
    example: str
    """Name of the first of them, at most `MAX_EXAMPLE_CHARS` letters."""
    num: int = 1

    def merge(self, other: "PassedOver") -> "PassedOver":
        """Sum of both, with the example that stands first."""
        first = min(self, other)
        return PassedOver(place=first.place, example=first.example, num=self.num + other.num)


@dataclass(frozen=True, kw_only=True)
class MemberCounts:
    """Members of archives."""

    num: int = 0
    """All of them, counted without any rule."""
    num_in_rows: int = 0
    passed_over: Mapping[str, PassedOver] = field(default_factory=dict)
    """By kind."""
    num_unrecorded: int = 0
    """Archives whose footers do not count members: format version 2."""

    @property
    def num_passed_over(self) -> int:
        """Members that were passed over, of all kinds."""
        return sum(entry.num for entry in self.passed_over.values())

    def merge(self, other: "MemberCounts") -> "MemberCounts":
        """Sum of the counts of different shards, in any order and grouping."""
        passed_over = dict(self.passed_over)
        for kind, entry in other.passed_over.items():
            passed_over[kind] = passed_over[kind].merge(entry) if kind in passed_over else entry
        return MemberCounts(
            num=self.num + other.num,
            num_in_rows=self.num_in_rows + other.num_in_rows,
            passed_over=dict(sorted(passed_over.items())),
            num_unrecorded=self.num_unrecorded + other.num_unrecorded,
        )

    def at(self, position: int) -> "MemberCounts":
        """Counts of the shard at a position among the inputs, for the order of examples."""
        moved = {kind: replace(entry, place=(position, entry.place[1])) for kind, entry in self.passed_over.items()}
        return replace(self, passed_over=moved)

    def to_dict(self) -> dict[str, Any]:
        """Counts as plain values."""
        return {
            "num": self.num,
            "num_in_rows": self.num_in_rows,
            "passed_over": {
                kind: {"num": entry.num, "example": entry.example} for kind, entry in self.passed_over.items()
            },
            "num_shards_not_recorded": self.num_unrecorded,
        }


class MemberBook:
    """Counts of one archive while it is read."""

    def __init__(self) -> None:
        """Start without members."""
        self._num_in_rows = 0
        self._passed_over: dict[str, PassedOver] = {}

    def add_row(self) -> None:
        """Count a member of a row."""
        self._num_in_rows += 1

    def pass_over(self, kind: str, name: str, offset: int) -> None:
        """Count a member that was passed over."""
        entry = PassedOver(place=(0, offset), example=name[:MAX_EXAMPLE_CHARS])
        former = self._passed_over.get(kind)
        self._passed_over[kind] = former.merge(entry) if former else entry

    def close(self, num: int) -> MemberCounts:
        """Counts of the whole archive.

        Args:
            num: All members, from a count that knows no kinds.
        """
        return MemberCounts(num=num, num_in_rows=self._num_in_rows, passed_over=dict(sorted(self._passed_over.items())))
