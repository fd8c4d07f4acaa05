"""Images of rows of a Parquet file, by row number: of their row groups, only the column of the images is read."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow.parquet as pq

from pipeline.errors import ShardError
from pipeline.inputs.parquet_pages import PageGuard, PageLimits
from pipeline.inputs.parquet_reader import (
    BUFFER_BYTES,
    choose_batch_rows,
    choose_image_column,
    open_parquet,
    view_images,
)
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard


def count_group_rows(shard: InputShard) -> list[int]:
    """Number of rows of each row group of a file, from its footer.

    Raises:
        ShardError: The file does not exist or is damaged.
        StorageError: The store failed.
    """
    with open_parquet(shard) as stream:
        metadata = pq.ParquetFile(stream).metadata
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def read_parquet_images(shard: InputShard, config: InputConfig, rows: Iterable[int]) -> Iterator[bytes | None]:
    """Read the images of rows, as they are asked for; one batch of a row group is in memory at a time.

    Args:
        shard: The file.
        config: Settings of the reader.
        rows: Numbers of the rows, ascending.

    Yields:
        The encoded image of each row, in order; None for a row without one.

    Raises:
        ShardError: The file does not exist, is damaged, or lacks the column or a row.
        StorageError: The store failed.
    """
    with open_parquet(shard) as stream:
        limits = PageLimits()
        limits = replace(limits, max_page_bytes=max(limits.max_page_bytes, config.max_image_bytes))
        guard = PageGuard(stream, limits)
        file = pq.ParquetFile(guard, pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True)
        column = choose_image_column(shard, file.schema_arrow, config)
        remaining = iter(rows)
        row = next(remaining, None)
        start = 0
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            if row is not None and row < start + num_rows:
                for first, views in _iterate_images(file, guard, group, column):
                    while row is not None and row < start + first + len(views):
                        view = views[row - start - first]
                        yield None if view is None else bytes(view)
                        row = next(remaining, None)
                    if row is None or row >= start + num_rows:
                        break
            start += num_rows
        if row is not None:
            raise ShardError(f"shard '{shard.uri}' has {start} rows, row {row} was labelled; put the old file back")


def _iterate_images(
    file: pq.ParquetFile, guard: PageGuard, group: int, column: str
) -> Iterator[tuple[int, list[memoryview | None]]]:
    """Images of a row group, batch by batch, each with the place of its first row in the group."""
    guard.expect(file, group, [column])
    batch_rows = choose_batch_rows(file.metadata.row_group(group), guard)
    first = 0
    for batch in file.iter_batches(batch_rows, row_groups=[group], columns=[column], use_threads=False):
        yield first, view_images(batch.column(0))
        first += batch.num_rows
