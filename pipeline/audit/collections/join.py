"""Join of the rows of an index with the rows of tables, as both are read."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from pipeline.audit.collections.records import IndexRow
from pipeline.audit.collections.table_reader import TableEntry
from pipeline.audit.sources.places import replace_surrogates
from pipeline.audit.sources.tables import Entry

WITHOUT_PATH = " without a path"
"""End of the key of a row that names neither key nor path."""

_Identity = tuple[str, str]
Waiting = TypeVar("Waiting")


class EntryJoin:
    """Pairs of equal keys and paths, in memory that grows with the distance between the two alone."""

    def __init__(self, entries: Iterator[TableEntry]) -> None:
        """Start before the first row.

        Args:
            entries: Rows of the tables in order.
        """
        self._entries = entries
        self._waiting_entries: dict[_Identity, deque[TableEntry]] = {}
        self._waiting_rows: dict[_Identity, deque[IndexRow]] = {}

    def add(self, row: IndexRow) -> Iterator[tuple[IndexRow, TableEntry]]:
        """Add a row of the index, and read one of the tables; yield the pairs that this completes."""
        identity = _identify_row(row)
        if (waiting := _take(self._waiting_entries, identity, lambda one: one.leads_to(row))) is not None:
            yield row, waiting
        else:
            self._waiting_rows.setdefault(identity, deque()).append(row)
        entry = next(self._entries, None)
        if entry is not None:
            yield from self._match(entry)

    def close(self) -> Iterator[tuple[IndexRow, TableEntry]]:
        """Read the tables to their end; yield the pairs that this completes."""
        for entry in self._entries:
            yield from self._match(entry)

    def list_rows_left(self) -> Iterator[IndexRow]:
        """Rows of the index that no table has, or not as often."""
        return (row for rows in self._waiting_rows.values() for row in rows)

    def list_entries_left(self) -> Iterator[TableEntry]:
        """Rows of the tables that the index does not have, or not as often."""
        return (entry for entries in self._waiting_entries.values() for entry in entries)

    def _match(self, entry: TableEntry) -> Iterator[tuple[IndexRow, TableEntry]]:
        identity = _identify_entry(entry.entry)
        if (row := _take(self._waiting_rows, identity, entry.leads_to)) is not None:
            yield row, entry
        else:
            self._waiting_entries.setdefault(identity, deque()).append(entry)


def _take(
    waiting: dict[_Identity, deque[Waiting]], identity: _Identity, fits: Callable[[Waiting], bool]
) -> Waiting | None:
    """Take the first that fits of those of an identity, or else the first: tables of two folders name equal paths."""
    found = waiting.get(identity)
    if found is None:
        return None
    place = next((place for place, one in enumerate(found) if fits(one)), 0) if len(found) > 1 else 0
    taken = found[place]
    del found[place]
    if not found:
        del waiting[identity]
    return taken


def _identify_row(row: IndexRow) -> _Identity:
    path = (row.path or "").strip()
    if not path:
        return "" if row.key.endswith(WITHOUT_PATH) else row.key.strip(), ""
    return _identify(row.key.strip(), path)


def _identify_entry(entry: Entry) -> _Identity:
    key, path = (replace_surrogates(text or "").strip() for text in (entry.key, entry.path))
    return _identify(key, path)


def _identify(key: str, path: str) -> _Identity:
    """Identity by path alone where the key is the path, perhaps with the folder of its table before it."""
    return "" if path and (not key or key == path or key.endswith("/" + path)) else key, path
