"""Read byte ranges of a file or object: neighbours in one request, several requests at a time, in the given order."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from pipeline.errors import StorageError
from pipeline.storage.filesystems import open_filesystem
from pipeline.storage.store_errors import translate_errors, translate_local_errors
from pipeline.storage.uris import get_local_path

MAX_GAP_BYTES = 2**18
"""Ranges at most this far apart share a request: a request to an object store takes as long as a few MB."""
MAX_REQUEST_BYTES = 8 * 2**20
"""Maximum size of a request for several ranges."""
WINDOW_RANGES = 128
WINDOW_BYTES = 32 * 2**20
"""Ranges that are sorted and requested together, and their bytes; two windows are in memory."""
NUM_THREADS = 16
"""Requests at a time to a store whose client takes a thread a request."""


class ByteRange(NamedTuple):
    """A range of bytes."""

    start: int
    size: int

    @property
    def stop(self) -> int:
        """Place behind its last byte."""
        return self.start + self.size


def read_ranges(uri: str, ranges: Iterable[ByteRange]) -> Iterator[bytes]:
    """Read ranges of a file or object, in the given order; a range beyond the end is shorter or empty.

    Ranges that are close to each other share a request. No file stays open between two calls of the iterator, so that
    processes may be forked.

    Raises:
        FileNotFoundError: The file does not exist; the message contains the URI.
        StorageError: The store failed.
    """
    try:
        path = get_local_path(uri)
        yield from _read_remote(uri, ranges) if path is None else _read_local(path, ranges)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"'{uri}' does not exist") from error


def _read_local(path: Path, ranges: Iterable[ByteRange]) -> Iterator[bytes]:
    remaining = iter(ranges)
    while window := _take_window(remaining):
        with translate_local_errors(path), path.open("rb") as file:
            contents = []
            for item in window:
                file.seek(item.start)
                contents.append(file.read(item.size))
        yield from contents


def _take_window(remaining: Iterator[ByteRange]) -> list[ByteRange]:
    """Take the ranges that are requested together."""
    window: list[ByteRange] = []
    num_bytes = 0
    for item in islice(remaining, WINDOW_RANGES):
        window.append(item)
        num_bytes += item.size
        if num_bytes >= WINDOW_BYTES:
            break
    return window


def join_neighbours(ranges: Sequence[ByteRange]) -> list[ByteRange]:
    """The requests for ranges: each covers a range, or several that are close to each other.

    >>> join_neighbours([ByteRange(2000, 10), ByteRange(0, 500), ByteRange(5_000_000, 10)])
    [ByteRange(start=0, size=2010), ByteRange(start=5000000, size=10)]
    """
    requests: list[ByteRange] = []
    for item in sorted(ranges):
        if requests:
            start, stop = requests[-1].start, max(requests[-1].stop, item.stop)
            is_inside = stop == requests[-1].stop
            if is_inside or (item.start - requests[-1].stop <= MAX_GAP_BYTES and stop - start <= MAX_REQUEST_BYTES):
                requests[-1] = ByteRange(start, stop - start)
                continue
        requests.append(item)
    return requests


class _Window(NamedTuple):
    """Ranges on their way."""

    ranges: list[ByteRange]
    requests: list[tuple[ByteRange, Future[bytes]]]

    def wait(self) -> Iterator[bytes]:
        """Wait for the ranges, one by one."""
        for item in self.ranges:
            request, content = next(
                (request, content)
                for request, content in self.requests
                if request.start <= item.start and item.stop <= request.stop
            )
            start = item.start - request.start
            yield content.result()[start : start + item.size]


def _read_remote(uri: str, ranges: Iterable[ByteRange]) -> Iterator[bytes]:
    remaining = iter(ranges)
    pending: deque[_Window] = deque()
    pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="range")
    try:
        while window := _take_window(remaining):
            requests = [(request, _start(uri, request, pool)) for request in join_neighbours(window)]
            pending.append(_Window(window, requests))
            if len(pending) == 2:
                yield from pending.popleft().wait()
        while pending:
            yield from pending.popleft().wait()
    finally:
        for left in pending:
            for _, content in left.requests:
                content.cancel()
        pool.shutdown(wait=False, cancel_futures=True)


def _start(uri: str, request: ByteRange, pool: ThreadPoolExecutor) -> Future[bytes]:
    """Start one request."""
    filesystem, name = open_filesystem(uri)
    if not request.size:
        empty: Future[bytes] = Future()
        empty.set_result(b"")
        return empty
    if not getattr(filesystem, "async_impl", False):
        return pool.submit(_read_in_thread, uri, filesystem, name, request)

    async def read() -> bytes:
        try:
            with translate_errors(uri):
                content = await filesystem._cat_file(name, start=request.start, end=request.stop)
        except StorageError as error:
            return _pass_over_end(error)
        return _cut(content, request)

    return asyncio.run_coroutine_threadsafe(read(), filesystem.loop)


def _read_in_thread(uri: str, filesystem: Any, name: str, request: ByteRange) -> bytes:
    try:
        with translate_errors(uri):
            # Without a cache, which would read ahead.
            content = filesystem.cat_file(name, start=request.start, end=request.stop, cache_type="none")
    except StorageError as error:
        return _pass_over_end(error)
    return _cut(content, request)


def _cut(content: Any, request: ByteRange) -> bytes:
    """The content of a range; some web servers ignore ranges and send the whole file."""
    if len(content) > request.size:
        content = content[request.start : request.stop]
    return cast(bytes, content)


def _pass_over_end(error: StorageError) -> bytes:
    """No bytes for a range that starts behind the end; raise any other error again."""
    if "InvalidRange" in str(error) or "416" in str(error).split():
        return b""
    raise error
