"""Streams of the files below a folder, for folders of millions of small files."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipeline.storage.atomic_files import TEMPORARY_PREFIX
from pipeline.storage.filesystems import is_s3, open_filesystem
from pipeline.storage.listing import list_objects
from pipeline.storage.store_errors import translate_errors, translate_local_errors
from pipeline.storage.uris import get_local_path


class ScannedFile(NamedTuple):
    """A file below a folder."""

    name: str
    """Path relative to the folder, with slashes."""
    size_bytes: int
    etag: str
    """As in `StoredObject`."""


def scan_folder(folder_uri: str, on_broken_link: Callable[[str], None]) -> Iterator[ScannedFile]:
    """Iterate over all files below a folder, in the order of the store. A missing folder is empty.

    Only the directory (or page of a listing) at hand is in memory.

    Args:
        folder_uri: The folder.
        on_broken_link: Called with the relative path of each link of a local disk that leads nowhere.

    Raises:
        OSError: The store failed.
    """
    if (folder := get_local_path(folder_uri)) is not None:
        with translate_local_errors(folder):
            yield from _scan_local(str(folder), on_broken_link)
        return
    filesystem, name = open_filesystem(folder_uri)
    if is_s3(filesystem):
        yield from _scan_s3(folder_uri, filesystem, name)
        return
    root = folder_uri.rstrip("/") + "/"
    for item in list_objects(folder_uri):
        yield ScannedFile(item.uri.removeprefix(root), item.size_bytes, item.etag)


def _scan_local(folder: str, on_broken_link: Callable[[str], None]) -> Iterator[ScannedFile]:
    """Follow links to folders, each folder once: a link to a parent would never end."""
    seen = {os.path.realpath(folder)}
    pending = [("", folder)]
    while pending:
        prefix, path = pending.pop()
        try:
            entries = os.scandir(path)
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.is_dir():
                    if entry.is_symlink():
                        target = os.path.realpath(entry.path)
                        if target in seen:
                            continue
                        seen.add(target)
                    pending.append((f"{name}/", entry.path))
                elif not entry.name.startswith(TEMPORARY_PREFIX):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:
                        on_broken_link(name)
                        continue
                    if entry.is_file():
                        yield ScannedFile(name, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")


def _scan_s3(folder_uri: str, filesystem: object, name: str) -> Iterator[ScannedFile]:
    """Read a listing page by page; s3fs would hold all of its dictionaries, a kilobyte each."""
    bucket, _, path = name.partition("/")
    prefix = f"{path.rstrip('/')}/" if path.strip("/") else ""
    arguments = {"Bucket": bucket, "Prefix": prefix}
    while True:
        with translate_errors(folder_uri):
            page = filesystem.call_s3("list_objects_v2", **arguments)  # type: ignore[attr-defined]
        for entry in page.get("Contents", ()):
            key = entry["Key"]
            if not key.endswith("/"):
                yield ScannedFile(key[len(prefix) :], int(entry["Size"]), str(entry["ETag"]).strip('"'))
        if not page.get("IsTruncated"):
            return
        arguments["ContinuationToken"] = page["NextContinuationToken"]
