"""What a job says of a run that was finished before."""

import pytest

from jobs.cluster.driving import MAX_FOOTERS, conclude_published
from pipeline.commit.outcome import Outcome
from pipeline.run.counts import LabelCounts
from pipeline.run.records import Reason

LABELLED = Outcome(counts=LabelCounts(num_read=3, num_labelled=3))
UNLABELLED = Outcome(
    counts=LabelCounts(num_read=2, num_rejected=2, rejected_by_reason={Reason.NO_KNOWN_TAG: 2}),
    num_unlabelled=1,
    unlabelled=("photos-1",),
    reasons={Reason.NO_KNOWN_TAG: 2},
)


@pytest.mark.parametrize(
    ("outcome", "code"), [(LABELLED, 0), (UNLABELLED, 1), (LABELLED.merge(UNLABELLED), 1), (None, 0)]
)
def test_finished_run_keeps_the_exit_code_of_its_shards(outcome: Outcome | None, code: int) -> None:
    assert conclude_published(outcome, allows_nothing_labelled=False) == code
    assert conclude_published(outcome, allows_nothing_labelled=True) == 0


def test_shard_without_labels_is_named_among_others(capsys: pytest.CaptureFixture[str]) -> None:
    conclude_published(LABELLED.merge(UNLABELLED), allows_nothing_labelled=False)
    printed = capsys.readouterr()
    assert "labelled 3 and rejected 2 of 5 images" in printed.out
    assert "no image of shard 'photos-1' is labelled: no_known_tag 2 times" in printed.err


def test_totals_that_are_not_read_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    conclude_published(None, allows_nothing_labelled=False)
    assert f"more than {MAX_FOOTERS} shards" in capsys.readouterr().out
