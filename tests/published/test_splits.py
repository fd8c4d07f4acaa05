"""Splits by the hash of keys: stable, of the shares that were asked for, and refused where they make no sense."""

import pytest

from pipeline.published.splits import ONE_SPLIT, Splits, parse_splits

KEYS = [f"photo-{number}" for number in range(20_000)]


def test_shares_are_met_and_a_key_stays_where_it_is() -> None:
    splits = parse_splits("train=0.8, val=0.15, test=0.05")
    chosen = [splits.choose(key) for key in KEYS]
    assert {name: round(chosen.count(name) / len(KEYS), 2) for name in splits.names} == dict(splits.shares)
    assert [splits.choose(key) for key in reversed(KEYS)] == chosen[::-1]


def test_larger_first_split_takes_keys_from_the_second_and_gives_none() -> None:
    smaller, larger = parse_splits("train=0.6,val=0.4"), parse_splits("train=0.7,val=0.3")
    assert all(larger.choose(key) == "train" for key in KEYS if smaller.choose(key) == "train")


def test_rounded_shares_leave_no_key_out() -> None:
    thirds = Splits({"a": 0.3333333, "b": 0.3333333, "c": 0.3333334})
    assert {thirds.choose(key) for key in KEYS} == {"a", "b", "c"}
    assert {ONE_SPLIT.choose(key) for key in [*KEYS, "", "ключ", "\ud800"]} == {"train"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "need splits as train=0.9,val=0.1"),
        ("train", "got 'train'"),
        ("train=much,val=0.1", "got 'train=much'"),
        ("train=0.9,val=0.2", "add up to 1, got 1.1"),
        ("train=1,val=0", "share of split 'val' above 0"),
        ("train=nan", "above 0 and at most 1, got nan"),
        ("train=0.5,train=0.5", "'train' stands twice"),
        ("../x=1", "letters, digits and _ in the name of a split, got '../x'"),
    ],
)
def test_splits_without_sense_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_splits(text)
