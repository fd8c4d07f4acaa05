"""Look up and list files and objects, with their sizes and etags.

Nothing is cached between calls: other machines write to the same folders.
"""

import glob
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from pipeline.errors import BucketError, StorageError
from pipeline.storage.atomic_files import TEMPORARY_PREFIX
from pipeline.storage.filesystems import is_s3, open_filesystem
from pipeline.storage.store_errors import describe_missing_bucket, translate_errors, translate_local_errors
from pipeline.storage.uris import BUCKET_SCHEMES, get_local_path, join_uri

logger = logging.getLogger(__name__)

BrokenLink = Callable[[str], None] | None
UNKNOWN_ETAG = "-0"
"""Etag used when a listing reports neither size nor modification time, as some listings over HTTP."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """A file or object as listed."""

    uri: str
    size_bytes: int
    etag: str
    """Changes when the content changes: the store's etag, or modification time and size on a local disk."""


def find_object(uri: str) -> StoredObject | None:
    """Look up a file or object; None if it does not exist or is a folder."""
    if (path := get_local_path(uri)) is not None:
        with translate_local_errors(path):
            return _describe_local(uri, path) if path.is_file() else None
    filesystem, name = open_filesystem(uri)
    try:
        with translate_errors(uri):
            found = filesystem.info(name)
    except FileNotFoundError:
        return None
    return None if found["type"] == "directory" else _describe_remote(uri, found)


def exists(uri: str) -> bool:
    """Check whether a file or object exists at the URI. A folder does not count."""
    return find_object(uri) is not None


def list_objects(folder_uri: str, on_broken_link: BrokenLink = None) -> list[StoredObject]:
    """List all files below a folder, sorted by URI. A missing folder is empty.

    Args:
        folder_uri: The folder.
        on_broken_link: Called with the URI of each link of a local disk that leads nowhere.
    """
    if (folder := get_local_path(folder_uri)) is not None:
        with translate_local_errors(folder):
            paths = ((_to_uri_below(folder_uri, folder, path), path) for path in _walk(folder))
            found = _describe_local_files(paths, on_broken_link)
    else:
        filesystem, name = open_filesystem(folder_uri)
        try:
            with translate_errors(folder_uri):
                listed = filesystem.find(name, detail=True)
            # The client of Azure lists a file, which is no folder, as a list of its name.
            entries = listed.items() if isinstance(listed, Mapping) else ()
        except FileNotFoundError:
            entries = ()
        found = _describe_remote_files(folder_uri, name, entries)
    return sorted(found, key=lambda item: item.uri)


def list_folder(uri: str) -> list[StoredObject]:
    """List the files directly in a folder, sorted by URI. A missing folder is empty."""
    if (folder := get_local_path(uri)) is not None:
        with translate_local_errors(folder):
            paths = folder.iterdir() if folder.is_dir() else ()
            found = _describe_local_files((_to_uri_below(uri, folder, path), path) for path in paths)
    else:
        filesystem, name = open_filesystem(uri)
        try:
            with translate_errors(uri):
                entries = [(str(entry["name"]), entry) for entry in filesystem.ls(name, detail=True)]
        except FileNotFoundError:
            entries = []
        found = _describe_remote_files(uri, name, entries)
    return sorted(found, key=lambda item: item.uri)


def glob_objects(pattern: str, on_broken_link: BrokenLink = None) -> list[StoredObject]:
    """List the files whose URI matches a pattern with `*`, `?`, `[...]` or `**`, sorted by URI.

    Names that begin with a dot match, too.

    Args:
        pattern: The pattern.
        on_broken_link: Called with the URI of each link of a local disk that leads nowhere.
    """
    if (local := get_local_path(pattern)) is not None:
        prefix = pattern[: len(pattern) - len(str(local))] if "://" in pattern else ""
        names = glob.glob(str(local), recursive=True, include_hidden=True)  # noqa: PTH207 (Path refuses absolute ones)
        with translate_local_errors(local):
            found = _describe_local_files(((prefix + name, Path(name)) for name in names), on_broken_link)
    else:
        filesystem, name = open_filesystem(pattern)
        scheme = pattern.partition("://")[0]
        try:
            with translate_errors(pattern):
                entries = cast("dict[str, Any]", filesystem.glob(name, detail=True))
        except FileNotFoundError:
            entries = {}
        found = [
            _describe_remote(path if "://" in path else f"{scheme}://{path.lstrip('/')}", entry)
            for path, entry in entries.items()
            if entry["type"] == "file" and not path.endswith("/")
        ]
    return sorted(found, key=lambda item: item.uri)


def is_folder(uri: str) -> bool:
    """Check whether any file is below a URI. On a local disk an empty folder counts, too."""
    path = get_local_path(uri)
    return bool(list_objects(uri)) if path is None else path.is_dir()


def require_bucket(uri: str) -> None:
    """Check that the bucket or container of a URI exists, where a search found nothing.

    Stores without buckets are not asked. A store that refuses the question gets the benefit of the doubt.

    Raises:
        BucketError: It does not exist.
    """
    if get_local_path(uri) is not None:
        return
    filesystem, name = open_filesystem(uri)
    if is_s3(filesystem):
        with translate_errors(uri):
            filesystem.call_s3("list_objects_v2", Bucket=filesystem.split_path(name)[0], MaxKeys=1)
    elif uri.partition("://")[0] in BUCKET_SCHEMES:
        try:
            with translate_errors(uri):
                filesystem.info(name.partition("/")[0])
        except FileNotFoundError as error:
            raise BucketError(describe_missing_bucket(uri)) from error
        except StorageError as error:
            logger.debug("the bucket of %s cannot be looked up: %s", uri, error)


def _describe_remote_files(
    folder_uri: str, folder_name: str, entries: Iterable[tuple[str, Mapping[str, Any]]]
) -> list[StoredObject]:
    """Convert fsspec's entries below a folder; their URIs start with the URI of the folder."""
    root = folder_name.rstrip("/") + "/"
    found = []
    for name, entry in entries:
        # Some tools mark folders by empty objects whose names end in a slash.
        if entry["type"] == "file" and name.startswith(root) and not name.endswith("/"):
            found.append(_describe_remote(join_uri(folder_uri, name[len(root) :]), entry))
    return found


def _to_uri_below(folder_uri: str, folder: Path, path: Path) -> str:
    return join_uri(folder_uri, path.relative_to(folder).as_posix())


def _describe_local(uri: str, path: Path) -> StoredObject:
    """Describe a file of a local disk."""
    status = path.stat()
    return StoredObject(uri=uri, size_bytes=status.st_size, etag=f"{status.st_mtime_ns:x}-{status.st_size:x}")


def _describe_remote(uri: str, entry: Mapping[str, Any]) -> StoredObject:
    """Convert fsspec's entry. Each store has its own name for the etag."""
    size_bytes = int(entry["size"] or 0)
    for key in ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "xet_hash"):
        if entry.get(key):
            return StoredObject(uri=uri, size_bytes=size_bytes, etag=str(entry[key]).strip('"'))
    changed = next((entry[key] for key in ("mtime", "LastModified", "created") if entry.get(key)), "")
    # The memory store reports a time as a number or as a date, depending on the call.
    changed = changed.timestamp() if isinstance(changed, datetime) else changed
    changed = f"{round(changed * 1e6):x}" if isinstance(changed, float) else changed
    return StoredObject(uri=uri, size_bytes=size_bytes, etag=f"{changed}-{size_bytes:x}")


def _describe_local_files(found: Iterable[tuple[str, Path]], on_broken_link: BrokenLink = None) -> list[StoredObject]:
    """Describe local files by their URIs; skip folders, temporary files, and files deleted in the meantime."""
    described = []
    for uri, path in found:
        if path.name.startswith(TEMPORARY_PREFIX):
            continue
        if not path.is_file():
            if on_broken_link is not None and path.is_symlink() and not path.exists():
                on_broken_link(uri)
            continue
        with suppress(FileNotFoundError):
            described.append(_describe_local(uri, path))
    return described


def _walk(folder: Path) -> Iterator[Path]:
    """Iterate over the files below a folder; follow links to folders. Errors of the disk are raised."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, names in os.walk(folder, onerror=fail, followlinks=True):
        yield from (Path(parent, name) for name in names)
