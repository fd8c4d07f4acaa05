"""Verdicts: sums in any order."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit.verdict import Check, Problem, Verdict, judge_shard
from pipeline.run.counts import LabelCounts

PROBLEMS = st.lists(st.builds(Problem, st.sampled_from(Check), st.integers(0, 5), st.text(max_size=3)), max_size=8)


@given(st.lists(PROBLEMS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_verdicts_merge_in_any_order_and_grouping(shards: list[list[Problem]], random: Any) -> None:
    counts = LabelCounts(num_read=1, num_labelled=1)
    verdicts = [judge_shard(position, found, counts=counts) for position, found in enumerate(shards)]
    expected = Verdict()
    for verdict in verdicts:
        expected = expected.merge(verdict)
    random.shuffle(verdicts)
    while len(verdicts) > 1:
        verdicts.append(verdicts.pop(random.randrange(len(verdicts))).merge(verdicts.pop()))
    assert verdicts[0].merge(Verdict()) == expected
    assert expected.num_published == len(shards)
