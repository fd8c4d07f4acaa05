"""Thresholds from true masks, on random tables."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.run.records import IGNORE_LABEL
from pipeline.thresholds.fit import count_confusion, fit_by_class, fit_common, make_table, score_thresholds
from pipeline.thresholds.samples import MapSample


def make_random_table(rng_seed: int, num_classes: int = 3) -> Any:
    rng = np.random.default_rng(rng_seed)
    samples = [
        MapSample(
            class_ids=tuple(sorted(rng.choice(np.arange(1, num_classes + 1), 2, replace=False).tolist())),
            maps=rng.random((2, 50)).astype(np.float32),
            truth=rng.choice([0, 1, 2, 3, IGNORE_LABEL], 50).astype(np.uint8),
        )
        for _ in range(40)
    ]
    return make_table(samples, num_classes)


@pytest.mark.parametrize("rng_seed", range(3))
def test_fit_is_never_worse_than_its_start_where_it_is_fitted(rng_seed: int) -> None:
    table = make_random_table(rng_seed)
    common = fit_common(table)
    assert score_thresholds(table, fit_by_class(table, common)) >= score_thresholds(table, common)
    best = max(score_thresholds(table, np.full(3, value / 100)) for value in range(1, 100))
    assert score_thresholds(table, common) == pytest.approx(best, abs=1e-12)
    assert count_confusion(table, common).sum() == len(table.truth) < 40 * 50


def test_class_with_few_images_keeps_the_common_threshold() -> None:
    table = make_random_table(0)
    few = table.take(np.arange(40) < 9)
    few = replace(few, ids=few.ids[:9])
    np.testing.assert_array_equal(fit_by_class(few, np.full(3, 0.4)), np.full(3, 0.4))
