"""Policies by timm's names, and what they draw."""

import re
from collections import Counter

import numpy as np
import pytest
from timm.data.auto_augment import LEVEL_TO_ARG, rand_augment_transform

from pipeline.training.operations import JITTERS, RANDOM_OPERATIONS, Operation, RandAugment, draw_jitter

DEFAULT = "rand-m9-mstd0.5-mmax9-inc1"


def draw_many(name: str, number: int = 4000) -> np.ndarray:
    policy = RandAugment.parse(name)
    return np.stack([policy.draw(np.random.default_rng(seed)) for seed in range(number)])


@pytest.mark.parametrize(
    "name",
    [
        *(DEFAULT, "rand-m7-n3-p0.8", "rand", "rand-m9-mstd101-inc1", "rand-n1-m4-mstd1.5"),
        *("rand-m9-inc0", "rand-m9-inc2", "rand-mmax12-m11-p1.", "rand-mmax0"),
    ],
)
def test_policy_is_read_as_timm_reads_it(name: str) -> None:
    policy, expected = RandAugment.parse(name), rand_augment_transform(name, {})
    assert policy.num_layers == expected.num_layers
    assert len(expected.ops) == len(RANDOM_OPERATIONS)
    assert any(operation.name.endswith("Increasing") for operation in expected.ops) == policy.is_increasing
    for operation in expected.ops:
        assert (operation.magnitude, operation.prob) == (policy.magnitude, policy.probability)
        assert (operation.magnitude_max or 10) == policy.magnitude_max
        assert operation.magnitude_std == (policy.magnitude_std if policy.magnitude_std <= 100 else np.inf)


@pytest.mark.parametrize("name", ["rand-m9-p1", "rand-m6-p1-inc1", "rand-m3-p1-inc1", "rand-m1-p1"])
def test_drawn_arguments_are_those_of_timm(name: str) -> None:
    """Without a deviation an operation has one argument, or two of opposite sign."""
    drawn = draw_many(name, 1000).reshape(-1, 2)
    ops = rand_augment_transform(name, {}).ops
    for operation, of_timm in zip(RANDOM_OPERATIONS, ops, strict=True):
        assert of_timm.name.upper().replace("_", "").startswith(operation.name.replace("_", ""))
        level_function = LEVEL_TO_ARG[of_timm.name]
        found = set(drawn[drawn[:, 0] == operation, 1].tolist())
        if level_function is None:
            assert found == {0.0}
            continue
        expected = {level_function(of_timm.magnitude, {})[0] for _ in range(100)}
        if operation == Operation.POSTERIZE:
            expected = {max(1, bits) for bits in expected}
        np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-6)


def test_operations_are_drawn_evenly_and_half_of_them_applied() -> None:
    drawn = draw_many(DEFAULT)
    assert drawn.shape == (4000, 2, 2)
    counts = Counter(drawn[:, :, 0].astype(int).flatten().tolist())
    assert counts.pop(Operation.NONE) == pytest.approx(4000, rel=0.05)
    assert sorted(counts) == sorted(RANDOM_OPERATIONS)
    assert max(counts.values()) < 1.4 * min(counts.values())


def test_levels_of_the_default_policy_vary_below_their_limit() -> None:
    drawn = draw_many(DEFAULT).reshape(-1, 2)
    degrees = np.abs(drawn[drawn[:, 0] == Operation.ROTATE, 1])
    # Half of the levels are cut off at 9, of 10 that stand for 30 degrees.
    assert degrees.max() == pytest.approx(27)
    assert np.mean(degrees > 26.99) == pytest.approx(0.5, abs=0.1)
    assert 20 < degrees.min() < 26


def test_changes_go_to_both_sides_equally_often() -> None:
    drawn = draw_many(DEFAULT).reshape(-1, 2)
    for operation in (Operation.ROTATE, Operation.SHEAR_X, Operation.TRANSLATE_Y):
        assert np.mean(drawn[drawn[:, 0] == operation, 1] > 0) == pytest.approx(0.5, abs=0.1)


def test_level_is_never_below_zero() -> None:
    drawn = draw_many("rand-m1-mstd5-p1").reshape(-1, 2)
    factors = drawn[drawn[:, 0] == Operation.BRIGHTNESS, 1]
    assert np.isclose(factors, 0.1).mean() > 0.3
    assert factors.min() == pytest.approx(0.1)


def test_factors_of_strong_jitter_are_never_below_zero() -> None:
    drawn = np.stack([draw_jitter(1.5, np.random.default_rng(seed)) for seed in range(200)])
    assert 0 <= drawn[:, :, 1].min() < 0.1
    assert drawn[:, :, 1].max() > 2.3


def test_even_levels_reach_from_zero_to_the_magnitude() -> None:
    drawn = draw_many("rand-m9-mstd101-inc1").reshape(-1, 2)
    degrees = np.abs(drawn[drawn[:, 0] == Operation.ROTATE, 1])
    assert degrees.mean() == pytest.approx(13.5, rel=0.1)


UNKNOWN = [
    *(
        "augmix-m5",
        "rand-m9-tweights",
        "original",
        "rand-x3",
        "rand-mstdinf",
        "rand-p.5",
        "rand-m",
        "rand-m9-",
        "xrand-m9",
    ),
    # Not whole.
    *("rand-m9-n1.5", "rand-m9.5", "rand-inc1.5", "rand-mmax9.5"),
    # Given twice.
    *("rand-m9-m5", "rand-n3-n4", "rand-m9-m9", "rand-inc1-m9-inc0", "rand-mstd1-mstd2"),
    # Digits that are not those of timm's names.
    *("rand-m\u0669", "rand-p0.\u0665", "rand-m\uff19"),
]


@pytest.mark.parametrize("name", UNKNOWN)
def test_policy_that_is_not_known_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(ValueError, match=rf"such as {DEFAULT}, got '{re.escape(name)}'.* version .* train\.json names"):
        RandAugment.parse(name)


@pytest.mark.parametrize("name", ["rand-n0", "rand-p1.5"])
def test_policy_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="need n >= 1 and p <= 1"):
        RandAugment.parse(name)


def test_colour_jitter_draws_each_factor_once_in_any_order() -> None:
    drawn = np.stack([draw_jitter(0.4, np.random.default_rng(seed)) for seed in range(500)])
    assert np.array_equal(np.sort(drawn[:, :, 0], axis=1), np.tile(np.sort(JITTERS), (500, 1)))
    assert len({tuple(row) for row in drawn[:, :, 0].tolist()}) == 6
    assert drawn[:, :, 1].min() == pytest.approx(0.6, abs=0.02)
    assert drawn[:, :, 1].max() == pytest.approx(1.4, abs=0.02)
