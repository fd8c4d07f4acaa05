"""Files of an export in a folder of any store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pipeline.storage.uris import join_uri
from pipeline.storage.writing import open_atomic, put_atomic


class StoreFiles:
    """Writes files below a folder, and tells their paths, which may be too many to keep."""

    def __init__(self, folder_uri: str, on_written: Callable[[str], object] | None = None) -> None:
        """Write nothing yet.

        Args:
            folder_uri: The folder.
            on_written: Called with the path of each file, relative to the folder, once it is there.
        """
        self._folder_uri = folder_uri
        self._on_written = on_written or (lambda _: None)

    def put(self, path: str, payload: bytes) -> None:
        """Write a file."""
        put_atomic(join_uri(self._folder_uri, path), payload)
        self._on_written(path)

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open a file for sequential writes; it appears, whole, when the context ends without an error."""
        with open_atomic(join_uri(self._folder_uri, path)) as file:
            yield file
        self._on_written(path)
