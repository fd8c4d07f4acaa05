"""Filters, order and counts over the rows in memory, as the page asks for them."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int8, Int32

from pipeline.published.decisions import ANSWERS
from pipeline.review.index import REASONS, STATUSES, RowTable

UNDECIDED = "none"
ORDERS = ("quality", "-quality", "key")
NUM_REMEMBERED = 4
"""Answers that are kept: 4 bytes a row each."""


@dataclass(frozen=True, kw_only=True)
class RowQuery:
    """What rows have to be."""

    class_id: int | None = None
    status: str | None = None
    reason: str | None = None
    doubtful: bool = False
    suggested: bool = False
    disagree: bool = False
    """The model doubts a tag, or suggests a class that no tag names."""
    decision: str | None = None
    """One of `ANSWERS`, or `none`."""
    search: str | None = None
    """Part of the key; case does not matter."""

    def __post_init__(self) -> None:
        known = {"status": STATUSES, "reason": REASONS, "decision": (UNDECIDED, *ANSWERS)}
        for name, values in known.items():
            value = getattr(self, name)
            if value is not None and value not in [str(one) for one in values]:
                raise ValueError(f"need {name} from {', '.join(map(str, values))}; got {value!r}")

    def find(self, table: RowTable, decided: Int8[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """True for the rows that are kept.

        Args:
            table: All rows.
            decided: Place of the decision of each row in `ANSWERS`, or -1.
        """
        num, kept = table.num_rows, np.ones(table.num_rows, bool)
        if self.class_id is not None:
            kept &= table.class_ids.find_rows(num, self.class_id)
        if self.status is not None:
            kept &= table.status == [str(one) for one in STATUSES].index(self.status)
        if self.reason is not None:
            kept &= table.reason == [str(one) for one in REASONS].index(self.reason)
        if self.doubtful:
            kept &= table.doubtful.find_rows(num)
        if self.suggested:
            kept &= table.suggested.find_rows(num)
        if self.disagree:
            kept &= table.doubtful.find_rows(num) | table.suggested.find_rows(num)
        if self.decision is not None:
            wanted = -1 if self.decision == UNDECIDED else [str(one) for one in ANSWERS].index(self.decision)
            kept &= decided == wanted
        if self.search:
            found = pc.match_substring(table.keys, self.search, ignore_case=True)
            kept &= found.to_numpy() if num else kept
        return kept


class QueryCache:
    """Answers queries; the last few answers are kept, as a page asks for the same rows piece by piece."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def sort(
        self, table: RowTable, decided: Int8[np.ndarray, " rows"], version: int, query: RowQuery, order: str
    ) -> Int32[np.ndarray, " kept"]:
        """Numbers of the kept rows in an order; rows of one quality in that of the run, rejected ones last.

        Args:
            table: All rows.
            decided: Place of the decision of each row in `ANSWERS`, or -1.
            version: Changes with `decided`.
            query: What rows have to be.
            order: One of `ORDERS`.

        Raises:
            ValueError: The order is unknown.
        """
        if order not in ORDERS:
            raise ValueError(f"need an order from {', '.join(ORDERS)}; got {order!r}")
        # A list without the decided rows changes with each decision, and no other list does.
        name = ("rows", table.num_shards, table.num_rows, query, order, version if query.decision else 0)
        return self._remember(name, lambda: _sort(table, decided, query, order))

    def count(
        self, table: RowTable, decided: Int8[np.ndarray, " rows"], version: int, query: RowQuery
    ) -> Mapping[str, Any]:
        """Count the kept rows by what they are."""
        name = ("facets", table.num_shards, table.num_rows, query, version)
        return self._remember(name, lambda: _count(table, decided, query))

    def _remember(self, name: Hashable, make: Any) -> Any:
        with self._lock:
            if name in self._answers:
                self._answers.move_to_end(name)
                return self._answers[name]
        answer = make()
        with self._lock:
            self._answers[name] = answer
            while len(self._answers) > NUM_REMEMBERED:
                self._answers.popitem(last=False)
        return answer


def _sort(
    table: RowTable, decided: Int8[np.ndarray, " rows"], query: RowQuery, order: str
) -> Int32[np.ndarray, " kept"]:
    kept = np.flatnonzero(query.find(table, decided)).astype(np.int32)
    if order == "key":
        keys = table.keys.take(pa.array(kept)) if len(kept) < table.num_rows else table.keys
        return kept[pc.sort_indices(keys).to_numpy()] if len(kept) else kept
    quality = table.quality[kept]
    return kept[np.argsort(quality if order == "quality" else -quality, kind="stable")]


def _count(table: RowTable, decided: Int8[np.ndarray, " rows"], query: RowQuery) -> dict[str, Any]:
    kept = query.find(table, decided)
    rows, ids = table.class_ids
    classes = np.bincount(ids[kept[rows]], minlength=1)
    doubtful, suggested = table.doubtful.find_rows(table.num_rows), table.suggested.find_rows(table.num_rows)
    return {
        "total": int(kept.sum()),
        "class": {str(place): int(num) for place, num in enumerate(classes) if num},
        "status": _count_places(table.status[kept], STATUSES),
        "reason": _count_places(table.reason[kept], REASONS),
        "doubtful": int((doubtful & kept).sum()),
        "suggested": int((suggested & kept).sum()),
        "disagree": int(((suggested | doubtful) & kept).sum()),
        "decision": {UNDECIDED: int((kept & (decided < 0)).sum()), **_count_places(decided[kept], ANSWERS)},
    }


def _count_places(places: Int8[np.ndarray, " kept"], names: tuple[Any, ...]) -> dict[str, int]:
    counts = np.bincount(places[places >= 0], minlength=len(names))
    return {str(name): int(num) for name, num in zip(names, counts, strict=True)}
