"""Parquet files as sequences of samples: one per row, read by row group in small batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice, pairwise, repeat
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ColumnError, ShardError, is_store_failure
from pipeline.inputs.parquet_pages import HostilePageError, PageGuard, PageLimits
from pipeline.inputs.sample_tags import SMALL_COLUMN_BYTES, SampleTags, find_download_error, read_tag_cells
from pipeline.inputs.tables.partitions import Partitions
from pipeline.inputs.tag_values.columns import (
    TAGS_NEED,
    find_labels,
    find_needed_option,
    holds_keys,
    holds_tags,
    is_text,
    list_label_columns,
)
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard, Sample, describe_oversized_image
from pipeline.storage.reading import ByteStream, open_random

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
TAGS_COLUMNS = ("tags", "txt", "caption")
"""Columns searched for tags while `tags_field` has its default; the later names are img2dataset's."""
KEY_COLUMNS = ("key", "__key__")
KEYS_NEED = "text or whole numbers (cast it to one of these)"
MAX_COLUMNS_SHOWN = 20

BATCH_ROWS = 16
"""Rows in memory at a time, besides pages (whose size the writer chose) and buffers."""
BUFFER_BYTES = 8 * 2**20
"""Bytes fetched of a column at a time. Without a buffer all images of a row group would be fetched at once."""
MAX_UNBUFFERED = 8
"""Row groups are fetched without a buffer if the needed columns take at most as many buffers."""
LARGE_COLUMN_BYTES = 64 * 2**20
"""Bytes of a column in memory at a time: less than `BATCH_ROWS` rows if their mean or a dictionary is large."""
MAX_KEY_LETTERS = 4096
"""Maximum letters of a key, as of a path: keys are kept in rows and messages."""


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Names of the columns to read, by their role; None for missing ones."""

    image: str
    tags: str | None
    labels: tuple[str, ...] | None
    """Names of the class numbers of the tags, by the file's metadata."""
    key: str | None
    status: str | None
    error_message: str | None

    def list_names(self) -> list[str]:
        names = (self.image, self.tags, self.key, self.status, self.error_message)
        return list(dict.fromkeys(name for name in names if name is not None))


def read_parquet_samples(
    shard: InputShard,
    config: InputConfig,
    start_row: int = 0,
    *,
    limits: PageLimits = PageLimits(),  # noqa: B008 (frozen)
    buffer_bytes: int = BUFFER_BYTES,
) -> Iterator[tuple[int, Sample]]:
    """Read the samples of a Parquet file from a row, each with its row number.

    Earlier row groups and other columns are not read.

    Args:
        shard: The file.
        config: Settings of the reader.
        start_row: Number of the first row.
        limits: Limits of a page; images up to the limit of `config` are always allowed.
        buffer_bytes: Bytes fetched of a column at a time.

    Raises:
        ShardError: The file does not exist, it is damaged, or a column is missing or of a wrong type.
        StorageError: The store failed.
    """
    with open_parquet(shard) as stream:
        # A page contains at least one value.
        limits = replace(limits, max_page_bytes=max(limits.max_page_bytes, config.max_image_bytes))
        yield from _read_rows(shard, PageGuard(stream, limits), config, start_row, buffer_bytes)


def count_parquet_rows(shard: InputShard) -> int:
    """Number of rows of a Parquet file, from its footer.

    Raises:
        ShardError: The file does not exist or is damaged.
        StorageError: The store failed.
    """
    with open_parquet(shard) as stream:
        return pq.ParquetFile(stream).metadata.num_rows


@contextmanager
def open_parquet(shard: InputShard) -> Iterator[ByteStream]:
    """Open a file; turn errors of its content, but not of the store, into a `ShardError`."""
    try:
        stream = open_random(shard.uri)
    except FileNotFoundError as error:
        raise ShardError(f"shard '{shard.uri}' does not exist; it was there when it was listed") from error
    with closing(stream):
        try:
            yield stream
        except HostilePageError as error:
            raise ShardError(f"shard '{shard.uri}' cannot be read: {error}, or leave it out") from error
        except (pa.ArrowException, OSError) as error:
            if is_store_failure(error):
                raise
            raise _make_file_error(shard, " ".join(str(error).split())) from error


def _read_rows(
    shard: InputShard, stream: PageGuard, config: InputConfig, start_row: int, buffer_bytes: int
) -> Iterator[tuple[int, Sample]]:
    open_file = partial(pq.ParquetFile, stream, pre_buffer=False, page_checksum_verification=True)
    file = open_file(buffer_size=buffer_bytes)
    # Reads each column of a row group at once, which saves a copy of it.
    unbuffered = open_file(metadata=file.metadata)
    partitions = Partitions(shard.uri, file.schema_arrow)
    columns = _choose_columns(shard, partitions, config)
    if columns.key in partitions and file.metadata.num_rows > 1:
        raise ColumnError(
            f"shard '{shard.uri}': key column '{columns.key}' is a folder of its path, one key for all "
            f"{file.metadata.num_rows} rows; name another one by --inputs.key-column, or leave it out for row numbers"
        )
    names = columns.list_names()
    own_names = partitions.select_own(names)
    stop_row = 0
    for group in range(file.num_row_groups):
        row = stop_row
        stop_row += file.metadata.row_group(group).num_rows
        if stop_row <= start_row:
            continue
        stream.expect(file, group, own_names)
        num_rows = choose_batch_rows(file.metadata.row_group(group), stream)
        reader = unbuffered if stream.num_expected_bytes <= MAX_UNBUFFERED * buffer_bytes else file
        for own in reader.iter_batches(num_rows, row_groups=[group], columns=own_names, use_threads=False):
            batch = partitions.complete(own, names)
            yield from _make_samples(batch, max(start_row - row, 0), row, columns, config)
            row += batch.num_rows
        if row != stop_row:
            raise _make_file_error(shard, f"it ends at row {row}, its footer claims more")


def choose_batch_rows(group: pq.RowGroupMetaData, stream: PageGuard) -> int:
    """Number of rows in memory at a time: each row that refers to a large dictionary value gets a copy of it."""
    sizes = [group.column(place).total_uncompressed_size for place in range(group.num_columns)]
    row_bytes = max(sizes, default=0) // max(group.num_rows, 1)
    value_bytes = max(row_bytes, stream.count_shared_bytes(LARGE_COLUMN_BYTES) // BATCH_ROWS)
    return min(max(LARGE_COLUMN_BYTES // max(value_bytes, 1), 1), BATCH_ROWS)


def _make_file_error(shard: InputShard, reason: str) -> ShardError:
    return ShardError(f"shard '{shard.uri}' is no readable Parquet file: {reason}; copy it again or leave it out")


def _make_samples(
    batch: pa.RecordBatch, start: int, first_row: int, columns: _Columns, config: InputConfig
) -> Iterator[tuple[int, Sample]]:
    """Make the samples of a batch, from a place in it, each with its row number."""
    tags: Iterable[SampleTags] = repeat(SampleTags())
    if columns.tags is not None:
        tags = read_tag_cells(columns.tags, batch.column(columns.tags), config, columns.labels)
    keys, statuses, messages = (
        _read_cells(batch, name) for name in (columns.key, columns.status, columns.error_message)
    )
    images = view_images(batch.column(columns.image))
    limit = config.max_image_bytes
    sizes = [len(image) for image in images if image is not None]
    # A view keeps the memory of all images of its batch.
    is_shared = max(sizes, default=0) <= limit and sum(sizes) <= LARGE_COLUMN_BYTES
    rows = zip(count(first_row), images, keys, tags, statuses, messages)
    for row, image, key, found, status, message in islice(rows, start, None):
        num_bytes = 0 if image is None else len(image)
        sample = Sample(
            key=f"{row:09d}" if key is None or key == "" else _require_short_key(str(key), row),
            image=image if is_shared else _copy_up_to(limit, image),
            image_name="" if image is None else columns.image,
            image_bytes=num_bytes,
            image_offset=None if image is None else row,
            image_error="" if num_bytes <= limit else describe_oversized_image(num_bytes, limit),
            no_image_error="" if image is not None else _describe_path(batch, columns.image, row - first_row),
            tags=found.tags,
            class_numbers=found.class_numbers,
            tags_error=found.error,
        )
        if image is None:
            sample.download_error = find_download_error({"status": status, "error_message": message})
        yield row, sample


def _describe_path(batch: pa.RecordBatch, column: str, place: int) -> str:
    """Message for a row without the bytes of its image; empty if it has no path either."""
    cell = batch.column(column)[place].as_py()
    path = cell.get("path") if isinstance(cell, dict) else None
    return f"only its path is there, '{str(path)[:MAX_KEY_LETTERS]}', no bytes" if path else ""


def _copy_up_to(limit: int, image: memoryview | None) -> bytes | None:
    return None if image is None or len(image) > limit else bytes(image)


def view_images(cells: pa.Array) -> list[memoryview | None]:
    """Views of the bytes in a column, without a copy."""
    if pa.types.is_struct(cells.type):
        cells = pc.struct_field(cells, "bytes")
    if not len(cells):
        return []
    if not pa.types.is_binary(cells.type):
        cells = cells.cast(pa.large_binary())
    _, ends, content = cells.buffers()
    places = np.frombuffer(ends, np.int32 if pa.types.is_binary(cells.type) else np.int64)[cells.offset :][
        : len(cells) + 1
    ].tolist()
    view = memoryview(content or b"").cast("B").toreadonly()
    views: list[memoryview | None] = [view[start:stop] for start, stop in pairwise(places)]
    if cells.null_count:
        return [one if is_valid else None for one, is_valid in zip(views, cells.is_valid().to_pylist(), strict=True)]
    return views


def _require_short_key(key: str, row: int) -> str:
    if len(key) > MAX_KEY_LETTERS:
        raise HostilePageError(
            f"the key of row {row} has {len(key)} letters, limit {MAX_KEY_LETTERS}; write shorter ones"
        )
    return key


def _read_cells(batch: pa.RecordBatch, name: str | None) -> Iterable[Any]:
    """Read a column; None for cells that are null or not UTF-8, and for those of a missing column, without end."""
    if name is None:
        return repeat(None)
    cells = batch.column(name)
    # One large text at a time.
    if cells.nbytes <= SMALL_COLUMN_BYTES:
        with suppress(UnicodeDecodeError):
            return cast(list[Any], cells.to_pylist())
    return (_read_cell(cell) for cell in cells)


def _read_cell(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return None


def _choose_columns(shard: InputShard, partitions: Partitions, config: InputConfig) -> _Columns:
    schema = partitions.schema

    def require(option: str, names: Sequence[str], holds: Callable[[pa.DataType], bool], need: str) -> str:
        return _require_column(shard, schema, option, names, holds, need)

    def look_for(names: Sequence[str], holds: Callable[[pa.DataType], bool]) -> str | None:
        there = [name for name in names if schema.names.count(name) == 1 and name not in partitions]
        return next((name for name in there if holds(schema.field(name).type)), None)

    # With a table of tags the shard needs none.
    tags = _choose_tags_column(shard, schema, config) if config.tags_table is None else None
    key = look_for(KEY_COLUMNS, holds_keys)
    if config.key_column is not None or (key is None and partitions.select_own(list({*KEY_COLUMNS} & {*schema.names}))):
        # Row numbers in place of keys that cannot be read would be keys of nobody.
        names = KEY_COLUMNS if config.key_column is None else (config.key_column,)
        key = require("--inputs.key-column", names, holds_keys, KEYS_NEED)
    return _Columns(
        image=choose_image_column(shard, schema, config),
        tags=tags,
        labels=None if tags is None else find_labels(schema, tags),
        key=key,
        status=look_for(("status",), is_text),
        error_message=look_for(("error_message",), is_text),
    )


def choose_image_column(shard: InputShard, schema: pa.Schema, config: InputConfig) -> str:
    """Find the column of the images.

    Raises:
        ColumnError: There is none.
    """
    names = IMAGE_COLUMNS if config.image_column is None else (config.image_column,)
    return _require_column(shard, schema, "--inputs.image-column", names, _holds_image, "bytes, or struct{bytes, path}")


def _choose_tags_column(shard: InputShard, schema: pa.Schema, config: InputConfig) -> str:
    """Find the column of the tags.

    Raises:
        ColumnError: None fits, or none of its values can be read without an option.
    """
    names: tuple[str, ...] = (config.tags_field,)
    if config.tags_field == TAGS_COLUMNS[0]:
        names, labels = TAGS_COLUMNS, list_label_columns(schema)
        if len(labels) == 1 and not set(names) & set(schema.names):
            names = (labels[0],)
    first = config.tags_field.partition(".")[0]
    if config.tags_field not in schema.names and first in schema.names:
        raise ColumnError(
            f"shard '{shard.uri}': a field of column '{first}' is no column; give --inputs.tags-field {first} if it "
            "holds records with a name or a category"
        )
    found = _require_column(shard, schema, "--inputs.tags-field", names, holds_tags, TAGS_NEED)
    if needed := find_needed_option(schema.field(found).type, config, find_labels(schema, found)):
        raise ColumnError(f"shard '{shard.uri}': column '{found}' holds {needed}")
    return found


def _require_column(
    shard: InputShard,
    schema: pa.Schema,
    option: str,
    names: Sequence[str],
    holds: Callable[[pa.DataType], bool],
    need: str,
) -> str:
    """Find the first existing column of the candidates for an option.

    Raises:
        ColumnError: None exists, several have the same name, or its type is wrong.
    """
    there = ", ".join(f"'{name}'" for name in schema.names[:MAX_COLUMNS_SHOWN]) or "none"
    advice = f"name one of its columns by {option}: {there}"
    found = next((name for name in names if name in schema.names), None)
    if found is None:
        wanted = " or ".join(f"'{name}'" for name in names)
        raise ColumnError(f"shard '{shard.uri}' has no column {wanted}; {advice}")
    if schema.names.count(found) > 1:
        raise ColumnError(f"shard '{shard.uri}' has several columns '{found}'; {advice}")
    kind = schema.field(found).type
    if not holds(kind):
        raise ColumnError(f"shard '{shard.uri}': column '{found}' holds {kind}, need {need}; {advice}")
    return found


def _holds_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_binary(kind.field(place).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_null(kind)
