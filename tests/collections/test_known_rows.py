"""Rows of a listing compared with those of an index."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from pipeline.collections.growth import KnownRows
from pipeline.collections.index import list_index_shards, write_shards
from pipeline.collections.rows import Findings, IndexRow

Described = tuple[str, str, str | None]


@st.composite
def make_rows(draw: st.DrawFn) -> list[Described]:
    """Keys, paths and tags with many repeats."""
    row = st.tuples(st.sampled_from("abcd"), st.sampled_from(["", *"stuv"]), st.sampled_from([None, '"cat"', '"dog"']))
    return draw(st.lists(row, max_size=8))


def write_rows(rows: list[Described]) -> list[IndexRow]:
    """Rows of the index; a row without a path has no image."""
    return [
        IndexRow(key, path or None, f"/photos/{path}" if path else None, 7, "e", tags, None if path else "no path")
        for key, path, tags in rows
    ]


def grow(folder: str, names: list[str], rows: list[Described]) -> tuple[list[IndexRow], KnownRows]:
    """Add the new rows of a listing to an index; its names grow."""
    known = KnownRows(list_index_shards(folder, names))
    new = list(known.select_new(write_rows(rows)))
    names += write_shards(iter(new), folder, Findings(), len(names))
    return new, known


def test_rows_whose_keys_begin_with_another_folder_are_known_as_they_are(tmp_path: Path) -> None:
    names: list[str] = []
    grow(str(tmp_path), names, [("a.jpg", "one/a.jpg", None), ("b.jpg", "one/b.jpg", None)])
    listed = [("one/a.jpg", "one/a.jpg", None), ("one/b.jpg", "one/b.jpg", '"cat"'), ("two/a.jpg", "two/a.jpg", None)]
    new, known = grow(str(tmp_path), names, listed)
    assert [row.key for row in new] == ["two/a.jpg"]
    assert known.differences.list_kinds() == {"other tags": (1, "one/b.jpg")}


@given(make_rows(), make_rows())
def test_every_listed_row_is_new_known_or_counted_and_never_new_twice(
    first: list[Described], second: list[Described]
) -> None:
    with TemporaryDirectory() as folder:
        names: list[str] = []
        assert [tuple(row) for row in grow(folder, names, first)[0]] == [tuple(row) for row in write_rows(first)]
        new, known = grow(folder, names, second)
        assert grow(folder, names, second)[0] == []
        assert len(list(Path(folder).iterdir())) == len(names)
    counts = Counter({kind: number for kind, (number, _) in known.differences.list_kinds().items()})
    once_more = counts["listed once more under the same key and path"]
    known_before = len(first) - counts["no longer listed"]
    assert len(second) == len(new) + known_before + once_more
    # A row whose key and path are both unknown is always new, and one of a known key and path never is.
    before = {row[:2] for row in first}
    keys, paths = {row[0] for row in first}, {row[1] for row in first}
    added = Counter((row.key, row.path or "") for row in new)
    assert not before & added.keys()
    for identity, number in Counter(row[:2] for row in second).items():
        if identity[0] not in keys and identity[1] not in paths:
            assert added[identity] == number
