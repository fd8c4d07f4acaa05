"""Rows of a table of paths as an audit reads them: CSV, JSON lines, JSON, Parquet."""

import codecs
import csv
import gzip
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audit.sources.places import WEB
from pipeline.storage.reading import open_random, open_stream

PATH_COLUMNS = ("file_name", "path", "image", "image_path", "filepath", "filename", "url")
KEY_COLUMNS = ("key", "__key__")
TAGS_COLUMNS = ("tags", "txt", "caption")
DEFAULT_TAGS_FIELD = "tags"
GZIP_SUFFIX = ".gz"
CSV_SUFFIXES = (".csv", ".tsv")
LINES_SUFFIXES = (".jsonl", ".ndjson")
PARQUET_SUFFIX = ".parquet"
JSON_SUFFIX = ".json"
NUM_PEEKED = 100
"""Records whose fields are taken for the columns of JSON lines."""
BATCH_ROWS = 4096
MAX_CELL_LETTERS = 2**24
ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""By byte order mark; that of UTF-32 begins with that of UTF-16."""
ClassNames = Mapping[str, Sequence[str]]
"""Names of class numbers, by the field of a record that holds the numbers; the empty field: the value itself."""
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options of the run by which tables are read."""

    tags_field: str
    image_column: str | None
    key_column: str | None
    has_tags_table: bool
    """True if another table holds the tags."""


class Entry(NamedTuple):
    """Row of a table."""

    where: str
    path: str | None
    key: str | None
    tags: Any
    is_text: bool
    """True if `tags` is a cell of text, in which a list may be written."""
    class_names: ClassNames | None = None
    """Of the numbers among the tags, by Hugging Face's metadata."""


class _Columns(NamedTuple):
    path: str
    tags: str | None
    key: str | None


def get_suffix(uri: str) -> str:
    """Suffix of a table without that of gzip, in small letters; empty if there is none."""
    return posixpath.splitext(uri.lower().removesuffix(GZIP_SUFFIX))[1]


def read_entries(uri: str, options: TableOptions) -> Iterator[Entry]:
    """Read the rows of a table in order.

    Raises:
        ValueError: It is not such a table.
        OSError: The store failed. For a damaged file its parser raises its own exceptions.
    """
    suffix = get_suffix(uri)
    if suffix == PARQUET_SUFFIX:
        yield from _read_parquet(uri, options)
        return
    with closing(open_stream(uri)) as stream:
        raw: Any = io.BufferedReader(_Raw(stream), 2**20)
        if uri.lower().endswith(GZIP_SUFFIX):
            raw = io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=raw)), 2**20)
        text = io.TextIOWrapper(raw, encoding=find_encoding(raw.peek(4)[:4]), newline="")
        # Control characters within strings are common, and clear.
        decoder = json.JSONDecoder(strict=False)
        yield from (
            _read_csv(uri, text, options)
            if suffix in CSV_SUFFIXES
            else read_records(uri, (decoder.decode(line.strip()) for line in text if line.strip()), options)
        )


def find_encoding(head: bytes) -> str:
    """Encoding of a table by its first bytes."""
    return next((name for mark, name in ENCODINGS.items() if head.startswith(mark)), "utf-8-sig")


def read_records(uri: str, records: Iterable[Mapping[str, Any]], options: TableOptions) -> Iterator[Entry]:
    """Read the records of JSON lines, or of a list in JSON.

    Raises:
        ValueError: They lack a column.
    """
    rest = iter(records)
    first = list(islice(rest, NUM_PEEKED))
    columns = _choose(list(dict.fromkeys(name for record in first for name in record)), options)
    for number, record in enumerate(chain(first, rest)):
        path = record.get(columns.path)
        yield Entry(
            f"'{uri}', record {number}",
            path.get("path") if isinstance(path, Mapping) else path,
            _to_text(record.get(columns.key)) if columns.key else None,
            _get_field(record, columns.tags),
            is_text=False,
        )


def _read_csv(uri: str, text: io.TextIOWrapper, options: TableOptions) -> Iterator[Entry]:
    csv.field_size_limit(MAX_CELL_LETTERS)
    first = text.readline()
    marks = "\t" if get_suffix(uri) == ".tsv" else ",\t;|"
    headers = {mark: next(csv.reader([first], delimiter=mark), []) for mark in marks}
    delimiter = max(headers, key=lambda mark: len(headers[mark]))
    names = [name.strip() for name in headers[delimiter]]
    path, tags, key = (names.index(name) if name else None for name in _choose(names, options))
    assert path is not None
    for number, cells in enumerate(filter(None, csv.reader(text, delimiter=delimiter))):
        yield Entry(
            f"'{uri}', row {number}",
            cells[path].strip() or None,
            None if key is None else cells[key],
            None if tags is None else cells[tags],
            is_text=True,
        )


def _read_parquet(uri: str, options: TableOptions) -> Iterator[Entry]:
    with closing(open_random(uri)) as stream:
        file = pq.ParquetFile(stream)
        schema = file.schema_arrow
        partitions = {name: value for name, value in _list_partitions(uri) if name not in schema.names}
        class_columns = _list_class_columns(schema)
        columns = _choose([*schema.names, *partitions], options, class_columns)
        class_names = class_columns.get(columns.tags or "")
        wanted = [name for name in dict.fromkeys(columns) if name and name in schema.names]
        number = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=_skip_bytes(schema, wanted), use_threads=False):
            for cells in batch.to_pylist():
                record = partitions | cells
                path = record[columns.path]
                yield Entry(
                    f"'{uri}', row {number}",
                    path["path"] if isinstance(path, Mapping) else path,
                    _to_text(record[columns.key]) if columns.key else None,
                    _get_field(record, columns.tags),
                    is_text=columns.tags in partitions,
                    class_names=class_names,
                )
                number += 1


def _list_partitions(uri: str) -> Iterator[tuple[str, str | None]]:
    """Columns that the folders of a file give to its rows: `class=dog/part.parquet`."""
    is_web = uri.lower().startswith(WEB)
    for folder in (uri.partition("?")[0] if is_web else uri).split("/")[:-1]:
        name, separator, value = (unquote(folder) if is_web else folder).partition("=")
        if separator and name:
            yield unquote(name), None if value == NULL_PARTITION else unquote(value)


def _skip_bytes(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """Columns to read: of a struct of an image its path alone."""
    return [f"{name}.path" if pa.types.is_struct(schema.field(name).type) and _is_image(schema, name) else name
            for name in names]  # fmt: skip


def _is_image(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    return kind.get_field_index("path") >= 0 and kind.get_field_index("bytes") >= 0


def _list_class_columns(schema: pa.Schema) -> dict[str, ClassNames]:
    """Columns that are, or hold, Hugging Face's ClassLabel."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (LookupError, TypeError, ValueError):
        return {}
    found = {column: dict(_find_names(feature, "")) for column, feature in features.items()}
    return {column: names for column, names in found.items() if names}


def _find_names(feature: Any, field: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Find the names of each ClassLabel within a feature, by the field that holds it; empty for the column itself."""
    if isinstance(feature, list):
        for inner in feature:
            yield from _find_names(inner, field)
    elif isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel":
        if isinstance(feature.get("names"), list):
            yield field, feature["names"]
    elif isinstance(feature, Mapping):
        for name, inner in feature.items():
            # Of a list, whatever its version calls it.
            yield from _find_names(inner, field if name == "feature" else name)


def _choose(
    names: Sequence[str], options: TableOptions, class_columns: Mapping[str, ClassNames] = MappingProxyType({})
) -> _Columns:
    """Choose the columns of paths, tags and keys.

    Raises:
        ValueError: There is none of paths, or none of tags.
    """
    by_folded = {name.strip().casefold(): name for name in reversed(names)}
    found = [by_folded[name] for name in PATH_COLUMNS if name in by_folded]
    path = options.image_column or next(iter(found), None)
    if path is None or path not in names:
        raise ValueError(f"the audit finds no column of paths among {list(names)[:20]}")
    is_default = options.tags_field == DEFAULT_TAGS_FIELD
    fields = TAGS_COLUMNS if is_default else (options.tags_field, options.tags_field.partition(".")[0])
    tags = next((name for name in fields if name in names), None)
    if tags is None and is_default and len(only := [name for name, found in class_columns.items() if "" in found]) == 1:
        tags = only[0]
    if tags is None and not options.has_tags_table:
        raise ValueError(f"the audit finds no column of tags among {list(names)[:20]}")
    tags = options.tags_field if tags and not is_default else tags
    return _Columns(path, tags, options.key_column or next((name for name in KEY_COLUMNS if name in names), None))


def _get_field(record: Mapping[str, Any], name: str | None) -> Any:
    """Value of a field, which may lie within others: `meta.tags`."""
    if name is None or name in record:
        return None if name is None else record[name]
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _to_text(value: Any) -> str | None:
    return None if value is None else str(value)


class _Raw(io.RawIOBase):
    """Stream of a store as Python's buffers read it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
