"""Parquet files whose images are paths: tables of paths, and Hugging Face's image structs without bytes."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.collections.columns import choose_columns, find_path_column
from pipeline.collections.rows import NamedImage
from pipeline.errors import ShardError, is_store_failure
from pipeline.inputs.parquet_pages import HostilePageError, PageGuard, PageLimits
from pipeline.inputs.parquet_reader import BUFFER_BYTES, IMAGE_COLUMNS
from pipeline.run.config import InputConfig
from pipeline.storage.reading import open_random

BATCH_ROWS = 1024
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
        schema = file.schema_arrow
        columns = choose_columns(uri, schema.names, config)
        if not _is_path(schema.field(columns.path).type):
            raise ShardError(
                f"table '{uri}': column '{columns.path}' holds {schema.field(columns.path).type}, need paths as text"
            )
        class_names = _find_class_names(schema, columns.tags) if columns.tags else None
        wanted = list(dict.fromkeys(filter(None, columns)))
        number = 0
        for group in range(file.num_row_groups):
            guard.expect(file, group, wanted)
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False):
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
                        _name_classes(_to_plain(value), class_names),
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


def _find_class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Names of a column of Hugging Face's ClassLabel, or of a list of them; None for other columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[column]
        while "names" not in feature and ("feature" in feature or isinstance(feature, list)):
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
        names = feature["names"] if feature.get("_type") == "ClassLabel" else None
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _name_classes(value: Any, names: list[str] | None) -> Any:
    """Replace class numbers by their names; -1 is no class, as Hugging Face writes it."""
    if names is None or value is None:
        return value
    if isinstance(value, list):
        found = [_name_classes(entry, names) for entry in value]
        return [name for name in found if name is not None]
    if not isinstance(value, int) or value == -1:
        return None
    return names[value] if 0 <= value < len(names) else f"class {value} of {len(names)}"


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
