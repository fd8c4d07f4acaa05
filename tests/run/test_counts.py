"""Counts of rows, added in any order."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.run.counts import LabelCounts
from pipeline.run.records import Reason

numbers = st.integers(0, 10**12)


@st.composite
def counts(draw: Any) -> Any:
    reasons = draw(st.dictionaries(st.sampled_from([str(reason) for reason in Reason]), numbers))
    num_labelled, num_rejected = draw(numbers), sum(reasons.values())
    return LabelCounts(
        num_read=num_labelled + num_rejected,
        num_labelled=num_labelled,
        num_rejected=num_rejected,
        rejected_by_reason=reasons,
        num_bytes=draw(numbers),
    )


@given(first=counts(), second=counts(), third=counts())
def test_counts_merge_in_any_order_and_grouping(first: Any, second: Any, third: Any) -> None:
    assert first.merge(second) == second.merge(first)
    assert first.merge(second).merge(third) == first.merge(second.merge(third))
    assert first.merge(LabelCounts()) == first


@given(first=counts())
def test_counts_survive_json(first: Any) -> None:
    assert LabelCounts.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_merged_counts_add_every_number() -> None:
    one = LabelCounts(num_read=3, num_labelled=1, num_rejected=2, rejected_by_reason={"undecodable": 2}, num_bytes=10)
    two = LabelCounts(num_read=1, num_rejected=1, rejected_by_reason={"too_large": 1}, num_bytes=5)
    assert one.merge(two) == LabelCounts(
        num_read=4,
        num_labelled=1,
        num_rejected=3,
        rejected_by_reason={"too_large": 1, "undecodable": 2},
        num_bytes=15,
    )


def test_impossible_counts_are_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        LabelCounts(num_read=-1)
    with pytest.raises(ValueError, match="reasons to add up to 2"):
        LabelCounts(num_read=2, num_rejected=2, rejected_by_reason={"undecodable": 1})
