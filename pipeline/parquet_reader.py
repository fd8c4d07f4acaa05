"""Parquet files as a sequence of samples: one a row, read by row group, so that what is done is not read again."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import InputConfig
from pipeline.errors import ShardError
from pipeline.records import InputShard, Sample
from pipeline.sample_tags import find_download_error, read_tag_value
from pipeline.storage import open_stream

KEY_COLUMNS = ("key", "__key__")
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp")
STATUS_COLUMNS = ("status", "error_message")
"""What img2dataset says of an image that it could not load."""
ROWS_PER_READ = 32
"""Rows decoded at a time: at 5 MB an image 160 MB."""
BUFFER_BYTES = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a file hold what."""

    image: str
    tags: str
    key: str | None
    """None: rows are known by their number."""
    status: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        return [self.image, self.tags, *([self.key] if self.key else []), *self.status]


def read_parquet_samples(shard: InputShard, config: InputConfig, start_row: int = 0) -> Iterator[tuple[int, Sample]]:
    """Read the samples of a Parquet file from a row on, each with the number of its row.

    Row groups before that row are not read.

    Raises:
        ShardError: There is no such shard, it is no Parquet file, or a column is missing or of a wrong type.
    """
    try:
        stream = open_stream(shard.uri)
    except FileNotFoundError as error:
        raise ShardError(f"shard '{shard.uri}' does not exist; it was there when it was listed") from error
    with closing(stream):
        file = _open(shard, stream)
        columns = _choose_columns(shard, file.schema_arrow, config)
        first_group, row = _find_group(file, start_row)
        groups = list(range(first_group, file.num_row_groups))
        try:
            for batch in file.iter_batches(ROWS_PER_READ, row_groups=groups, columns=columns.names):
                skipped = max(0, start_row - row)
                for number, fields in enumerate(batch.slice(skipped).to_pylist(), start=row + skipped):
                    yield number, _make_sample(number, fields, columns)
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"shard '{shard.uri}' breaks off behind row {row}: {error}; copy it again") from error


def _open(shard: InputShard, stream: Any) -> pq.ParquetFile:
    try:
        # With a buffer the pages of a column are read one after the other, and not a whole row group at once.
        return pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"shard '{shard.uri}' is no Parquet file: {error}; copy it again or leave it out") from error


def _find_group(file: pq.ParquetFile, start_row: int) -> tuple[int, int]:
    """Give the row group that holds a row, and the number of that group's first row."""
    first = 0
    for group in range(file.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        if start_row < first + num_rows:
            return group, first
        first += num_rows
    return file.num_row_groups, first


def _choose_columns(shard: InputShard, schema: pa.Schema, config: InputConfig) -> Columns:
    image = _choose(shard, schema, "image", config.image_column, IMAGE_COLUMNS, "--inputs.image-column")
    kind = schema.field(image).type
    if not _is_binary(kind) and not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise ShardError(
            f"shard '{shard.uri}': column '{image}' is {kind}, need bytes or struct{{bytes, path}}; "
            "name another one by --inputs.image-column"
        )
    key = config.key_column or next((name for name in KEY_COLUMNS if name in schema.names), None)
    if key is not None:
        _choose(shard, schema, "key", key, (), "--inputs.key-column")
    return Columns(
        image=image,
        tags=_choose(shard, schema, "tags", config.tags_field, (), "--inputs.tags-field"),
        key=key,
        status=STATUS_COLUMNS if all(name in schema.names for name in STATUS_COLUMNS) else (),
    )


def _choose(
    shard: InputShard, schema: pa.Schema, what: str, wanted: str | None, usual: Sequence[str], option: str
) -> str:
    """Give the wanted column, or the first of the usual ones."""
    for name in [wanted] if wanted else usual:
        if name in schema.names:
            return name
    raise ShardError(
        f"shard '{shard.uri}' has no column {' or '.join(repr(name) for name in ([wanted] if wanted else usual))} for "
        f"the {what}; its columns: {', '.join(schema.names)}; name one by {option}"
    )


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _make_sample(number: int, fields: dict[str, Any], columns: Columns) -> Sample:
    key = f"{number:09d}" if columns.key is None or fields[columns.key] is None else str(fields[columns.key])
    image = fields[columns.image]
    image = image["bytes"] if isinstance(image, dict) else image
    found = read_tag_value(f"row {number}", fields[columns.tags], columns.tags)
    return Sample(
        key=key,
        image=image,
        image_name=columns.image if image is not None else "",
        tags=found.tags,
        class_numbers=found.class_numbers,
        tags_error=found.error,
        download_error=find_download_error(fields) if image is None and columns.status else "",
    )
