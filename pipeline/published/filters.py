"""Filters over the rows of manifests: by quality, class, status, reason, key and split."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import VocabularyError
from pipeline.published.run import PublishedRun
from pipeline.published.splits import ONE_SPLIT, Splits
from pipeline.run.records import Reason, Status

if TYPE_CHECKING:
    from pipeline.published.rows import MaskRow


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """What rows have to be; a row is kept if it meets every condition that is set.

    Names of classes mean something in a run only: `settle` gives the filter that checks rows.
    """

    min_quality: float | None = None
    """Lowest quality, 0 to 1. Rows without a quality, which are the rejected ones, are left out."""
    max_quality: float | None = None
    """Highest quality, 0 to 1. Rows without a quality are left out."""
    class_names: tuple[str, ...] = ()
    """Rows with at least one of these classes in `class_ids`; names or aliases of the run's vocabulary. Empty: all."""
    statuses: tuple[Status, ...] = ()
    """Empty: all."""
    reasons: tuple[Reason, ...] = ()
    """Rows rejected for one of these reasons. Empty: all."""
    keys: frozenset[str] | None = None
    """Keys of samples; None: all."""
    splits: Splits = ONE_SPLIT
    """Shares of splits, which keys decide."""
    split_names: tuple[str, ...] = ()
    """Rows of these splits. Empty: all."""

    def __post_init__(self) -> None:
        for name in ("min_quality", "max_quality"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"need {name} between 0 and 1, got {value}")
        if self.min_quality is not None and self.max_quality is not None and self.min_quality > self.max_quality:
            raise ValueError(f"need min_quality <= max_quality, got {self.min_quality} and {self.max_quality}")
        for name, kind in (("statuses", Status), ("reasons", Reason)):
            values = getattr(self, name)
            known = [str(value) for value in kind]
            if isinstance(values, str) or not set(values) <= set(known):
                raise ValueError(f"need a tuple of {name} from {', '.join(known)}; got {values!r}")
        for name in ("class_names", "keys", "split_names"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"need several {name}, got the text {getattr(self, name)!r}; put it into a tuple")
        unknown = [name for name in self.split_names if name not in self.splits.names]
        if unknown:
            raise ValueError(f"need split_names from {', '.join(self.splits.names)}; got {unknown[0]!r}")

    def settle(self, run: PublishedRun) -> "SettledFilter":
        """Find the ids of the classes in a run.

        Raises:
            VocabularyError: The run has no such class.
        """
        found: set[int] = set()
        for name in self.class_names:
            ids = run.vocabulary.match([name]).class_ids
            if not ids:
                raise VocabularyError(
                    f"run '{run.uri}' has no class {name!r}; {_suggest(name, run.vocabulary.classes)}"
                )
            found.update(ids)
        return SettledFilter(self, frozenset(found) if self.class_names else None)


@dataclass(frozen=True)
class SettledFilter:
    """A filter for the rows of one run."""

    conditions: RowFilter
    class_ids: frozenset[int] | None = None
    """Ids of `conditions.class_names` in the run; None: rows of any class."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the conditions read."""
        own = self.conditions
        wanted = {
            "quality": own.min_quality is not None or own.max_quality is not None,
            "class_ids": self.class_ids is not None,
            "status": bool(own.statuses),
            "reason": bool(own.reasons),
            "key": own.keys is not None or bool(own.split_names),
        }
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)

    def keeps(self, row: "MaskRow") -> bool:
        """Check one row."""
        values, own = row.values, self.conditions
        low, high = self._limits
        quality, ids = values.get("quality"), self.class_ids
        return (
            (low is None or (quality is not None and quality >= low))
            and (high is None or (quality is not None and quality <= high))
            and (ids is None or not ids.isdisjoint(values.get("class_ids") or ()))
            and (not own.statuses or values.get("status") in own.statuses)
            and (not own.reasons or values.get("reason") in own.reasons)
            and (own.keys is None or row.key in own.keys)
            and self._is_in_split(row.key)
        )

    def select(self, table: pa.Table) -> pa.Table:
        """Select the rows of a table that has the columns of `columns`."""
        kept = self.find(table)
        return table if kept is None else table.filter(kept)

    def find(self, table: pa.Table) -> pa.ChunkedArray | pa.Array | None:
        """One boolean a row, true for those that are kept; None: the filter has no condition."""
        own = self.conditions
        low, high = self._limits
        conditions = []
        if low is not None:
            conditions.append(pc.greater_equal(table["quality"], pa.scalar(low, pa.float32())))
        if high is not None:
            conditions.append(pc.less_equal(table["quality"], pa.scalar(high, pa.float32())))
        if self.class_ids is not None:
            conditions.append(_find_any(table["class_ids"], sorted(self.class_ids)))
        if own.split_names:
            conditions.append(pa.array([self._is_in_split(key) for key in table["key"].to_pylist()], pa.bool_()))
        for name, values in (("status", own.statuses), ("reason", own.reasons), ("key", own.keys)):
            if values or (name == "key" and values is not None):
                conditions.append(pc.is_in(table[name], pa.array(sorted(map(str, values)), pa.string())))
        return pc.fill_null(reduce(pc.and_, conditions), False) if conditions else None

    def may_keep(self, group: pq.RowGroupMetaData) -> bool:
        """Whether a row group may have rows that are kept, by its statistics of `quality`."""
        low, high = self._limits
        if low is None and high is None:
            return True
        for place in range(group.num_columns):
            column = group.column(place)
            if column.path_in_schema == "quality" and column.is_stats_set:
                known = column.statistics
                if known.null_count == group.num_rows:
                    return False
                if known.has_min_max:
                    return (low is None or known.max >= low) and (high is None or known.min <= high)
        return True

    @property
    def _limits(self) -> tuple[float | None, float | None]:
        """Limits of quality as float32, which the column holds: 0.7 is not below itself."""
        own = (self.conditions.min_quality, self.conditions.max_quality)
        low, high = (None if one is None else float(np.float32(one)) for one in own)
        return low, high

    def _is_in_split(self, key: str) -> bool:
        own = self.conditions
        return not own.split_names or own.splits.choose(key) in own.split_names


def _find_any(lists: pa.ChunkedArray, values: Sequence[int]) -> pa.Array:
    """One boolean a list: whether it holds one of the values."""
    column = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    hit = pc.is_in(pc.list_flatten(column), pa.array(values, column.type.value_type))
    found = np.zeros(len(column), bool)
    found[pc.list_parent_indices(column).filter(hit).to_numpy()] = True
    return pa.array(found)


def _suggest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(known[:10])}"
