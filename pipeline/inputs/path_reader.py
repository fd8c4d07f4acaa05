"""Index shards: Parquet files whose rows name images that lie elsewhere, fetched ahead, in order.

`pipeline/collections` writes them. A row that names no readable image is a sample without an image and its reason; a
failure of a store is raised, so that outages are waited out.
"""

import io
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import PathError, ShardError
from pipeline.inputs.allowed_places import is_allowed, is_web_uri
from pipeline.inputs.sample_tags import SampleTags, read_tag_value
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard, Reason, Sample, describe_oversized_image
from pipeline.storage.bulk.web import OversizedFileError, WebFileError, read_web_file
from pipeline.storage.listing import find_object
from pipeline.storage.reading import read_bytes, read_head, start_read

INDEX_MARK = b"tagmask_index"
"""Key of the schema metadata of an index shard; its value is the version of the format."""
INDEX_VERSION = b"1"
INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("path", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("tags", pa.string()),
        ("problem", pa.string()),
    ],
    metadata={INDEX_MARK: INDEX_VERSION},
)
"""One row per sample: the path as it was written and the URI that it leads to; size and etag where a listing knows
them; the tags as JSON, null if there are none; why there is no image, null if there may be one."""

MAX_AHEAD = 128
"""Images that are requested ahead. The client of S3 has 64 connections: enough for 1,000 images a second from a store
that takes 50 ms to reply."""
NUM_THREADS = 16
"""Images that are fetched at a time from local disks, web servers, and stores whose client needs a thread a request."""
WINDOW_BYTES = 64 * 2**20
"""Images in flight hold at most about this many bytes, or are one."""
ASSUMED_BYTES = 2**20
"""Size that counts towards a chunk for an image of unknown size."""
FIRST_READ_BYTES = 4 * 2**20
"""Bytes in flight that count for an image of unknown size: a larger one takes two more requests."""


class FetchedImage(NamedTuple):
    """An image, or why it is missing."""

    image: bytes | None = None
    reason: str = ""
    error: str = ""


def read_index_samples(shard: InputShard, config: InputConfig, start_row: int = 0) -> Iterator[tuple[int, Sample]]:
    """Read the samples of an index shard from a row, each with its row number.

    Raises:
        ShardError: The file is no index shard of this version.
        OSError: A store failed.
    """
    rows = read_index(shard.uri).to_pylist()[start_row:]
    for number, (row, fetched) in enumerate(fetch_ahead(rows, config), start_row):
        yield number, _make_sample(row, fetched, config)


def read_index(uri: str) -> pa.Table:
    """Read all rows of an index shard; there are few, and they are short.

    Returns:
        Table with the columns of `INDEX_SCHEMA`.

    Raises:
        ShardError: The file is missing, or is no index shard of this version.
        OSError: The store failed.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(read_bytes(uri)))
        if (file.schema_arrow.metadata or {}).get(INDEX_MARK) != INDEX_VERSION:
            raise ShardError(f"'{uri}' is no index of this version of tagmask; use the one that wrote it")
        return file.read(INDEX_SCHEMA.names)
    except FileNotFoundError as error:
        raise ShardError(f"index '{uri}' does not exist; it was there when it was listed") from error
    except pa.ArrowException as error:
        raise ShardError(f"index '{uri}' cannot be read: {error}; put the old file back") from error


class _Pending(NamedTuple):
    """An image on its way."""

    row: dict[str, Any]
    num_bytes: int
    read: Future[bytes] | None
    """None if the row alone tells that there is no image to read."""


def fetch_ahead(rows: Iterable[dict[str, Any]], config: InputConfig) -> Iterator[tuple[dict[str, Any], FetchedImage]]:
    """Fetch the images of rows ahead; yield them in order.

    Args:
        rows: With the fields `uri`, `size_bytes` and `problem` of `INDEX_SCHEMA`, and any others.
        config: Places that may be read, and the largest image.

    Raises:
        OSError: A store failed.
    """
    pending: deque[_Pending] = deque()
    num_bytes = 0
    pool = ThreadPoolExecutor(max_workers=NUM_THREADS, thread_name_prefix="fetch")
    try:
        for row in rows:
            size = FIRST_READ_BYTES if _has_unknown_size(row) else _count_bytes(row)
            while pending and (len(pending) >= MAX_AHEAD or num_bytes + size > WINDOW_BYTES):
                first = pending.popleft()
                num_bytes -= first.num_bytes
                yield first.row, _finish(first, config)
            pending.append(_Pending(row, size, _start(row, config, pool)))
            num_bytes += size
        while pending:
            first = pending.popleft()
            yield first.row, _finish(first, config)
    finally:
        for item in pending:
            if item.read is not None:
                item.read.cancel()
        pool.shutdown(cancel_futures=True)


def _has_unknown_size(row: dict[str, Any]) -> bool:
    return row["uri"] is not None and row["size_bytes"] is None


def _count_bytes(row: dict[str, Any]) -> int:
    """Bytes that count for a row: a function of the index alone, as the borders of chunks depend on them."""
    if row["problem"] is not None:
        return 0
    return ASSUMED_BYTES if row["size_bytes"] is None else int(row["size_bytes"])


def _start(row: dict[str, Any], config: InputConfig, pool: ThreadPoolExecutor) -> Future[bytes] | None:
    """Start to read the image of a row."""
    uri, size, limit = row["uri"], row["size_bytes"], config.max_image_bytes
    # An image that was missing when the collection was listed may have been put back since.
    if uri is None or (size is not None and size > limit):
        return None
    if is_web_uri(uri):
        return pool.submit(_read_web, uri, config)
    if size is None:
        return pool.submit(_read_unlisted, uri, limit)
    return start_read(uri) or pool.submit(read_bytes, uri)


def _finish(item: _Pending, config: InputConfig) -> FetchedImage:
    """Wait for the image of a row."""
    uri, size, limit = item.row["uri"], item.row["size_bytes"], config.max_image_bytes
    if item.read is None:
        if uri is None:
            return FetchedImage(reason=Reason.NOT_FOUND, error=item.row["problem"])
        return FetchedImage(reason=Reason.TOO_LARGE, error=describe_oversized_image(size, limit))
    try:
        image = item.read.result()
    except OversizedFileError as error:
        return FetchedImage(reason=Reason.TOO_LARGE, error=describe_oversized_image(error.num_bytes, limit))
    except WebFileError as error:
        return FetchedImage(reason=Reason.DOWNLOAD_FAILED, error=f"'{uri}': {error}")
    except FileNotFoundError:
        return FetchedImage(reason=Reason.NOT_FOUND, error=f"'{uri}' does not exist")
    except PathError as error:
        return FetchedImage(reason=Reason.NOT_FOUND, error=str(error))
    if size is not None and len(image) != size:
        return FetchedImage(
            reason=Reason.CHANGED, error=f"'{uri}' has {len(image)} bytes, had {size} when the collection was listed"
        )
    return FetchedImage(image=image)


def _read_web(uri: str, config: InputConfig) -> bytes:
    return read_web_file(uri, config.max_image_bytes, partial(is_allowed, allowed=config.allow_url))


def _read_unlisted(uri: str, limit: int) -> bytes:
    """Read a file of unknown size: in one request if it is small."""
    if len(head := read_head(uri, FIRST_READ_BYTES)) > limit:
        raise OversizedFileError(len(head))
    if len(head) < FIRST_READ_BYTES:
        return head
    found = find_object(uri)
    if found is None:
        raise FileNotFoundError(uri)
    if found.size_bytes > limit:
        raise OversizedFileError(found.size_bytes)
    return read_bytes(uri)


def _make_sample(row: dict[str, Any], fetched: FetchedImage, config: InputConfig) -> Sample:
    found = _read_row_tags(row, config)
    is_download = fetched.reason == Reason.DOWNLOAD_FAILED
    return Sample(
        key=row["key"],
        image=fetched.image,
        image_name="" if fetched.image is None else _get_suffix(row["path"]),
        image_bytes=_count_bytes(row),
        image_uri=row["uri"] or "",
        image_error="" if is_download else fetched.error,
        image_reason="" if is_download else fetched.reason,
        tags=found.tags,
        class_numbers=found.class_numbers,
        tags_error=found.error,
        download_error=fetched.error if is_download else "",
    )


def _read_row_tags(row: dict[str, Any], config: InputConfig) -> SampleTags:
    """Read the tags of a row, which the index keeps as JSON."""
    value = None if row["tags"] is None else json.loads(row["tags"])
    return read_tag_value(f"'{row['key']}': '{config.tags_field}'", value, config)


def _get_suffix(path: str) -> str:
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return suffix.lower() if stem and dot and len(suffix) <= 8 else "image"
