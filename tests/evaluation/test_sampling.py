"""Evenly spaced members of a sequence."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.sampling import take_evenly


@given(st.integers(0, 200), st.integers(1, 50))
def test_taken_items_are_as_many_as_wanted_and_evenly_spaced(num_items: int, most: int) -> None:
    taken = take_evenly(range(num_items), most)
    assert len(taken) == min(num_items, most)
    steps = {after - before for before, after in pairwise(taken)}
    assert max(steps, default=1) - min(steps, default=1) <= 1
