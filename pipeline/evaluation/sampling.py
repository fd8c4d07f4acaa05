"""Evenly spaced members of a sequence, for figures that need no more."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def take_evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Take at most `most` items at equal distances, in order.

    >>> take_evenly(range(10), 3)
    [0, 3, 6]
    """
    return [items[index * len(items) // most] for index in range(most)] if len(items) > most else list(items)
