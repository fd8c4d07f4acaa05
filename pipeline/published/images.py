"""Encoded images of published rows, from their input shard: each in one request where its place is known.

tar         byte range (`image_offset`, `image_bytes`); without them the chunk of the row is read again
Parquet     row number: only the column of the images, of the row groups that are needed
index       the image's own file (`image_uri`, else the row of the index)
"""

import hashlib
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from typing import Protocol

from pipeline.errors import ShardError
from pipeline.inputs.chunks import require_unchanged
from pipeline.inputs.path_reader import fetch_ahead, read_index
from pipeline.published.chunk_images import read_chunk_images
from pipeline.published.parquet_images import count_group_rows, read_parquet_images
from pipeline.published.rows import MaskRow, browse_published
from pipeline.published.run import PublishedRun
from pipeline.run.records import InputShard
from pipeline.storage.ranges import ByteRange, read_ranges

IMAGE_COLUMNS = ("image_sha256", "image_offset", "image_bytes", "image_uri")
"""Columns that a reader of images needs."""
ADVICE = "masks belong to the images that were labelled: put them back, or label the new ones with a new --out"
CACHE_BYTES = 64 * 2**20
"""Images that `read` keeps of those that had to be read together with one."""


class ImageReader:
    """Reads the encoded images of the rows of one shard, and checks their digests.

    It holds no open file, so that processes that use it may be forked.
    """

    def __init__(self, run: PublishedRun, shard: InputShard) -> None:
        """Read nothing yet."""
        self._shard = shard
        self._cache = _ImageCache()
        self._ranges = _TarRanges(shard)
        self._files = _IndexFiles(run, shard)
        self._groups: _Groups = _ParquetGroups(run, shard) if shard.is_parquet else _TarChunks(run, shard)

    def close(self) -> None:
        """Drop the images in memory."""
        self._cache = _ImageCache()

    def read(self, row: MaskRow) -> bytes:
        """Read the image of one row.

        An image that cannot be read alone is read with its row group or chunk, which is kept for the next calls.

        Args:
            row: With the columns `IMAGE_COLUMNS`.

        Raises:
            ShardError: The sample has no image; or the shard or the image is gone or changed.
            StorageError: The store failed.
        """
        if self._is_alone(row):
            return next(self.read_many([row]))
        self._require_image(row)
        content = self._cache.find(row.index)
        if content is None:
            for index, image in self._groups.read_group(row.index):
                self._cache.add(index, image)
                content = image if index == row.index else content
                if content is not None and self._cache.is_full:
                    break
        return self._check(row, content)

    def read_many(self, rows: Iterable[MaskRow]) -> Iterator[bytes]:
        """Read the images of rows, in the given order; the order of the shard is the fastest.

        A few dozen MB of images are read ahead, or a row group or chunk is in memory.

        Args:
            rows: With the columns `IMAGE_COLUMNS`.

        Raises:
            ShardError: A sample has no image; or the shard or an image is gone or changed.
            StorageError: The store failed.
        """
        waiting: deque[MaskRow] = deque()

        def await_each(some: Iterable[MaskRow]) -> Iterator[MaskRow]:
            for row in some:
                self._require_image(row)
                waiting.append(row)
                yield row

        for is_alone, some in groupby(rows, self._is_alone):
            for content in (self._choose() if is_alone else self._groups).read(await_each(some)):
                yield self._check(waiting.popleft(), content)

    def _is_alone(self, row: MaskRow) -> bool:
        """Whether the image of a row can be read without others."""
        if self._shard.is_index:
            return True
        return not self._shard.is_parquet and row.get("image_offset") is not None

    def _choose(self) -> "_Source":
        return self._files if self._shard.is_index else self._ranges

    def _require_image(self, row: MaskRow) -> None:
        if not row.has_image:
            raise ShardError(f"row '{row.key}' of shard '{self._shard.name}' has no image; filter by status or reason")

    def _check(self, row: MaskRow, content: bytes | None) -> bytes:
        """Check that the content is the image that was labelled."""
        digest = row.get("image_sha256")
        if content is not None and (digest is None or hashlib.sha256(content).hexdigest() == digest):
            return content
        if not self._shard.is_index:
            require_unchanged(self._shard)
        raise ShardError(
            f"the image of key '{row.key}' of shard '{self._shard.uri}' is not the one that was labelled; {ADVICE}"
        )


class _ImageCache:
    """Images by index, the oldest of which leave when there are too many bytes."""

    def __init__(self) -> None:
        self._images: OrderedDict[int, bytes] = OrderedDict()
        self._num_bytes = 0
        self.is_full = False

    def find(self, index: int) -> bytes | None:
        return self._images.get(index)

    def add(self, index: int, image: bytes | None) -> None:
        if image is None or index in self._images:
            return
        self._images[index] = image
        self._num_bytes += len(image)
        while self._num_bytes > CACHE_BYTES:
            self._num_bytes -= len(self._images.popitem(last=False)[1])
            self.is_full = True


class _Source(Protocol):
    """A place of images."""

    def read(self, rows: Iterable[MaskRow]) -> Iterator[bytes | None]:
        """Read the images of rows, in order; None for one that is missing."""


class _Groups(_Source, Protocol):
    """A place of images that are read in groups."""

    def read_group(self, index: int) -> Iterator[tuple[int, bytes | None]]:
        """Read the group that contains a row: indices and images."""


class _TarRanges:
    """Images of a tar at known offsets."""

    def __init__(self, shard: InputShard) -> None:
        self._shard = shard

    def read(self, rows: Iterable[MaskRow]) -> Iterator[bytes | None]:
        ranges = (ByteRange(row.get("image_offset"), row.get("image_bytes")) for row in rows)
        try:
            yield from read_ranges(self._shard.uri, ranges)
        except FileNotFoundError as error:
            raise ShardError(f"shard '{self._shard.uri}' does not exist; {ADVICE}") from error


class _IndexFiles:
    """Images that are files of their own, which the rows name, or an index."""

    def __init__(self, run: PublishedRun, shard: InputShard) -> None:
        self._shard = shard
        self._config = run.config.inputs
        self._listed: list[tuple[str | None, int | None]] | None = None

    def read(self, rows: Iterable[MaskRow]) -> Iterator[bytes | None]:
        files = ({"key": row.key, "uri": uri, "size_bytes": size} for row in rows for uri, size in [self._locate(row)])
        for file, fetched in fetch_ahead((file | {"problem": None} for file in files), self._config):
            if fetched.reason:
                said = fetched.error or f"index '{self._shard.uri}' names no image"
                raise ShardError(f"the image of key '{file['key']}' cannot be read: {said}; {ADVICE}")
            yield fetched.image

    def _locate(self, row: MaskRow) -> tuple[str | None, int | None]:
        """URI and size of the image of a row. A URI with a secret stands in the index alone."""
        if row.get("image_uri") is not None:
            return row.get("image_uri"), row.get("image_bytes")
        if self._listed is None:
            table = read_index(self._shard.uri)
            self._listed = list(zip(table["uri"].to_pylist(), table["size_bytes"].to_pylist(), strict=True))
        if row.index >= len(self._listed):
            raise ShardError(
                f"index '{self._shard.uri}' has {len(self._listed)} rows, row {row.index} was labelled; {ADVICE}"
            )
        return self._listed[row.index]


class _ParquetGroups:
    """Images in the row groups of a Parquet file."""

    def __init__(self, run: PublishedRun, shard: InputShard) -> None:
        self._shard = shard
        self._config = run.config.inputs
        self._starts: list[int] = []

    def read(self, rows: Iterable[MaskRow]) -> Iterator[bytes | None]:
        # A row that goes back needs another pass.
        last = number = -1

        def find_pass(index: int) -> int:
            nonlocal last, number
            number += index <= last
            last = index
            return number

        for _, indices in groupby((row.index for row in rows), find_pass):
            yield from read_parquet_images(self._shard, self._config, indices)

    def read_group(self, index: int) -> Iterator[tuple[int, bytes | None]]:
        if not self._starts:
            self._starts = list(accumulate(count_group_rows(self._shard), initial=0))
        place = bisect_right(self._starts, index)
        if place == len(self._starts):
            raise ShardError(
                f"shard '{self._shard.uri}' has {self._starts[-1]} rows, row {index} was labelled; {ADVICE}"
            )
        indices = range(self._starts[place - 1], self._starts[place])
        yield from zip(indices, read_parquet_images(self._shard, self._config, indices), strict=True)


class _TarChunks:
    """Images of a tar whose rows hold no offsets: a whole chunk is read again."""

    def __init__(self, run: PublishedRun, shard: InputShard) -> None:
        self._run = run
        self._shard = shard
        self._starts: list[int] = []

    def read(self, rows: Iterable[MaskRow]) -> Iterator[bytes | None]:
        for chunk, indices in groupby((row.index for row in rows), self._find_chunk):
            images = self._read_chunk(chunk)
            yield from (images[index - self._starts[chunk]] for index in indices)

    def read_group(self, index: int) -> Iterator[tuple[int, bytes | None]]:
        chunk = self._find_chunk(index)
        yield from enumerate(self._read_chunk(chunk), self._starts[chunk])

    def _find_chunk(self, index: int) -> int:
        if not self._starts:
            with browse_published(self._run, self._shard.name) as manifest:
                sizes = [num_rows for num_rows, _ in manifest.footer["chunks"]]
            self._starts = list(accumulate(sizes, initial=0))[:-1]
        return bisect_right(self._starts, index) - 1

    def _read_chunk(self, chunk: int) -> list[bytes | None]:
        config = self._run.config.inputs
        with browse_published(self._run, self._shard.name) as manifest:
            try:
                return next(read_chunk_images(self._shard, config, manifest, [chunk]))[1]
            except ShardError as error:
                raise ShardError(f"{error}; {ADVICE}") from error
