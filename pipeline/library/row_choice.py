"""Choices of rows as Python programs write them."""

from collections.abc import Iterable, Sequence
from typing import cast

from pipeline.published.filters import RowFilter
from pipeline.published.splits import ONE_SPLIT, Splits, parse_splits
from pipeline.run.records import Reason, Status


def choose_rows(
    *,
    min_quality: float | None,
    max_quality: float | None,
    classes: Iterable[str],
    statuses: Iterable[str],
    reasons: Iterable[str],
    keys: Iterable[str] | None,
    splits: str | Splits | None,
    split: str | Sequence[str],
) -> RowFilter:
    """Make a filter; one name counts as a list of one.

    Raises:
        ValueError: A value is wrong, or a split is named and the shares of splits are not.
    """
    names = _list(split)
    if names and splits is None:
        raise ValueError(f"split {names[0]!r} needs the shares of all splits: splits='train=0.9,val=0.1'")
    return RowFilter(
        min_quality=min_quality,
        max_quality=max_quality,
        class_names=_list(classes),
        # RowFilter checks them.
        statuses=cast(tuple[Status, ...], _list(statuses)),
        reasons=cast(tuple[Reason, ...], _list(reasons)),
        keys=None if keys is None else frozenset(_list(keys)),
        splits=parse_splits(splits) if isinstance(splits, str) else splits or ONE_SPLIT,
        split_names=names,
    )


def _list(values: str | Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)
