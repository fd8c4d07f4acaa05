import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from pipeline.training.worker.metrics import compute_average_precision, compute_ranking_metrics


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40))
def test_average_precision_agrees_with_scikit_learn_also_on_ties(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], np.float32)
    is_positive = np.array([positive for _, positive in pairs])
    is_positive[0] = True
    assert compute_average_precision(scores, is_positive) == pytest.approx(
        average_precision_score(is_positive, scores), abs=1e-12
    )


def test_average_precision_of_a_perfect_ranking_is_one() -> None:
    assert compute_average_precision(np.array([3.0, 2.0, 1.0]), np.array([True, True, False])) == 1.0


def test_average_precision_without_positives_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one positive"):
        compute_average_precision(np.array([1.0]), np.array([False]))


def test_average_precision_of_nan_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        compute_average_precision(np.array([1.0, np.nan]), np.array([True, False]))


def test_ranking_metrics_leave_out_a_class_that_no_image_shows() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    metrics = compute_ranking_metrics(scores, np.array([[True, False], [False, False]]), ("cat", "dog"))
    assert metrics.average_precision == {"cat": 1.0}
    assert metrics.without_positives == ("dog",)
    assert metrics.mean_average_precision == 1.0


def test_ranking_metrics_without_any_positive_have_no_mean() -> None:
    metrics = compute_ranking_metrics(np.zeros((2, 1), np.float32), np.zeros((2, 1), bool), ("cat",))
    assert metrics.mean_average_precision is None
