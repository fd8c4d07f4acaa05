"""Checks of the column statistics of a Parquet file, by which readers filter, against its values.

Statistics are counts of nulls, minima, maxima and histograms of levels, of each row group and each page.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_STATED_BYTES = 4096
"""Writers omit longer minima and maxima."""


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """Column as Parquet stores it: one entry for each value, null or empty list."""

    path: tuple[str, ...]
    values: pa.Array
    """Without nulls."""
    entries: pa.Array | None
    """With nulls, one for each row; None below a list."""
    definition_levels: tuple[int, ...]
    """Number of entries of each level; the last level has the values."""
    repetition_levels: tuple[int, ...]
    num_without_element: int | None = None
    """Below a list of structs, the number of entries for null and empty lists; None elsewhere."""

    @property
    def num_entries(self) -> int:
        """Number of values, nulls and empty lists."""
        return sum(self.definition_levels)

    def count_nulls(self, *, counts_lists: bool) -> int:
        """Number of nulls. Below a list of structs Arrow 26 counts null and empty lists, Arrow 18 and 21 do not."""
        return self.num_entries - len(self.values) - (0 if counts_lists else self.num_without_element or 0)


def check_columns(
    columns: Sequence[Mapping[str, Any]], pages: Sequence[Sequence[Mapping[str, Any]]], rows: pa.Table
) -> Iterator[str]:
    """Find wrong statistics in the footer and the pages of a row group.

    Args:
        columns: `ColumnMetaData` of each column.
        pages: Headers of the data pages of each column.
        rows: Of the row group.
    """
    leaves = [leaf for field in rows.schema for leaf in shred(rows[field.name].combine_chunks(), field)]
    below_lists = [pair for pair in zip(columns, leaves, strict=True) if pair[1].num_without_element is not None]
    # One library wrote the file, so all of its columns count lists or none does.
    counts_lists = not all(
        column.get("statistics", {}).get("null_count") == leaf.count_nulls(counts_lists=False)
        for column, leaf in below_lists
    )
    for column, headers, leaf in zip(columns, pages, leaves, strict=True):
        num_nulls = leaf.count_nulls(counts_lists=counts_lists)
        name = ".".join(leaf.path)
        if [part.decode(errors="backslashreplace") for part in column["path_in_schema"]] != list(leaf.path):
            yield f"column '{name}' has another path in the footer"
        yield from (f"column '{name}': {fault}" for fault in _check_column(column, leaf, num_nulls))
        yield from (f"column '{name}': {fault}" for fault in _check_pages(column, headers, leaf, num_nulls))


def shred(array: pa.Array, field: pa.Field) -> Iterator[Leaf]:
    """Split a column into the leaves that Parquet stores. A column may contain one list, not several."""
    yield from _shred(array, field, (field.name,), (), (), array)


def _shred(
    array: pa.Array,
    field: pa.Field,
    path: tuple[str, ...],
    levels: tuple[int, ...],
    repeats: tuple[int, ...],
    entries: pa.Array | None,
    num_without_element: int | None = None,
) -> Iterator[Leaf]:
    if field.nullable:
        levels, array = (*levels, array.null_count), array.drop_null()
    if pa.types.is_list(field.type):
        num_empty = int(pc.sum(pc.equal(pc.list_value_length(array), 0)).as_py() or 0)
        elements = array.flatten()
        num_rows = sum(levels) + len(array)
        repeats = (num_rows, len(elements) - len(array) + num_empty)
        element, levels = field.type.value_field, (*levels, num_empty)
        num_lists_only = sum(levels) if pa.types.is_struct(element.type) else None
        yield from _shred(elements, element, (*path, "list", "element"), levels, repeats, None, num_lists_only)
    elif pa.types.is_struct(field.type):
        of_rows = entries.flatten() if entries is not None else [None] * field.type.num_fields
        for child, values, own in zip(field.type, array.flatten(), of_rows, strict=True):
            yield from _shred(values, child, (*path, child.name), levels, repeats, own, num_without_element)
    else:
        yield Leaf(
            path=path,
            values=array,
            entries=entries,
            definition_levels=(*levels, len(array)),
            repetition_levels=repeats,
            num_without_element=num_without_element,
        )


def _check_column(column: Mapping[str, Any], leaf: Leaf, num_nulls: int) -> Iterator[str]:
    if column["num_values"] != leaf.num_entries:
        yield f"num_values is {column['num_values']}, there are {leaf.num_entries}"
    yield from _check_statistics(column.get("statistics"), leaf.values, num_nulls)
    sizes = column.get("size_statistics", {})
    levels = list(leaf.definition_levels) if len(leaf.definition_levels) > 1 else []
    for name, found in (
        ("definition_level_histogram", levels),
        ("repetition_level_histogram", list(leaf.repetition_levels)),
        ("unencoded_byte_array_data_bytes", _count_bytes(leaf.values)),
    ):
        if name in sizes and sizes[name] != found:
            yield f"{name} is {sizes[name]}, should be {found}"


def _check_pages(
    column: Mapping[str, Any], headers: Sequence[Mapping[str, Any]], leaf: Leaf, num_nulls: int
) -> Iterator[str]:
    """Check the statistics of pages; below a list, those of several pages only by their sum."""
    if len(headers) == 1:
        yield from _check_statistics(headers[0].get("statistics"), leaf.values, num_nulls)
        return
    start = 0
    for number, header in enumerate(headers):
        stop = start + header["num_values"]
        if leaf.entries is not None:
            values = leaf.entries.slice(start, stop - start).drop_null()
            faults = _check_statistics(header.get("statistics"), values, stop - start - len(values))
            yield from (f"page {number}: {fault}" for fault in faults)
        start = stop
    if leaf.entries is None:
        yield from _check_sum(column, [header.get("statistics", {}) for header in headers])


def _check_sum(column: Mapping[str, Any], pages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    whole = column.get("statistics", {})
    if sum(page.get("null_count", 0) for page in pages) != whole.get("null_count"):
        yield "null_count is not the sum of its pages"
    for name in ("min_value", "max_value", "min", "max"):
        if name in whole and all(page.get(name) != whole[name] for page in pages):
            yield f"{name} is that of none of its pages"


def _check_statistics(stated: Mapping[str, Any] | None, values: pa.Array, num_nulls: int) -> Iterator[str]:
    if stated is None:
        yield "it has no statistics"
        return
    if stated.get("null_count") != num_nulls:
        yield f"null_count is {stated.get('null_count')}, there are {num_nulls}"
    if "distinct_count" in stated and stated["distinct_count"] != pc.count_distinct(values).as_py():
        yield f"distinct_count is {stated['distinct_count']}"
    found = find_bounds(values)
    if "nan_count" in stated and stated["nan_count"] != int(pc.sum(pc.is_nan(values)).as_py() or 0):
        yield f"nan_count is {stated['nan_count']}"
    for end in ("min", "max"):
        value = None if found is None else found[end]
        if value is not None and len(value) > MAX_STATED_BYTES:
            value = None
        is_exact = stated.get(f"is_{end}_value_exact")
        if stated.get(f"{end}_value") != value or (is_exact is not None) > (value is not None) or is_exact is False:
            yield f"{end}_value is {_show_bytes(stated.get(f'{end}_value'))}, should be {_show_bytes(value)}"
        if end in stated and stated[end] != value:
            yield f"{end} is {_show_bytes(stated[end])}, should be {_show_bytes(value)}"


def find_bounds(values: pa.Array) -> dict[str, bytes] | None:
    """Minimum and maximum as Parquet writes them; None if there is no value to compare."""
    kind = values.type
    if pa.types.is_floating(kind):
        values = values.filter(pc.invert(pc.is_nan(values)))
    if len(values) == 0:
        return None
    bounds = pc.min_max(values)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if pa.types.is_floating(kind):
        # The sign of zero does not order, so bounds include both zeros.
        ends = {"min": -0.0 if low == 0 else low, "max": 0.0 if high == 0 else high}
        return {end: np.array(value, "<f4" if kind.bit_width == 32 else "<f8").tobytes() for end, value in ends.items()}
    if pa.types.is_integer(kind):
        num_bytes = 8 if kind.bit_width == 64 else 4
        return {end: v.to_bytes(num_bytes, "little", signed=True) for end, v in (("min", low), ("max", high))}
    return {end: v.encode() if isinstance(v, str) else v for end, v in (("min", low), ("max", high))}


def _count_bytes(values: pa.Array) -> int | None:
    if pa.types.is_binary(values.type) or pa.types.is_string(values.type):
        return int(pc.sum(pc.binary_length(values)).as_py() or 0)
    return None


def _show_bytes(value: bytes | None) -> str:
    if value is None:
        return "not there"
    return value[:16].hex(" ") + (" ..." if len(value) > 16 else "")
