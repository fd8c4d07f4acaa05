"""Files and objects as a listing shows them: how large they are, and a text that changes with their content."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.storage.atomic_files import TEMPORARY_PREFIX

UNKNOWN_ETAG = "-0"
"""Etag of an object of which a listing tells neither size nor time of change, as some listings over HTTP."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """A file or object as a listing shows it."""

    uri: str
    size_bytes: int
    etag: str
    """Changes when the content changes: the store's etag, or time of change and size on a local disk."""


def describe_local(uri: str, path: Path) -> StoredObject:
    """Describe a file of a local disk."""
    status = path.stat()
    return StoredObject(uri=uri, size_bytes=status.st_size, etag=f"{status.st_mtime_ns:x}-{status.st_size:x}")


def describe_remote(uri: str, entry: Mapping[str, Any]) -> StoredObject:
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


def describe_listed(found: Iterable[tuple[str, Path]]) -> list[StoredObject]:
    """Describe files by their URIs; without folders, files that are being written, and files that are gone by now."""
    described = []
    for uri, path in found:
        if path.name.startswith(TEMPORARY_PREFIX) or not path.is_file():
            continue
        with suppress(FileNotFoundError):
            described.append(describe_local(uri, path))
    return described


def walk(folder: Path) -> Iterator[Path]:
    """Give the files below a folder, through links to folders too. Errors of the disk are raised."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, names in os.walk(folder, onerror=fail, followlinks=True):
        yield from (Path(parent, name) for name in names)
