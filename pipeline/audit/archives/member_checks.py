"""Checks of the members that a footer counts: its form, and its numbers against those of the archive."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.audit.archives.member_counts import MAX_EXAMPLE_CHARS, MemberCounts, PassedOver
from pipeline.audit.archives.member_rules import KINDS
from pipeline.audit.verdict import Check, Problem

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


def check_members(shard_name: str, stated: MemberCounts, found: MemberCounts) -> Iterator[Problem]:
    """Compare the members that a footer counts with those of the archive.

    Args:
        shard_name: Shown in the examples.
        stated: By the footer.
        found: By the audit: all of them without any rule, and by kind.
    """
    if found.num != found.num_in_rows + found.num_passed_over:
        raise AssertionError(f"the audit counts {found.num} members and books {found}")
    if stated.num != found.num:
        text = f"its footer counts {stated.num} members, the archive has {found.num}"
        yield Problem(Check.UNACCOUNTED_MEMBERS, 0, f"{shard_name}: {text}")
    if (num := found.num_in_rows + stated.num_passed_over) != found.num:
        text = (
            f"{found.num_in_rows} members in rows and {stated.num_passed_over} passed over by its footer are {num}, "
            f"the archive has {found.num}{_name_first(stated, found)}"
        )
        yield Problem(Check.UNACCOUNTED_MEMBERS, 0, f"{shard_name}: {text}")
    for kind in sorted({*stated.passed_over, *found.passed_over}):
        if fault := _compare_kind(stated.passed_over.get(kind), found.passed_over.get(kind)):
            yield Problem(Check.MISCOUNTED_MEMBERS, 0, f"{shard_name}: {kind}: {fault}")


def _compare_kind(stated: PassedOver | None, found: PassedOver | None) -> str:
    """Difference between the members passed over under one kind; empty if there is none."""
    num_stated, num_found = (entry.num if entry else 0 for entry in (stated, found))
    if num_stated != num_found:
        example = found or stated
        assert example is not None
        return f"its footer counts {num_stated}, the archive has {num_found}, such as '{example.example}'"
    if stated and found and stated.example != found.example:
        return f"its footer names '{stated.example}', the first in the archive is '{found.example}'"
    return ""


def _name_first(stated: MemberCounts, found: MemberCounts) -> str:
    """First member of the kinds of which the footer counts too few."""
    lost = [
        entry
        for kind, entry in found.passed_over.items()
        if kind not in stated.passed_over or stated.passed_over[kind].num < entry.num
    ]
    return f"; perhaps '{min(lost).example}' is missing" if lost else ""
