"""Tables of keys and tags as files: CSV, JSON lines or Parquet, read as two columns.

The types of Parquet columns stay, so that a value means the same as in a shard.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ShardError, is_store_failure
from pipeline.inputs.tables.kinds import CSV_SUFFIXES, LINES_SUFFIXES, PARQUET_SUFFIXES, TEXT_SUFFIXES, strip_suffix
from pipeline.inputs.tables.records import open_records, read_key
from pipeline.inputs.tag_values.columns import find_labels, holds_keys
from pipeline.inputs.tags_table.arrow_parsers import (
    BLOCK_BYTES,
    ChooseColumns,
    UnprovenError,
    parse_csv,
    parse_json_lines,
)
from pipeline.storage.listing import StoredObject, find_object
from pipeline.storage.reading import open_random

KEY_COLUMNS = ("key", "__key__")
BATCH_ROWS = 65_536
MAX_COLUMNS_SHOWN = 20

OPTION = "--inputs.tags-table"


class Form(StrEnum):
    """How the values of tags are kept."""

    ARROW = "arrow"
    """As in a column of a Parquet shard."""
    CELL = "cell"
    """As the text of a cell of CSV, which has no type."""
    JSON = "json"
    """As JSON."""


class Pairs(NamedTuple):
    """Keys and tags of a table."""

    batches: list[pa.RecordBatch]
    """Columns `key` (text without nulls) and `tags`, in the order of the file."""
    form: Form
    labels: tuple[str, ...] | None = None
    """Names of class numbers by the metadata of Hugging Face."""


def look_up_table(uri: str) -> StoredObject:
    """Look up a table.

    Raises:
        ShardError: It does not exist, or its name has no known suffix.
    """
    if strip_suffix(uri) not in (*TEXT_SUFFIXES, *PARQUET_SUFFIXES):
        raise ShardError(
            f"tags table '{uri}' is of an unknown kind; need .csv, .tsv, .jsonl, also .gz, or .parquet ({OPTION})"
        )
    found = find_object(uri)
    if found is None:
        raise ShardError(f"tags table '{uri}' does not exist; check the path of {OPTION}")
    return found


def load_pairs(uri: str, key_column: str | None, tags_column: str) -> Pairs:
    """Load the keys and tags of a table.

    Args:
        uri: Of a file `.csv`, `.tsv`, `.jsonl`, `.ndjson`, also with `.gz`, or `.parquet`.
        key_column: Column of the keys; None: `key` or `__key__`.
        tags_column: Column of the tags.

    Raises:
        ShardError: The file is damaged, a column is missing or of a wrong type, or a row has no key.
        StorageError: The store failed.
    """

    def choose(names: list[str]) -> tuple[str, str]:
        return _choose_key(uri, names, key_column), _require(uri, names, tags_column)

    suffix = strip_suffix(uri)
    if suffix not in TEXT_SUFFIXES:
        return _load_parquet(uri, choose)
    form, parse = (Form.CELL, parse_csv) if suffix in CSV_SUFFIXES else (Form.ARROW, parse_json_lines)
    try:
        return Pairs([_widen(uri, batch) for batch in parse(uri, choose)], form)
    except UnprovenError:
        form = Form.JSON if suffix in LINES_SUFFIXES else Form.CELL
        return Pairs(list(_read_records(uri, choose, form)), form)


def _read_records(uri: str, choose: ChooseColumns, form: Form) -> Iterator[pa.RecordBatch]:
    """Read a text table record by record."""
    with open_records(uri) as records:
        key, tags = choose(records.names)
        while rows := list(islice(records.rows, BATCH_ROWS)):
            keys = [_read_key(uri, where, key, record) for where, record in rows]
            values = [record.get(tags) for _, record in rows]
            if form == Form.JSON:
                values = [None if value is None else json.dumps(value) for value in values]
            yield pa.record_batch([pa.array(cells, pa.large_string()) for cells in (keys, values)], ["key", "tags"])


def _read_key(uri: str, where: str, column: str, record: Mapping[str, Any]) -> str:
    key = read_key(f"table '{uri}', {where}", column, record.get(column))
    if key is None:
        raise ShardError(f"table '{uri}' has no key in {where}; add it or remove the row")
    return key.encode("utf-8", "replace").decode()


def _load_parquet(uri: str, choose: ChooseColumns) -> Pairs:
    with _explain(uri), closing(open_random(uri)) as stream:
        file = pq.ParquetFile(stream, buffer_size=BLOCK_BYTES, pre_buffer=False, page_checksum_verification=True)
        key, tags = choose(file.schema_arrow.names)
        if not holds_keys(file.schema_arrow.field(key).type):
            raise ShardError(
                f"table '{uri}': column '{key}' holds {file.schema_arrow.field(key).type}, need text or whole numbers "
                "(cast it to one of these); or name another one by --inputs.tags-table-key"
            )
        batches = []
        first_row = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=[key, tags], use_threads=False):
            batches.append(_widen(uri, batch.select([key, tags]), first_row))
            first_row += batch.num_rows
        return Pairs(batches, Form.ARROW, find_labels(file.schema_arrow, tags))


@contextmanager
def _explain(uri: str) -> Iterator[None]:
    """Turn errors of a table's content, but not of the store, into a `ShardError`."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if is_store_failure(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise ShardError(f"table '{uri}' cannot be read: {reason}; copy it again") from error


def _choose_key(uri: str, names: list[str], key_column: str | None) -> str:
    if key_column is not None:
        return _require(uri, names, key_column)
    found = next((name for name in KEY_COLUMNS if name in names), None)
    if found is None:
        if not names:
            raise ShardError(f"tags table '{uri}' has no rows; check the file of {OPTION}")
        raise ShardError(
            f"tags table '{uri}' has no column 'key' or '__key__'; name one of its columns by --inputs.tags-table-key: "
            f"{_list_names(names)}"
        )
    return _require(uri, names, found)


def _require(uri: str, names: list[str], column: str) -> str:
    if names.count(column) != 1:
        fault = "has no column" if column not in names else "has several columns"
        raise ShardError(f"tags table '{uri}' {fault} '{column}'; its columns: {_list_names(names)}")
    return column


def _list_names(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:MAX_COLUMNS_SHOWN]) or "none"


def _widen(uri: str, batch: pa.RecordBatch, first_row: int | None = None) -> pa.RecordBatch:
    """Give keys as text, and types without a limit of 2 GiB; values in place of dictionaries.

    Raises:
        UnprovenError: A row of a text table has no key.
        ShardError: A row of a Parquet table has none.
    """
    keys, tags = batch.columns
    if pa.types.is_dictionary(keys.type):
        keys = keys.cast(keys.type.value_type)
    keys = keys.cast(pa.large_string())
    is_missing = pc.or_kleene(pc.is_null(keys), pc.equal(keys, ""))
    if pc.any(is_missing).as_py():
        if first_row is None:
            raise UnprovenError("a row has no key")
        row = first_row + pc.index(is_missing, True).as_py()
        raise ShardError(f"table '{uri}' has no key in row {row}; add it or remove the row")
    kind = _widen_type(tags.type)
    return pa.record_batch([keys, tags if kind == tags.type else tags.cast(kind)], ["key", "tags"])


def _widen_type(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_dictionary(kind):
        return _widen_type(kind.value_type)
    if types.is_string(kind) or types.is_string_view(kind):
        return pa.large_string()
    if types.is_list(kind):
        return pa.large_list(_widen_type(kind.value_type))
    return kind
