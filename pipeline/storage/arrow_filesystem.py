"""A folder as Ray Train wants it: a file system of pyarrow's that does everything through `pipeline.storage.storage`.

Ray would choose a client of its own by the folder's URI. It parses the URI, so that a space in a key is an error; it
has other credentials, endpoints and retries than all else here; its uploads carry no length, which some stores refuse;
and on a local disk it writes at the final name, where a process that dies leaves half a file.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import pyarrow
import pyarrow.fs
from pyarrow.fs import FileInfo, FileSelector, FileType

from pipeline.storage.atomic_files import AtomicFile
from pipeline.storage.storage import (
    delete,
    delete_folder,
    exists,
    find_object,
    get_local_path,
    is_folder,
    join_uri,
    list_objects,
    open_random,
    open_stream,
    put_atomic,
)

ROOT = "/"
"""How Ray calls the folder. What stands before it, and how that is written, Ray never sees."""


def open_for_ray(folder_uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Give a folder as Ray Train wants it: a file system, and the folder's name there."""
    path = get_local_path(folder_uri)
    # Ray's processes have other working directories.
    root_uri = folder_uri if path is None else str(path.absolute())
    return pyarrow.fs.PyFileSystem(FolderHandler(root_uri=root_uri)), ROOT


@dataclass(frozen=True, kw_only=True)
class FolderHandler(pyarrow.fs.FileSystemHandler):
    """What is below a folder, under names that begin at the folder. A file appears when it is closed, whole."""

    root_uri: str
    """The folder: a local path or URI."""

    def get_type_name(self) -> str:
        """Name the kind of file system, for messages."""
        return "tagmask"

    def normalize_path(self, path: str) -> str:
        """Leave a name as it is."""
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        """Say of each name whether it is a file, a folder, or nothing."""
        return [self._describe(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        """List what is below a folder: its files, and folders that hold any."""
        base = _clean(selector.base_dir)
        folder_uri = self._to_uri(base)
        # A URI of what is below a folder begins as the folder's does.
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
        if not found and not selector.allow_not_found and self._describe(base).type != FileType.Directory:
            raise FileNotFoundError(f"'{folder_uri}' is no folder")
        return list(found.values())

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: a folder is there as soon as it holds a file."""

    def delete_dir(self, path: str) -> None:
        """Delete a folder and all that it holds."""
        if _clean(path) == ROOT:
            raise ValueError(f"'{self.root_uri}' itself is not deleted; name a folder below it")
        delete_folder(self._to_uri(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Delete all that a folder holds."""
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        """Refuse: what is beside Ray's files is not Ray's."""
        self.delete_dir(ROOT)

    def delete_file(self, path: str) -> None:
        """Delete a file."""
        delete([self._find(path)])

    def move(self, source: str, destination: str) -> None:
        """Copy a file, then delete the first one."""
        self.copy_file(source, destination)
        self.delete_file(source)

    def copy_file(self, source: str, destination: str) -> None:
        """Copy a file."""
        with self.open_input_stream(source) as stream:
            put_atomic(self._to_uri(destination), stream.read())

    def open_input_stream(self, path: str) -> pyarrow.NativeFile:
        """Open a file for one sequential read."""
        return pyarrow.PythonFile(open_stream(self._find(path)), mode="r")

    def open_input_file(self, path: str) -> pyarrow.NativeFile:
        """Open a file for reads here and there."""
        return pyarrow.PythonFile(open_random(self._find(path)), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pyarrow.NativeFile:
        """Open a file to write, in place of the one that may be there."""
        uri = self._to_uri(path)
        local = get_local_path(uri)
        return pyarrow.PythonFile(_PutWhenClosed(uri) if local is None else AtomicFile(local), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pyarrow.NativeFile:
        """Refuse: what is published does not change."""
        raise NotImplementedError(f"'{self._to_uri(path)}' cannot be appended to; write it whole")

    def _to_uri(self, path: str) -> str:
        name = _clean(path).strip("/")
        return join_uri(self.root_uri, name) if name else self.root_uri

    def _find(self, path: str) -> str:
        """Give the URI of a file that is there."""
        uri = self._to_uri(path)
        if not exists(uri):
            raise FileNotFoundError(f"'{uri}' does not exist")
        return uri

    def _describe(self, path: str) -> FileInfo:
        uri = self._to_uri(path)
        found = find_object(uri) if _clean(path) != ROOT else None
        if found is not None:
            return FileInfo(path, FileType.File, size=found.size_bytes)
        return FileInfo(path, FileType.Directory if is_folder(uri) else FileType.NotFound)


class _PutWhenClosed:
    """A file to write to that is kept in memory, and put when it is closed. One that is never closed is never seen."""

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
        """Do nothing: half a file is not stored."""

    def close(self) -> None:
        if not self._buffer.closed:
            put_atomic(self._uri, self._buffer.getvalue())
            self._buffer.close()


def _clean(path: str) -> str:
    """Write a name as Ray's own: from the folder on, without a slash at the end."""
    return ROOT + path.strip("/")
