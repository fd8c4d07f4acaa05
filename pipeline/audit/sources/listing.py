"""Listing of a folder for an audit: names, sizes, and when each file came to its place."""

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.audit.sources.places import replace_surrogates
from pipeline.storage.atomic_files import TEMPORARY_PREFIX
from pipeline.storage.filesystems import is_s3, open_filesystem
from pipeline.storage.store_errors import translate_errors
from pipeline.storage.uris import get_local_path

TIME_FIELDS = ("LastModified", "last_modified", "updated", "timeCreated", "mtime", "created")
"""Fields of fsspec's entries that hold the time of the last change."""


class SourceFile(NamedTuple):
    """File of a collection."""

    name: str
    """Path relative to the folder; what is no Unicode is replaced."""
    size_bytes: int
    changed_s: float | None
    """Unix time at which it was written, or moved to its place; None: the store does not report it."""
    is_broken: bool = False
    """True for a link that leads nowhere."""


@dataclass(kw_only=True)
class FolderWalk:
    """One walk through all files below a folder. Links to folders are followed, each target once."""

    root_uri: str
    since_s: float | None = None
    """Time of the first listing; a folder that was moved as a whole since then counts as new with all files."""
    num_files: int = 0
    linked_folders: list[str] = field(default_factory=list)
    """Relative paths of links to folders that were followed, each with a slash."""
    is_touched: bool = False
    """True if files may have been removed since then."""

    def list_files(self) -> Iterator[SourceFile]:
        """Iterate over all files; one directory or page of a listing is in memory.

        Raises:
            OSError: The store failed.
        """
        folder = get_local_path(self.root_uri)
        for file in self._list_remote() if folder is None else self._list_local(str(folder)):
            self.num_files += 1
            yield file

    def _list_local(self, root: str) -> Iterator[SourceFile]:
        seen = {os.path.realpath(root)}
        moved_s: dict[str, float] = {}
        for parent, folders, names in os.walk(root, followlinks=True, onerror=_raise):
            status = Path(parent).stat()
            floor_s = moved_s.get(posixpath.dirname(parent), 0.0)
            if self.since_s is not None:
                self.is_touched |= max(status.st_mtime, status.st_ctime) > self.since_s
                if status.st_ctime > self.since_s >= status.st_mtime:
                    floor_s = max(floor_s, status.st_ctime)
            if floor_s:
                moved_s[parent] = floor_s
            prefix = "" if parent == root else parent[len(root.rstrip("/")) + 1 :] + "/"
            folders[:] = [name for name in folders if self._follows(posixpath.join(parent, name), prefix + name, seen)]
            for name in names:
                if not name.startswith(TEMPORARY_PREFIX):
                    yield from _describe_local(posixpath.join(parent, name), prefix + name, floor_s)

    def _follows(self, path: str, name: str, seen: set[str]) -> bool:
        if not os.path.islink(path):  # noqa: PTH114 (a million paths)
            return True
        target = os.path.realpath(path)
        if target in seen:
            return False
        seen.add(target)
        self.linked_folders.append(f"{name}/")
        return True

    def _list_remote(self) -> Iterator[SourceFile]:
        filesystem, folder = open_filesystem(self.root_uri)
        # A store does not report what was removed from it.
        self.is_touched = True
        prefix = folder.rstrip("/") + "/"
        pages = _list_s3_pages(filesystem, prefix) if is_s3(filesystem) else _list_at_once(filesystem, folder)
        while True:
            with translate_errors(self.root_uri):
                page = next(pages, None)
            if page is None:
                return
            for path, entry in page.items():
                if path.startswith(prefix) and not path.endswith("/"):
                    yield SourceFile(replace_surrogates(path[len(prefix) :]), int(entry["size"] or 0), _get_time(entry))


def find_file(uri: str) -> SourceFile | None:
    """Look up one file; None if it does not exist.

    Raises:
        OSError: The store failed.
    """
    if (path := get_local_path(uri)) is not None:
        return next((file for file in _describe_local(str(path), uri, 0.0) if not file.is_broken), None)
    filesystem, name = open_filesystem(uri)
    try:
        with translate_errors(uri):
            entry = filesystem.info(name)
    except FileNotFoundError:
        return None
    return SourceFile(uri, int(entry["size"] or 0), _get_time(entry)) if entry["type"] == "file" else None


def was_never_there(uri: str, since_s: float | None) -> bool:
    """Check that a file which is not there cannot have been removed since a time: its folder did not change."""
    path = get_local_path(uri)
    if path is None or since_s is None:
        return False
    folder = next((parent for parent in path.parents if parent.is_dir()), None)
    if folder is None:
        return False
    status = folder.stat()
    return max(status.st_mtime, status.st_ctime) <= since_s


def _describe_local(path: str, name: str, floor_s: float) -> Iterator[SourceFile]:
    try:
        status = Path(path).lstat()
        changed_s = max(status.st_ctime, floor_s)
        if stat.S_ISLNK(status.st_mode):
            try:
                status = Path(path).stat()
            except FileNotFoundError:
                yield SourceFile(replace_surrogates(name), 0, changed_s, is_broken=True)
                return
            changed_s = max(changed_s, status.st_ctime)
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISREG(status.st_mode):
        yield SourceFile(replace_surrogates(name), status.st_size, changed_s)


def _list_s3_pages(filesystem: Any, prefix: str) -> Iterator[Mapping[str, Any]]:
    """List a folder of S3 by pages; s3fs would hold all of its entries."""
    bucket, _, folder = prefix.partition("/")
    last = ""
    while True:
        after = {"StartAfter": last} if last else {}
        page = filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=folder, **after)
        found = page.get("Contents", [])
        yield {f"{bucket}/{entry['Key']}": {"size": entry["Size"], **entry} for entry in found}
        if not found or not page.get("IsTruncated"):
            return
        last = found[-1]["Key"]


def _list_at_once(filesystem: Any, folder: str) -> Iterator[Mapping[str, Any]]:
    yield filesystem.find(folder, detail=True)


def _get_time(entry: Mapping[str, Any]) -> float | None:
    found = next((entry[name] for name in TIME_FIELDS if entry.get(name)), None)
    if isinstance(found, str):
        try:
            found = datetime.fromisoformat(found)
        except ValueError:
            return None
    if isinstance(found, datetime):
        return found.timestamp()
    return float(found) if isinstance(found, int | float) else None


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
