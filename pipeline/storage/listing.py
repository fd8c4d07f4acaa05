"""Look up and list files and objects: their sizes, and a text that changes with their content.

Nothing is cached between calls: other machines write to the same folders.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from pipeline.storage.atomic_files import TEMPORARY_PREFIX
from pipeline.storage.filesystems import open_filesystem
from pipeline.storage.store_errors import translate_errors
from pipeline.storage.uris import get_local_path, join_uri

UNKNOWN_ETAG = "-0"
"""Etag of an object of which a listing tells neither size nor time of change, as some listings over HTTP."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """A file or object as a listing shows it."""

    uri: str
    size_bytes: int
    etag: str
    """Changes when the content changes: the store's etag, or time of change and size on a local disk."""


def find_object(uri: str) -> StoredObject | None:
    """Look one file or object up; None when there is none, or a folder."""
    if (path := get_local_path(uri)) is not None:
        return _describe_local(uri, path) if path.is_file() else None
    filesystem, name = open_filesystem(uri)
    try:
        with translate_errors(uri):
            found = filesystem.info(name)
    except FileNotFoundError:
        return None
    return None if found["type"] == "directory" else _describe_remote(uri, found)


def exists(uri: str) -> bool:
    """Tell whether there is a file or object at the URI; a folder is none."""
    return find_object(uri) is not None


def list_objects(folder_uri: str) -> list[StoredObject]:
    """List everything below a folder, sorted by URI. A folder that is not there is empty."""
    if (folder := get_local_path(folder_uri)) is not None:
        found = _describe_listed((_rebase(folder_uri, folder, path), path) for path in _walk(folder))
    else:
        filesystem, name = open_filesystem(folder_uri)
        with translate_errors(folder_uri):
            entries = filesystem.find(name, detail=True).values()
        found = _describe_all(folder_uri, name, entries)
    return sorted(found, key=lambda item: item.uri)


def list_folder(uri: str) -> list[StoredObject]:
    """List the files directly in a folder, sorted by URI. A folder that is not there is empty."""
    if (folder := get_local_path(uri)) is not None:
        paths = folder.iterdir() if folder.is_dir() else ()
        found = _describe_listed((_rebase(uri, folder, path), path) for path in paths)
    else:
        filesystem, name = open_filesystem(uri)
        try:
            with translate_errors(uri):
                entries = filesystem.ls(name, detail=True)
        except FileNotFoundError:
            entries = []
        found = _describe_all(uri, name, entries)
    return sorted(found, key=lambda item: item.uri)


def glob_objects(pattern: str) -> list[StoredObject]:
    """List the files whose URI matches a pattern with `*`, `?`, `[...]` or `**`, sorted by URI."""
    if (local := get_local_path(pattern)) is not None:
        prefix = pattern[: len(pattern) - len(str(local))] if "://" in pattern else ""
        names = glob.glob(str(local), recursive=True)  # noqa: PTH207 (Path refuses absolute patterns)
        found = _describe_listed((prefix + name, Path(name)) for name in names)
    else:
        filesystem, name = open_filesystem(pattern)
        scheme = pattern.partition("://")[0]
        with translate_errors(pattern):
            entries = cast("dict[str, Any]", filesystem.glob(name, detail=True))
        found = [
            _describe_remote(f"{scheme}://{path.lstrip('/')}", entry)
            for path, entry in entries.items()
            if entry["type"] == "file" and not path.endswith("/")
        ]
    return sorted(found, key=lambda item: item.uri)


def is_folder(uri: str) -> bool:
    """Tell whether anything is below a URI; on a local disk an empty folder is one, too."""
    path = get_local_path(uri)
    return bool(list_objects(uri)) if path is None else path.is_dir()


def _describe_all(folder_uri: str, folder_name: str, entries: Iterable[Mapping[str, Any]]) -> list[StoredObject]:
    """Describe the files among entries below a folder, under URIs that start as the folder's does."""
    root = folder_name.rstrip("/") + "/"
    found = []
    for entry in entries:
        name = str(entry["name"])
        # Some tools mark folders by empty objects that end in a slash.
        if entry["type"] == "file" and name.startswith(root) and not name.endswith("/"):
            found.append(_describe_remote(join_uri(folder_uri, name[len(root) :]), entry))
    return found


def _rebase(folder_uri: str, folder: Path, path: Path) -> str:
    return join_uri(folder_uri, path.relative_to(folder).as_posix())


def _describe_local(uri: str, path: Path) -> StoredObject:
    """Describe a file of a local disk."""
    status = path.stat()
    return StoredObject(uri=uri, size_bytes=status.st_size, etag=f"{status.st_mtime_ns:x}-{status.st_size:x}")


def _describe_remote(uri: str, entry: Mapping[str, Any]) -> StoredObject:
    """Turn fsspec's entry into ours. Stores name the identity of a content differently."""
    size_bytes = int(entry["size"] or 0)
    for key in ("ETag", "etag", "md5Hash", "content_md5"):
        if entry.get(key):
            return StoredObject(uri=uri, size_bytes=size_bytes, etag=str(entry[key]).strip('"'))
    changed = next((entry[key] for key in ("mtime", "LastModified", "created") if entry.get(key)), "")
    # The memory store gives one time as a number or as a date, depending on the call.
    changed = changed.timestamp() if isinstance(changed, datetime) else changed
    changed = f"{round(changed * 1e6):x}" if isinstance(changed, float) else changed
    return StoredObject(uri=uri, size_bytes=size_bytes, etag=f"{changed}-{size_bytes:x}")


def _describe_listed(found: Iterable[tuple[str, Path]]) -> list[StoredObject]:
    """Describe files by their URIs; without folders, files that are being written, and files that are gone by now."""
    described = []
    for uri, path in found:
        if path.name.startswith(TEMPORARY_PREFIX) or not path.is_file():
            continue
        with suppress(FileNotFoundError):
            described.append(_describe_local(uri, path))
    return described


def _walk(folder: Path) -> Iterator[Path]:
    """Give the files below a folder, through links to folders too. Errors of the disk are raised."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, names in os.walk(folder, onerror=fail, followlinks=True):
        yield from (Path(parent, name) for name in names)
