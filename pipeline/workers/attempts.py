"""How often a chunk was begun and not finished: tells one that kills its workers from one that had bad luck."""

from collections import Counter
from typing import Protocol, runtime_checkable

MAX_DEATHS = 3
"""After so many workers died with a chunk in hand it is labelled in a child process."""

MAX_DEATHS_IN_ALL = 10 * MAX_DEATHS
"""After so many workers died with a chunk in hand its shard fails. Far more than `MAX_DEATHS`: an innocent chunk dies
with each of those that share its worker, three times for each of them that kills."""


@runtime_checkable
class Attempts(Protocol):
    """Counts the attempts at chunks."""

    def begin(self, chunk: str) -> int:
        """Note that a chunk is begun; give how often it was begun before and not finished."""

    def finish(self, chunk: str) -> None:
        """Note that a chunk is finished."""


class AttemptCounter:
    """Counts in the memory of one process."""

    def __init__(self) -> None:
        """Start from nothing."""
        self._begun: Counter[str] = Counter()

    def begin(self, chunk: str) -> int:
        """Note that a chunk is begun; give how often it was begun before and not finished."""
        before = self._begun[chunk]
        self._begun[chunk] += 1
        return before

    def finish(self, chunk: str) -> None:
        """Note that a chunk is finished. Only chunks in flight take memory."""
        self._begun.pop(chunk, None)
