"""Read files and objects: whole, as one sequential stream, or at random offsets."""

import asyncio
import io
from concurrent.futures import Future
from contextlib import closing
from typing import Any, Protocol, cast, runtime_checkable

from fsspec.implementations.memory import MemoryFile

from pipeline.errors import StorageError
from pipeline.storage.filesystems import is_s3, open_filesystem
from pipeline.storage.store_errors import translate_errors, translate_local_errors
from pipeline.storage.uris import get_local_path

READAHEAD_BYTES = 8 * 2**20
"""Bytes fetched per request by a sequential read from an object store."""
LOCAL_STREAM_BYTES = 2**20
"""Bytes fetched per request by small sequential reads of a local file."""
LOCAL_RANDOM_BYTES = 2**16
"""Bytes fetched per request by small reads of a local file at random offsets."""


@runtime_checkable
class ByteStream(Protocol):
    """An open file of any store."""

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes; none at the end."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a position."""

    def tell(self) -> int:
        """Position in bytes."""

    def close(self) -> None:
        """Release the connection or file handle."""


def read_bytes(uri: str) -> bytes:
    """Read a whole file or object.

    Raises:
        FileNotFoundError: The file does not exist; the message contains the URI.
    """
    try:
        if (path := get_local_path(uri)) is not None:
            with translate_local_errors(path):
                return path.read_bytes()
        filesystem, name = open_filesystem(uri)
        with translate_errors(uri):
            return cast(bytes, filesystem.cat_file(name, **_get_options(filesystem)))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"'{uri}' does not exist") from error


def start_read(uri: str) -> Future[bytes] | None:
    """Start to read a whole object without a thread; None if the client of its store only reads in threads.

    The result raises what `read_bytes` raises.
    """
    if get_local_path(uri) is not None:
        return None
    filesystem, name = open_filesystem(uri)
    if not getattr(filesystem, "async_impl", False):
        return None

    async def read() -> bytes:
        try:
            with translate_errors(uri):
                return cast(bytes, await filesystem._cat_file(name, **_get_options(filesystem)))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"'{uri}' does not exist") from error

    return asyncio.run_coroutine_threadsafe(read(), filesystem.loop)


def _get_options(filesystem: Any) -> dict[str, Any]:
    """Options of a read in one request: if s3fs may split it, it requests the size first."""
    return {"max_concurrency": 1} if is_s3(filesystem) else {}


def read_head(uri: str, num_bytes: int) -> bytes:
    """Read the first bytes of a file or object; fewer if it is shorter.

    Raises:
        FileNotFoundError: The file does not exist; the message contains the URI.
    """
    if get_local_path(uri) is None:
        filesystem, name = open_filesystem(uri)
        if is_s3(filesystem):
            return _read_s3_head(uri, filesystem, name, num_bytes)
    with closing(open_random(uri)) as stream:
        return stream.read(num_bytes)


def _read_s3_head(uri: str, filesystem: Any, name: str, num_bytes: int) -> bytes:
    """Read the first bytes of an object of S3 in one request; opening it would cost a second one for its size."""
    try:
        with translate_errors(uri):
            return cast(bytes, filesystem.cat_file(name, start=0, end=num_bytes))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"'{uri}' does not exist") from error
    except StorageError as error:
        # An empty object has no range of bytes.
        if "InvalidRange" in str(error):
            return b""
        raise


def open_stream(uri: str, offset: int = 0) -> ByteStream:
    """Open a file or object for one sequential read from a byte offset.

    Raises:
        FileNotFoundError: The file does not exist; the message contains the URI.
    """
    stream = _open_to_read(uri, LOCAL_STREAM_BYTES, block_size=READAHEAD_BYTES, cache_type="readahead")
    stream.seek(offset)
    return stream


def open_random(uri: str) -> ByteStream:
    """Open a file or object for reads at random offsets; each fetches the requested bytes and no more.

    Raises:
        FileNotFoundError: The file does not exist; the message contains the URI.
    """
    return _open_to_read(uri, LOCAL_RANDOM_BYTES, cache_type="none")


def _open_to_read(uri: str, local_buffer_bytes: int, **options: Any) -> ByteStream:
    try:
        if (path := get_local_path(uri)) is not None:
            with translate_local_errors(path):
                return path.open("rb", buffering=local_buffer_bytes)
        filesystem, name = open_filesystem(uri)
        with translate_errors(uri):
            file = filesystem.open(name, "rb", **options)
            # fsspec's store in memory gives all readers one file, with one position.
            return _RemoteStream(uri, io.BytesIO(file.getvalue()) if isinstance(file, MemoryFile) else file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"'{uri}' does not exist") from error


class _RemoteStream(io.RawIOBase):
    """An open remote file whose errors contain its URI."""

    def __init__(self, uri: str, file: Any) -> None:
        self._uri = uri
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        with translate_errors(self._uri):
            return cast(bytes, self._file.read(size))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return cast(int, self._file.seek(offset, whence))

    def tell(self) -> int:
        return cast(int, self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()
