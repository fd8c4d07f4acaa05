"""Choices of rows as Python programs write them."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

from pipeline.published.filters import RowFilter
from pipeline.published.splits import ONE_SPLIT, Splits, parse_splits
from pipeline.run.records import Reason, Status

Kind = TypeVar("Kind", bound=StrEnum)


def choose_rows(
    *,
    min_quality: float | int | None,
    max_quality: float | int | None,
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
    names = list_names(split)
    if names and splits is None:
        raise ValueError(f"split {names[0]!r} needs the shares of all splits: splits='train=0.9,val=0.1'")
    return RowFilter(
        min_quality=None if min_quality is None else float(min_quality),
        max_quality=None if max_quality is None else float(max_quality),
        class_names=list_names(classes),
        statuses=_parse(Status, "statuses", list_names(statuses)),
        reasons=_parse(Reason, "reasons", list_names(reasons)),
        keys=None if keys is None else frozenset(list_names(keys)),
        splits=parse_splits(splits) if isinstance(splits, str) else splits or ONE_SPLIT,
        split_names=names,
    )


def list_names(values: str | Iterable[str]) -> tuple[str, ...]:
    """Names as a tuple; one text is one name."""
    return (values,) if isinstance(values, str) else tuple(values)


def _parse(kind: type[Kind], name: str, values: Iterable[str]) -> tuple[Kind, ...]:
    try:
        return tuple(kind(value) for value in values)
    except ValueError as error:
        raise ValueError(f"need {name} from {', '.join(kind)}: {error}") from error
