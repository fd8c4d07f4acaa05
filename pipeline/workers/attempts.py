"""Number of unfinished attempts per chunk: it separates a chunk that kills its workers from an innocent one."""

from collections import Counter
from typing import Protocol, runtime_checkable

MAX_DEATHS = 3
"""Worker deaths during a chunk after which it is labelled in a child process."""

MAX_DEATHS_IN_ALL = 10 * MAX_DEATHS
"""Worker deaths during a chunk after which its shard fails. Far above `MAX_DEATHS`: an innocent chunk is interrupted by
each deadly chunk that shares its worker, up to three times each."""


@runtime_checkable
class Attempts(Protocol):
    """A counter of the attempts at each chunk."""

    def begin(self, chunk: str) -> int:
        """Record the start of a chunk; return the number of earlier unfinished attempts."""

    def finish(self, chunk: str) -> None:
        """Record the end of a chunk."""


class AttemptCounter:
    """A counter in the memory of one process."""

    def __init__(self) -> None:
        """Start without attempts."""
        self._begun: Counter[str] = Counter()

    def begin(self, chunk: str) -> int:
        """Record the start of a chunk; return the number of earlier unfinished attempts."""
        before = self._begun[chunk]
        self._begun[chunk] += 1
        return before

    def finish(self, chunk: str) -> None:
        """Record the end of a chunk. Only chunks in progress take memory."""
        self._begun.pop(chunk, None)
