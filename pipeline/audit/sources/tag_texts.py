"""Comparison of the tags of a source with those that an index holds as JSON."""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pipeline.audit.sources.places import replace_surrogates

WHOLE_FLOAT = re.compile(r"(?<=\d)\.0*(?!\d)")


def are_same_tags(
    source: Any,
    indexed: str | None,
    *,
    is_text: bool = False,
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> bool:
    """True if the index holds the tags of the source.

    >>> are_same_tags(["cat"], '["cat"]'), are_same_tags("['cat' 'dog']", '["cat", "dog"]', is_text=True)
    (True, True)
    >>> are_same_tags([1, -1], '["dog"]', class_names={"": ["cat", "dog"]})
    True

    Args:
        source: Value of a column, or the text of a cell.
        indexed: As JSON; None for no tags.
        is_text: True for a cell: a list that is written in it is compared by its words, in any order.
        class_names: Names of the numbers in a column, by the field that holds them; the index may hold either, and
            lacks names of a low score.
    """
    try:
        value = None if indexed is None else json.loads(indexed)
    except ValueError:
        return False
    if not is_text:
        return _list_leaves(source) == _list_leaves(value) or (
            isinstance(value, list) and _are_names(value, source, class_names or {})
        )
    text = (source or "").strip()
    if not text or isinstance(value, str):
        return text == (value or "").strip() if isinstance(value, str | None) else not text and not value
    parsed: Any = text
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        parsed = ast.literal_eval(text)
    with suppress(ValueError, RecursionError):
        parsed = json.loads(text)
    return _list_words(parsed) == _list_words(value) or _list_words(text) == _list_words(value)


def _are_names(names: list[Any], source: Any, class_names: Mapping[str, Sequence[str]]) -> bool:
    """True if names are those of the numbers in one of the fields."""
    for field, of_field in class_names.items():
        numbers = set(_list_numbers(source, field, ""))
        # -1 is Hugging Face's number for no class.
        found = {of_field[number] for number in numbers if 0 <= number < len(of_field)}
        if found == set(names) or (_has_scores(source) and found.issuperset(names)):
            return True
    return False


def _list_numbers(value: Any, field: str, found_in: str) -> Iterator[int]:
    """Numbers that are in a field, however deep."""
    if isinstance(value, list):
        for inner in value:
            yield from _list_numbers(inner, field, found_in)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _list_numbers(inner, field, name)
    elif isinstance(value, int) and found_in == field:
        yield value


def _has_scores(value: Any) -> bool:
    if isinstance(value, Mapping | list):
        return any(map(_has_scores, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, float)


def _list_leaves(value: Any) -> list[str]:
    """All values within a value as text, with the names of fields; nulls aside."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [leaf for name, inner in value.items() for leaf in (str(name), *_list_leaves(inner))]
    if isinstance(value, list | tuple | set | frozenset):
        return [leaf for inner in value for leaf in _list_leaves(inner)]
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return [replace_surrogates(text)]


def _list_words(value: Any) -> list[str]:
    # Whole numbers with gaps are floats in many tables.
    return sorted(word for leaf in _list_leaves(value) for word in re.findall(r"\w+", WHOLE_FLOAT.sub("", leaf)))
