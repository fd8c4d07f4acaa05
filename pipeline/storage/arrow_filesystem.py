"""A pyarrow file system for Ray Train whose operations all go through `pipeline.storage`.

Ray would choose its own client by the folder's URI. That client parses the URI, so that a space in a key is an error.
It has other credentials, endpoints and retries. Its uploads have no length, which some stores refuse. On a local disk
it writes to the final name, where a dying process leaves a truncated file.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import pyarrow
import pyarrow.fs
from pyarrow.fs import FileInfo, FileSelector, FileType

from pipeline.storage.atomic_files import AtomicFile
from pipeline.storage.listing import exists, find_object, is_folder, list_objects
from pipeline.storage.reading import open_random, open_stream
from pipeline.storage.uris import get_local_path, join_uri
from pipeline.storage.writing import delete, delete_folder, put_atomic

ROOT = "/"
"""Ray's name of the folder. Ray never sees the URI before it."""


def open_for_ray(folder_uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Open a folder for Ray Train: a file system, and the folder's name in it."""
    path = get_local_path(folder_uri)
    # Ray's processes have other working folders.
    root_uri = folder_uri if path is None else str(path.absolute())
    return pyarrow.fs.PyFileSystem(FolderHandler(root_uri=root_uri)), ROOT


@dataclass(frozen=True, kw_only=True)
class FolderHandler(pyarrow.fs.FileSystemHandler):
    """Files below a folder, by names relative to it. A file appears whole when it is closed."""

    root_uri: str
    """The folder: a local path or URI."""

    def get_type_name(self) -> str:
        """Name of this kind of file system, for messages."""
        return "tagmask"

    def normalize_path(self, path: str) -> str:
        """Return a name unchanged."""
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        """Type and size of each name: file, folder, or not found."""
        return [self._describe_path(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        """List the files below a folder, and the folders that contain files."""
        base = _normalise_name(selector.base_dir)
        folder_uri = self._to_uri(base)
        # URIs below a folder start with the URI of the folder.
        prefix = folder_uri.rstrip("/") + "/"
        found: dict[str, FileInfo] = {}
        for item in list_objects(folder_uri):
            name = item.uri.removeprefix(prefix)
            for folder in reversed(PurePosixPath(name).parents[:-1]):
                if selector.recursive or len(folder.parts) == 1:
                    path = f"{base.rstrip('/')}/{folder}"
                    found.setdefault(path, FileInfo(path, FileType.Directory))
            if selector.recursive or "/" not in name:
                path = f"{base.rstrip('/')}/{name}"
                found[path] = FileInfo(path, FileType.File, size=item.size_bytes)
        if not found and not selector.allow_not_found and self._describe_path(base).type != FileType.Directory:
            raise FileNotFoundError(f"'{folder_uri}' is not a folder")
        return list(found.values())

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: a folder exists once it contains a file."""

    def delete_dir(self, path: str) -> None:
        """Delete a folder and all files below it."""
        if _normalise_name(path) == ROOT:
            raise ValueError(f"'{self.root_uri}' itself is not deleted; name a folder below it")
        delete_folder(self._to_uri(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Delete all files below a folder."""
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        """Refuse: the folder also contains files that are not Ray's.

        Raises:
            ValueError: Always.
        """
        self.delete_dir(ROOT)

    def delete_file(self, path: str) -> None:
        """Delete a file."""
        delete([self._find_file(path)])

    def move(self, source: str, destination: str) -> None:
        """Copy a file, then delete the original."""
        self.copy_file(source, destination)
        self.delete_file(source)

    def copy_file(self, source: str, destination: str) -> None:
        """Copy a file."""
        with self.open_input_stream(source) as stream:
            put_atomic(self._to_uri(destination), stream.read())

    def open_input_stream(self, path: str) -> pyarrow.NativeFile:
        """Open a file for one sequential read."""
        return pyarrow.PythonFile(open_stream(self._find_file(path)), mode="r")

    def open_input_file(self, path: str) -> pyarrow.NativeFile:
        """Open a file for reads at random offsets."""
        return pyarrow.PythonFile(open_random(self._find_file(path)), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pyarrow.NativeFile:
        """Open a new file, or one that replaces an existing file, for writing."""
        uri = self._to_uri(path)
        local = get_local_path(uri)
        return pyarrow.PythonFile(_BufferedObject(uri) if local is None else AtomicFile(local), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pyarrow.NativeFile:
        """Refuse: a published file does not change.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"'{self._to_uri(path)}' cannot be appended to; write it whole")

    def _to_uri(self, path: str) -> str:
        name = _normalise_name(path).strip("/")
        return join_uri(self.root_uri, name) if name else self.root_uri

    def _find_file(self, path: str) -> str:
        """URI of an existing file."""
        uri = self._to_uri(path)
        if not exists(uri):
            raise FileNotFoundError(f"'{uri}' does not exist")
        return uri

    def _describe_path(self, path: str) -> FileInfo:
        uri = self._to_uri(path)
        found = find_object(uri) if _normalise_name(path) != ROOT else None
        if found is not None:
            return FileInfo(path, FileType.File, size=found.size_bytes)
        return FileInfo(path, FileType.Directory if is_folder(uri) else FileType.NotFound)


class _BufferedObject:
    """A writable file that is held in memory and put on close. If it is never closed, it never appears."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._buffer = BytesIO()

    @property
    def closed(self) -> bool:
        return self._buffer.closed

    def write(self, payload: Any) -> int:
        return self._buffer.write(payload)

    def tell(self) -> int:
        return self._buffer.tell()

    def flush(self) -> None:
        """Do nothing: a partial file is not stored."""

    def close(self) -> None:
        if not self._buffer.closed:
            put_atomic(self._uri, self._buffer.getvalue())
            self._buffer.close()


def _normalise_name(path: str) -> str:
    """Normalise a name: with a slash at the start, without one at the end."""
    return ROOT + path.strip("/")
