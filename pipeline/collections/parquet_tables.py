"""Parquet files whose images are paths: tables of paths, and Hugging Face's image structs without bytes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.collections.columns import choose_columns, find_path_column
from pipeline.collections.rows import NamedImage
from pipeline.errors import ShardError, is_store_failure
from pipeline.inputs.parquet_pages import HostilePageError, PageGuard, PageLimits
from pipeline.inputs.parquet_reader import BUFFER_BYTES, IMAGE_COLUMNS, KEYS_NEED, LARGE_COLUMN_BYTES
from pipeline.inputs.sample_tags import read_tag_value
from pipeline.inputs.tables.partitions import Partitions
from pipeline.inputs.tag_values.columns import find_labels, holds_keys
from pipeline.run.config import InputConfig
from pipeline.storage.reading import open_random

BATCH_ROWS = 1024
MIN_BATCH_ROWS = 16
"""Rows in memory at a time."""
NUM_PEEKED = 16
"""Rows whose images are looked at where the file has no counts of nulls."""


def is_path_table(uri: str, config: InputConfig) -> bool:
    """Check whether a Parquet file names its images by paths: it has a column of paths and no bytes of images.

    Raises:
        ShardError: It is no readable Parquet file.
        OSError: The store failed.
    """
    with _open(uri) as (file, guard):
        schema = file.schema_arrow
        names = IMAGE_COLUMNS if config.image_column is None else (config.image_column,)
        for name in names:
            if name not in schema.names:
                continue
            kind = schema.field(name).type
            if _is_bytes(kind):
                return False
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                return kind.get_field_index("path") >= 0 and not _has_bytes(file, guard, name)
        path = find_path_column(schema.names, config)
        return path is not None and _is_path(schema.field(path).type)


def read_parquet_table(uri: str, config: InputConfig) -> Iterator[NamedImage]:
    """Read the rows of a table of paths.

    Raises:
        ShardError: It is no readable Parquet file, or has not the columns.
        OSError: The store failed.
    """
    with _open(uri) as (file, guard):
        partitions = Partitions(uri, file.schema_arrow)
        schema = partitions.schema
        columns = choose_columns(uri, schema.names, config)
        if not _is_path(schema.field(columns.path).type):
            raise ShardError(
                f"table '{uri}': column '{columns.path}' holds {schema.field(columns.path).type}, need paths as text"
            )
        if columns.key and not holds_keys(schema.field(columns.key).type):
            raise ShardError(
                f"table '{uri}': column '{columns.key}' holds {schema.field(columns.key).type}, need {KEYS_NEED}; or "
                "name another one by --inputs.key-column"
            )
        labels = _find_labels(schema, columns.tags, config)
        wanted = list(dict.fromkeys(filter(None, columns)))
        own = partitions.select_own(wanted)
        number = 0
        for group in range(file.num_row_groups):
            guard.expect(file, group, own)
            # Each row that refers to a large value of a dictionary gets a copy of it.
            num_rows = LARGE_COLUMN_BYTES // max(guard.count_shared_bytes(max_unread=0), 1)
            num_rows = min(max(num_rows, MIN_BATCH_ROWS), BATCH_ROWS)
            for part in file.iter_batches(num_rows, row_groups=[group], columns=own, use_threads=False):
                batch = partitions.complete(part, wanted)
                paths = batch.column(columns.path)
                if pa.types.is_struct(paths.type):
                    paths = pc.struct_field(paths, "path")
                keys = batch.column(columns.key).to_pylist() if columns.key else [None] * batch.num_rows
                tags = batch.column(columns.tags).to_pylist() if columns.tags else [None] * batch.num_rows
                for path, key, value in zip(paths.to_pylist(), keys, tags, strict=True):
                    yield NamedImage(
                        f"{uri}, row {number}",
                        path,
                        None if key is None else str(key),
                        _name_classes(f"{uri}, row {number}", _to_plain(value), labels, config),
                    )
                    number += 1


def _has_bytes(file: pq.ParquetFile, guard: PageGuard, name: str) -> bool:
    """Check whether any row has an image: by the counts of nulls, or by the first rows."""
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        for place in range(metadata.num_columns):
            column = metadata.column(place)
            if column.path_in_schema != f"{name}.bytes":
                continue
            statistics = column.statistics
            if statistics is None or not statistics.has_null_count:
                guard.expect(file, group, [name])
                batch = next(file.iter_batches(NUM_PEEKED, row_groups=[group], columns=[name], use_threads=False), None)
                return batch is not None and pc.struct_field(batch.column(0), "bytes").null_count < batch.num_rows
            if statistics.null_count < metadata.num_rows:
                return True
    return False


def _is_path(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("path") >= 0
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _find_labels(schema: pa.Schema, column: str | None, config: InputConfig) -> tuple[str, ...] | None:
    """Names of class numbers by Hugging Face's metadata; None without them, or if an option says what numbers mean."""
    if column is None or config.class_names is not None or config.multi_hot:
        return None
    return find_labels(schema, column)


def _name_classes(where: str, value: Any, labels: Sequence[str] | None, config: InputConfig) -> Any:
    """Replace class numbers by their names; a value that cannot be read stays, and its row is rejected later."""
    if labels is None or value is None:
        return value
    found = read_tag_value(where, value, config, labels)
    return value if found.error else list(found.tags)


def _to_plain(value: Any) -> Any:
    """Turn a value of Arrow into plain JSON; maps become objects."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _to_plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(entry, tuple) and len(entry) == 2 for entry in value):
            return {str(name): _to_plain(inner) for name, inner in value}
        return [_to_plain(entry) for entry in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@contextmanager
def _open(uri: str) -> Iterator[tuple[pq.ParquetFile, PageGuard]]:
    """Open a file; turn errors of its content, but not of the store, into a `ShardError`."""
    try:
        with closing(open_random(uri)) as stream:
            guard = PageGuard(stream, PageLimits())
            yield (
                pq.ParquetFile(guard, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True),
                guard,
            )
    except FileNotFoundError as error:
        raise ShardError(f"'{uri}' does not exist; check the path") from error
    except (HostilePageError, UnicodeDecodeError) as error:
        raise ShardError(f"'{uri}' cannot be read: {error}; write it again") from error
    except (pa.ArrowException, OSError) as error:
        if is_store_failure(error):
            raise
        text = " ".join(str(error).split())
        raise ShardError(f"'{uri}' is no readable Parquet file: {text}; copy it again or leave it out") from error
