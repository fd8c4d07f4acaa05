"""Comparison of the keys of a manifest with those of its input: missing, doubled, unknown and misplaced rows."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, Optional

from pipeline.audit.verdict import Check, Problem

MAX_PAIRS_PER_ROW = 20
"""Keys may repeat. With more pairs of equal keys, the n-th row of a key is taken for its n-th sample."""


def compare_keys(shard_name: str, wanted: Sequence[str], found: Sequence[str]) -> Iterator[Problem]:
    """Compare the keys of a manifest with those of its input, as multisets and by order.

    A row outside a longest common subsequence is misplaced while the input has further samples of its key, doubled if
    it has no further ones, and unknown if it never had one. If keys repeat very often, the subsequence is long but not
    always longest, so that n keys take O(n log n) time.

    Args:
        shard_name: Shown in the examples.
        wanted: Keys of the input's samples.
        found: Keys of the manifest's rows.
    """
    if list(wanted) == list(found):
        return
    num_of, num_found = Counter(wanted), Counter(found)
    num_pairs = sum(number * num_found[key] for key, number in num_of.items())
    if num_pairs > MAX_PAIRS_PER_ROW * (len(wanted) + len(found)):
        in_order = _find_rows_in_order(_number_repeats(wanted), _number_repeats(found))
    else:
        in_order = _find_rows_in_order(wanted, found)
    left = num_of.copy()
    left.subtract(found[row] for row in in_order)
    for row, key in enumerate(found):
        if row in in_order:
            continue
        if left[key] > 0:
            left[key] -= 1
            check = Check.MISPLACED_ROWS
        else:
            check = Check.DOUBLED_ROWS if key in num_of else Check.UNKNOWN_ROWS
        yield Problem(check, 1, f"{shard_name}: row {row}, key '{key}'")
    for key, number in left.items():
        if number > 0:
            yield Problem(Check.MISSING_ROWS, number, f"{shard_name}: key '{key}'")


def _number_repeats(keys: Sequence[str]) -> list[tuple[str, int]]:
    times: Counter[str] = Counter()
    numbered = []
    for key in keys:
        numbered.append((key, times[key]))
        times[key] += 1
    return numbered


class _Link(NamedTuple):
    row: int
    previous: Optional["_Link"]


def _find_rows_in_order(wanted: Sequence[Hashable], found: Sequence[Hashable]) -> set[int]:
    """Find the rows of `found` in a longest common subsequence with `wanted`.

    It takes O(n log n) time if few keys repeat.

    Source: J. Hunt and T. Szymanski, A fast algorithm for computing longest common subsequences, 1977.
    """
    places_of: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(wanted):
        places_of[key].append(place)
    # Of each length: the earliest place at which a common subsequence ends, and its rows.
    end_places: list[int] = []
    ends: list[_Link] = []
    for row, key in enumerate(found):
        for place in reversed(places_of.get(key, [])):
            length = bisect_left(end_places, place)
            if end_places[length : length + 1] == [place]:
                # The first row keeps the sample, so the later row is the doubled one.
                continue
            link = _Link(row, ends[length - 1] if length else None)
            end_places[length : length + 1] = [place]
            ends[length : length + 1] = [link]
    rows = set()
    last = ends[-1] if ends else None
    while last:
        rows.add(last.row)
        last = last.previous
    return rows
