"""Sources of a collection as its record names them: folders of images, and tables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from pipeline.audit.collections.records import IndexRecord, TableState
from pipeline.audit.sources.folder_files import FolderFiles, is_metadata, is_table
from pipeline.audit.sources.places import WEB
from pipeline.audit.sources.tables import JSON_SUFFIX, PARQUET_SUFFIX, get_suffix
from pipeline.storage.listing import UNKNOWN_ETAG, find_object, glob_objects, is_folder
from pipeline.storage.uris import get_local_path, join_uri

WILDCARD = re.compile(r"[*?\[]")


class GoneError(Exception):
    """A source does not exist any more."""


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """Table of paths."""

    uri: str
    root_uri: str | None
    """Folder that its paths start at; None: that of the first image of the index."""
    base: str = ""
    """Folder below the root that they start at."""
    is_alone: bool = True
    """False for a metadata table of a folder of images."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Sources of a collection."""

    class_folders: list[FolderFiles] = field(default_factory=list)
    """Folders of images that are tagged by their sub-folders."""
    table_folders: list[FolderFiles] = field(default_factory=list)
    """Folders of images with metadata tables."""
    tables: list[SourceTable] = field(default_factory=list)

    @property
    def folders(self) -> list[FolderFiles]:
        """All folders of images."""
        return self.class_folders + self.table_folders

    def get_read_tables(self, folder: FolderFiles) -> frozenset[str]:
        """Names of the metadata tables of a folder."""
        prefix = folder.images.prefix
        return frozenset(
            table.uri.removeprefix(prefix)
            for table in self.tables
            if not table.is_alone and table.uri.startswith(prefix)
        )


def open_collection(record: IndexRecord) -> Collection:
    """List the folders of a collection and find its tables.

    Raises:
        GoneError: A source does not exist any more.
        OSError: The store failed.
    """
    collection = Collection()
    for pattern in record.source["patterns"]:
        # A folder may have the name of a table: Spark writes such.
        if (is_table(pattern) or get_suffix(pattern) == JSON_SUFFIX) and not _is_folder(pattern):
            for uri in _expand(pattern):
                _add_table(collection, uri, record.source)
        else:
            _add_folder(collection, pattern, record)
    for uri in record.tables.keys() - {table.uri for table in collection.tables}:
        if find_object(uri) is None:
            raise GoneError(f"'{uri}' is gone")
        _add_table(collection, uri, record.source)
    return collection


def judge_table(table: SourceTable, recorded: TableState | None) -> str:
    """Change of a table since it was read; empty if there is none.

    Raises:
        GoneError: It does not exist any more.
        OSError: The store failed.
    """
    found = find_object(table.uri)
    if found is None:
        raise GoneError(f"'{table.uri}' is gone")
    now = TableState(found.size_bytes, found.etag)
    if recorded is None or recorded == now or recorded.etag == UNKNOWN_ETAG:
        return ""
    return (
        f"'{table.uri}' was {recorded.size_bytes} bytes, etag {recorded.etag}; is {now.size_bytes} bytes, "
        f"etag {now.etag}; the rows of the index are not compared with it"
    )


def _add_table(collection: Collection, uri: str, source: Mapping[str, Any]) -> None:
    root_uri = source.get("image_root")
    if root_uri is None:
        root_uri = _get_folder(uri)
    elif get_local_path(root_uri) is not None and not Path(root_uri.removeprefix("file://")).is_absolute():
        # It was relative to the folder in which the job ran.
        root_uri = None
    collection.tables.append(SourceTable(uri=uri, root_uri=root_uri))


def _add_folder(collection: Collection, uri: str, record: IndexRecord) -> None:
    files = FolderFiles(uri, record.listed_s)
    if not files.walk.num_files:
        raise GoneError(f"'{uri}' is gone or empty")
    recorded = {name for name in files.tables if join_uri(uri, name) in record.tables}
    if not files.images:
        old = [name for name, is_new in files.tables.items() if not is_new] or list(files.tables)
        parquets = [name for name in old if name.lower().endswith(PARQUET_SUFFIX)]
        names = parquets or [name for name in old if is_metadata(name)] or old
        if not names and not recorded:
            raise GoneError(f"'{uri}' holds no image any more")
        for name in sorted({*names, *recorded}):
            _add_table(collection, join_uri(uri, name), record.source)
        return
    names = sorted(
        name for name, is_new in files.tables.items() if name in recorded or (is_metadata(name) and not is_new)
    )
    (collection.table_folders if names else collection.class_folders).append(files)
    for name in names:
        collection.tables.append(
            SourceTable(uri=join_uri(uri, name), root_uri=uri, base=name.rpartition("/")[0], is_alone=False)
        )


def _expand(pattern: str) -> list[str]:
    """List the tables that a pattern names, sorted.

    Raises:
        GoneError: There is none.
        OSError: The store failed.
    """
    if find_object(pattern) is not None:
        return [pattern]
    names = list(braceexpand(pattern)) if "{" in pattern else [pattern]
    found = dict.fromkeys(
        uri
        for name in names
        for uri in (
            [item.uri for item in glob_objects(name) if not _is_hidden(name, item.uri)]
            if WILDCARD.search(name)
            else [name]
        )
    )
    if not found:
        raise GoneError(f"'{pattern}' matches no table any more")
    return sorted(found)


def _is_hidden(pattern: str, uri: str) -> bool:
    """True if a wildcard stands for a name that begins with a dot or an underscore."""
    if re.search(r"/[._]", pattern):
        return False
    start = WILDCARD.split(pattern)[0].rpartition("/")[0]
    return bool(re.search(r"/[._]", uri.removeprefix(start)))


def _is_folder(pattern: str) -> bool:
    is_plain = "{" not in pattern and not WILDCARD.search(pattern) and not pattern.startswith(WEB)
    return is_plain and find_object(pattern) is None and is_folder(pattern)


def _get_folder(uri: str) -> str:
    return uri.rpartition("/")[0]
