"""Tables with a column of paths, read row by row."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.collections.columns import Columns, choose_columns, find_path_column
from pipeline.collections.parquet_tables import read_parquet_table
from pipeline.collections.rows import NamedImage
from pipeline.errors import ShardError
from pipeline.inputs.tables.cells import read_text_cell
from pipeline.inputs.tables.kinds import CSV_SUFFIXES, strip_suffix
from pipeline.inputs.tables.records import Records, open_records, peek_records, read_key
from pipeline.run.config import InputConfig
from pipeline.run.records import PARQUET_SUFFIX


def read_table(uri: str, config: InputConfig) -> Iterator[NamedImage]:
    """Read the rows of a table, in order, in bounded memory.

    Raises:
        ShardError: It is no table of its suffix, or has not the columns.
        OSError: The store failed.
    """
    if strip_suffix(uri) == PARQUET_SUFFIX:
        yield from read_parquet_table(uri, config)
        return
    with open_records(uri) as records:
        yield from _read_rows(uri, records, config, is_csv=strip_suffix(uri) in CSV_SUFFIXES)


def has_paths(uri: str, config: InputConfig) -> bool:
    """Check whether a text table has a column of paths; False if it cannot be read."""
    try:
        with open_records(uri) as records:
            return find_path_column(records.names, config) is not None
    except ShardError:
        return False


def read_records(
    table: str, records: Iterator[tuple[str, Mapping[str, Any]]], config: InputConfig
) -> Iterator[NamedImage]:
    """Read records of JSON, each with its place, as rows of a table."""
    yield from _read_rows(table, peek_records(records), config, is_csv=False)


def _read_rows(table: str, records: Records, config: InputConfig, *, is_csv: bool) -> Iterator[NamedImage]:
    if not records.names:
        return
    columns = choose_columns(table, records.names, config)
    for where, record in records.rows:
        image = _make_row(f"{table}, {where}", record, columns)
        if is_csv:
            tags = read_text_cell(image.tags)
            image = image._replace(path=(image.path or "").strip() or None, tags=tags)
        yield image


def _make_row(where: str, record: Mapping[str, Any], columns: Columns) -> NamedImage:
    path = record.get(columns.path)
    if isinstance(path, Mapping):
        # Hugging Face's image as plain values.
        path = path.get("path")
    if path is not None and not isinstance(path, str):
        raise ShardError(f"{where}: '{columns.path}' holds a {type(path).__name__}, need a path as text")
    key = read_key(where, columns.key, record.get(columns.key)) if columns.key else None
    return NamedImage(where, path, key, record.get(columns.tags) if columns.tags else None)
