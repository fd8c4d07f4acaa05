"""Comparison of keys: each difference is counted once."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit.keys import compare_keys
from pipeline.audit.verdict import Check


def compute_common_length(first: Any, second: Any) -> Any:
    """Length of a longest common subsequence, by the textbook algorithm."""
    before = [0] * (len(second) + 1)
    for a in first:
        now = [0]
        for place, b in enumerate(second):
            now.append(before[place] + 1 if a == b else max(now[place], before[place + 1]))
        before = now
    return before[-1]


@given(st.lists(st.sampled_from("abcdef"), max_size=12), st.lists(st.sampled_from("abcdefgh"), max_size=12))
def test_every_difference_of_keys_is_counted_once(wanted: list[str], found: list[str]) -> None:
    rows: Counter[str] = Counter()
    for check, num_rows, _ in compare_keys("shard", wanted, found):
        rows[check] += num_rows
    surplus = Counter(found) - Counter(wanted)
    common = (Counter(wanted) & Counter(found)).total()
    assert rows[Check.MISSING_ROWS] == (Counter(wanted) - Counter(found)).total()
    assert rows[Check.UNKNOWN_ROWS] == sum(n for key, n in surplus.items() if key not in wanted)
    assert rows[Check.DOUBLED_ROWS] == sum(n for key, n in surplus.items() if key in wanted)
    assert rows[Check.MISPLACED_ROWS] == common - compute_common_length(wanted, found)
