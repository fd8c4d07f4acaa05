"""The members that the footer of a manifest counts, and checks of their form."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.audit.archives.member_counts import MAX_EXAMPLE_CHARS, MemberCounts, PassedOver
from pipeline.audit.archives.member_rules import KINDS

MEMBERS_FIELD = "members"
"""Field of a footer; absent for Parquet inputs and in format version 2."""


def parse_members(footer: Mapping[str, Any], position: int = 0) -> MemberCounts | None:
    """Read the members that a footer counts; None if it counts none, or `find_form_faults` finds a fault.

    Args:
        footer: Of a manifest.
        position: Of the shard, for the order of examples.
    """
    if MEMBERS_FIELD not in footer or any(find_form_faults(footer)):
        return None
    stated = footer[MEMBERS_FIELD]
    passed_over = {
        kind: PassedOver(place=(position, 0), example=entry["example"], num=entry["num"])
        for kind, entry in sorted(stated["passed_over"].items())
    }
    num_passed_over = sum(entry.num for entry in passed_over.values())
    return MemberCounts(num=stated["num"], num_in_rows=stated["num"] - num_passed_over, passed_over=passed_over)


def find_form_faults(footer: Mapping[str, Any]) -> Iterator[str]:
    """Find values that no writer writes among the members that a footer counts."""
    stated = footer[MEMBERS_FIELD]
    if not isinstance(stated, dict) or stated.keys() != {"num", "passed_over"}:
        yield f"it states the members {str(stated)[:200]}"
        return
    num, passed_over = stated["num"], stated["passed_over"]
    if type(num) is not int or num < 0:
        yield f"it counts {str(num)[:100]} members"
    if not isinstance(passed_over, dict):
        yield f"it states {str(passed_over)[:200]} for the members passed over"
        return
    if unknown := sorted(passed_over.keys() - set(KINDS)):
        yield f"it passes members over as {str(unknown)[:200]}, which no version of tagmask up to this one does"
    for kind, entry in passed_over.items():
        if not _is_entry(entry):
            yield f"it states {str(entry)[:300]} for the members passed over as {kind[:50]}"
            return
    num_passed_over = sum(entry["num"] for entry in passed_over.values())
    if type(num) is int and num_passed_over > num:
        yield f"it passes over {num_passed_over} of {num} members"


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() == {"num", "example"}
        and type(entry["num"]) is int
        and entry["num"] > 0
        and isinstance(entry["example"], str)
        and len(entry["example"]) <= MAX_EXAMPLE_CHARS
    )
