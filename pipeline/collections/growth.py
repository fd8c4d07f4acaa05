"""Rows of a collection that a run has already, beside those of a new listing."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.collections.rows import WITHOUT_PATH, IndexRow
from pipeline.inputs.path_reader import read_index
from pipeline.inputs.patterns.folders import PassedOverFiles
from pipeline.run.records import InputShard

NUM_THREADS = 16
FOUND = "their image was missing and is there now"

_Identity = tuple[str, str | None]
"""Key and URI of a row."""
_UNNAMED: _Identity = ("", None)
"""Of all rows with neither key nor path, whose keys are their places in the table: they differ in number alone."""


class KnownRows:
    """Rows of index shards, each matched by at most one row of a new listing.

    A row is known by its key and its URI. Where only one of them is known, the row is a known one with another path or
    key if that one is not listed any more; else it is new.
    """

    def __init__(self, shards: Sequence[InputShard]) -> None:
        """Read the rows of index shards.

        Raises:
            ShardError: An index shard is missing or cannot be read.
            OSError: The store failed.
        """
        self.differences = PassedOverFiles()
        """Known rows that the listing describes otherwise, by kind, each with the key of the first."""
        self.num_rows = 0
        self._numbers: dict[_Identity, int] = {}
        self._repeats: dict[_Identity, list[int]] = defaultdict(list)
        """Further rows of an identity."""
        self._tags = array("q")
        self._images = array("q")
        self._is_missing = bytearray()
        self._is_listed = bytearray()
        for start in range(0, len(shards), NUM_THREADS):
            with ThreadPoolExecutor(NUM_THREADS) as pool:
                for table in pool.map(read_index, [shard.uri for shard in shards[start : start + NUM_THREADS]]):
                    for values in zip(*(column.to_pylist() for column in table.columns), strict=True):
                        self._add(IndexRow(*values))
        self._keys = {key for key, _ in self._numbers}
        self._uris = {uri for _, uri in self._numbers if uri is not None}

    def _add(self, row: IndexRow) -> None:
        identity = _identify(row)
        if self._numbers.setdefault(identity, self.num_rows) != self.num_rows:
            self._repeats[identity].append(self.num_rows)
        self.num_rows += 1
        self._tags.append(hash(row.tags))
        self._images.append(hash((row.size_bytes, row.etag)))
        self._is_missing.append(row.problem is not None)
        self._is_listed.append(0)

    def select_new(self, rows: Iterable[IndexRow]) -> Iterator[IndexRow]:
        """Select the rows of a listing that are not known, in order; count how the known ones differ.

        Rows of which only the key or the URI is known come last.
        """
        aside = []
        for row in rows:
            identity = _identify(row)
            number = self._find_unlisted(identity)
            if number is not None:
                self._is_listed[number] = 1
                self._compare(row, number)
            elif identity in self._numbers and identity != _UNNAMED:
                self.differences.add("listed once more under the same key and path", row.key)
            elif row.key in self._keys or row.uri in self._uris:
                aside.append(row)
            else:
                yield row
        yield from self._settle(aside)
        for (key, _), number in self._iterate_unlisted():
            self.differences.add("no longer listed", key)
            self._is_listed[number] = 1

    def _find_unlisted(self, identity: _Identity) -> int | None:
        """Number of the first row of an identity that is not listed yet."""
        first = self._numbers.get(identity)
        if first is None or not self._is_listed[first]:
            return first
        return next((number for number in self._repeats.get(identity, ()) if not self._is_listed[number]), None)

    def _compare(self, row: IndexRow, number: int) -> None:
        if hash(row.tags) != self._tags[number]:
            self.differences.add("other tags", row.key)
        if row.problem is not None:
            if not self._is_missing[number]:
                self.differences.add("their image is missing now", row.key)
        elif self._is_missing[number]:
            self.differences.add(FOUND, row.key)
        elif hash((row.size_bytes, row.etag)) != self._images[number]:
            self.differences.add("another image, by its size or etag", row.key)

    def _settle(self, aside: Sequence[IndexRow]) -> Iterator[IndexRow]:
        """Match rows whose key or URI is known to rows that are listed no more; yield those that match none."""
        places: dict[tuple[str, str | None], list[tuple[_Identity, int]]] = defaultdict(list)
        if aside:
            for identity, number in self._iterate_unlisted():
                places["key", identity[0]].append((identity, number))
                if identity[1] is not None:
                    places["uri", identity[1]].append((identity, number))
        for row in aside:
            found = [*places.get(("uri", row.uri), ()), *places.get(("key", row.key), ())]
            unlisted = [(identity, number) for identity, number in found if not self._is_listed[number]]
            if not unlisted:
                yield row
                continue
            (key, uri), number = unlisted[0]
            self._is_listed[number] = 1
            if uri != row.uri or not _has_other_root(row.key, key):
                self.differences.add("another path or key", row.key)
            else:
                self._compare(row, number)

    def _iterate_unlisted(self) -> Iterator[tuple[_Identity, int]]:
        for identity, first in self._numbers.items():
            for number in (first, *self._repeats.get(identity, ())):
                if not self._is_listed[number]:
                    yield identity, number


def _identify(row: IndexRow) -> _Identity:
    return _UNNAMED if row.uri is None and row.key.endswith(WITHOUT_PATH) else (row.key, row.uri)


def _has_other_root(key: str, other: str) -> bool:
    """Check whether keys are paths of one image from two folders, as the keys of several sources begin with theirs."""
    return key.endswith(f"/{other}") or other.endswith(f"/{key}")
