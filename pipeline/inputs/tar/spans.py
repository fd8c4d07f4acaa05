"""Counts of members in a span of an archive, while it is not yet known what becomes of their sample."""

from collections.abc import Mapping
from enum import StrEnum

from pipeline.run.records import MAX_EXAMPLE_LETTERS, MemberCounts, PassedCount, PassedOver


class Part(StrEnum):
    """What a member is to its sample, unless it is passed over at once."""

    IN_ROW = "in_row"
    DOTTED = "dotted"


Role = Part | PassedOver
RoleOutcomes = Mapping[Part | PassedOver, PassedOver | None]
"""What members are in the end, by what they are to their sample; None: they are in a row."""

OF_SAMPLE: RoleOutcomes = {Part.IN_ROW: None, Part.DOTTED: PassedOver.DOTTED_IMAGE}
"""Of a sample with a plain image, or with no image at all."""
OF_DOTTED_SAMPLE: RoleOutcomes = {
    Part.IN_ROW: PassedOver.UNUSED_SUFFIX,
    Part.DOTTED: None,
    PassedOver.SECOND_MEMBER: PassedOver.UNUSED_SUFFIX,
}
"""Of a sample without a plain image whose images have dotted names."""
OF_REPEATED_MEMBERS: RoleOutcomes = {
    Part.IN_ROW: PassedOver.SECOND_MEMBER,
    Part.DOTTED: PassedOver.SECOND_MEMBER,
    PassedOver.UNUSED_SUFFIX: PassedOver.SECOND_MEMBER,
}
"""Of repeated members that might have started a sample, and got no image."""
OF_TRUNCATED_SAMPLE: RoleOutcomes = {
    Part.IN_ROW: PassedOver.TRUNCATED,
    Part.DOTTED: PassedOver.TRUNCATED,
    PassedOver.SECOND_IMAGE: PassedOver.TRUNCATED,
    PassedOver.SECOND_MEMBER: PassedOver.TRUNCATED,
    PassedOver.UNUSED_SUFFIX: PassedOver.TRUNCATED,
}
"""Of the incomplete last sample of a truncated archive."""


class Span:
    """Numbers of members by role, each with the name of the first one."""

    def __init__(self) -> None:
        """Count nothing yet."""
        self._num = 0
        self._roles: dict[Role, tuple[int, int, str]] = {}

    def add(self, role: Role, offset: int, name: str, num: int = 1) -> None:
        """Add members; the one at the lowest offset is the example."""
        self._num += num
        entry = self._roles.get(role)
        if entry is None:
            self._roles[role] = (num, offset, name)
        else:
            before, first, example = entry
            self._roles[role] = (before + num, *min((first, example), (offset, name)))

    def take(self, other: "Span", outcome: RoleOutcomes) -> None:
        """Add the members of another span, with the roles that they get by the outcome of their sample."""
        for role, (num, offset, name) in other._roles.items():
            final = outcome.get(role, role)
            if final is None:
                self._num += num
            else:
                self.add(final, offset, name, num)
        # Members in rows have no role any more.
        self._num += other._num - sum(num for num, _, _ in other._roles.values())

    def freeze(self) -> MemberCounts:
        """The counts, once the outcome of every sample is known."""
        passed = {PassedOver(role): PassedCount(num, _shorten(name)) for role, (num, _, name) in self._roles.items()}
        return MemberCounts(num=self._num, passed_over=passed)


def _shorten(name: str) -> str:
    return name[:MAX_EXAMPLE_LETTERS].encode("utf-8", "replace").decode()
