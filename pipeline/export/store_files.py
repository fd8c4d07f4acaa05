"""Files of an export in a folder of any store."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pipeline.storage.uris import join_uri
from pipeline.storage.writing import open_atomic, put_atomic


class StoreFiles:
    """Writes files below a folder, and records their paths."""

    def __init__(self, folder_uri: str) -> None:
        """Write nothing yet."""
        self._folder_uri = folder_uri
        self.paths: dict[str, None] = {}
        """Paths of the files that were written, in order, relative to the folder."""

    def put(self, path: str, payload: bytes) -> None:
        """Write a file."""
        put_atomic(join_uri(self._folder_uri, path), payload)
        self.paths[path] = None

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """Open a file for sequential writes; it appears, whole, when the context ends without an error."""
        with open_atomic(join_uri(self._folder_uri, path)) as file:
            yield file
        self.paths[path] = None
