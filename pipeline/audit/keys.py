"""The keys of a manifest against those of its input: what is missing, doubled, unknown, out of order."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, Optional

from pipeline.audit.verdict import Check, Problem

MAX_PAIRS_PER_ROW = 20
"""Keys may repeat. Beyond so many pairs of equal keys, the n-th row of a key counts as the n-th sample of it."""


def compare_keys(shard_name: str, wanted: Sequence[str], found: Sequence[str]) -> Iterator[Problem]:
    """Compare the keys of a manifest with those of its input, as multisets and in order.

    Rows outside a longest common subsequence are out of order while the input has samples of their key
    left, doubled when it has no more, and unknown when it never had one. Where keys repeat very often the
    subsequence is a long one and maybe not the longest: time grows as the number of keys does, but for a logarithm.

    Args:
        shard_name: For the examples.
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

    Source: J. Hunt and T. Szymanski, A fast algorithm for computing longest common subsequences, 1977. With
    keys that hardly repeat it takes n log n steps.
    """
    places_of: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(wanted):
        places_of[key].append(place)
    # For each length, the earliest place at which a common subsequence ends, and its rows.
    end_places: list[int] = []
    ends: list[_Link] = []
    for row, key in enumerate(found):
        for place in reversed(places_of.get(key, [])):
            length = bisect_left(end_places, place)
            if end_places[length : length + 1] == [place]:
                # The same sample again: the first row keeps it, so that the later one is called doubled.
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
