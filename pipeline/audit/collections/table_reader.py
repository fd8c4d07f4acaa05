"""Reader of one table, with what an audit collects while its rows are compared."""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.audit.collections.recorded_sources import SourceTable
from pipeline.audit.collections.records import IndexRow
from pipeline.audit.sources.coco import JsonTable
from pipeline.audit.sources.folder_files import FileNames
from pipeline.audit.sources.listing import FolderWalk
from pipeline.audit.sources.places import WEB, Root, replace_surrogates
from pipeline.audit.sources.tables import JSON_SUFFIX, Entry, TableOptions, get_suffix, read_entries
from pipeline.audit.sources.tag_texts import are_same_tags

MAX_LOOKUPS = 1000
"""Rows of a table above which a run lists the folder of its images, and counts those that the table does not name."""


class TableReader:
    """Rows of a table, and the images below the folder that they start at."""

    def __init__(self, table: SourceTable, options: TableOptions, listed_s: float | None) -> None:
        """Start before the first row.

        Args:
            table: The table.
            options: By which it is read.
            listed_s: Unix time at which the run listed the collection.
        """
        self.table = table
        self.strangers: list[object] = []
        """Images that a COCO file annotates and does not list."""
        self.walk: FolderWalk | None = None
        self._options = options
        self._listed_s = listed_s
        self._root = Root(table.root_uri)
        self._names: FileNames | None = None
        self._num_entries = 0

    def read(self) -> Iterator["TableEntry"]:
        """Read the rows in order.

        Raises:
            ValueError: It is not such a table.
            OSError: The store failed. For a damaged file its parser raises its own exceptions.
        """
        if get_suffix(self.table.uri) == JSON_SUFFIX:
            document = JsonTable(self.table.uri)
            self.strangers = document.list_strangers()
            entries = document.read_entries(self._options)
            if document.is_coco and self._root.uri == self.table.uri.rpartition("/")[0]:
                # COCO's own layout has its images in a folder beside that of the annotations.
                self._root = Root(None)
        else:
            entries = read_entries(self.table.uri, self._options)
        for entry in entries:
            self._num_entries += 1
            yield TableEntry(entry, self)

    @property
    def lists_images(self) -> bool:
        """True if the run listed the images of this table, too."""
        return self.table.is_alone and self._num_entries > MAX_LOOKUPS

    def get_names(self) -> FileNames | None:
        """List the folder of the images, the first time; None if the web has them or no image is found."""
        root_uri = self._root.uri
        if self._names is None and root_uri is not None and not root_uri.startswith(WEB):
            self.walk = FolderWalk(root_uri=root_uri, since_s=self._listed_s)
            self._names = FileNames(root_uri)
            for file in self.walk.list_files():
                if not file.is_broken:
                    self._names.add(file)
        return self._names

    def leads_to(self, path: str, uri: str | None) -> bool:
        """True if a path of the table is a way to a file."""
        return uri is not None and self._root.leads_to(path, self.table.base, uri)

    def is_tagged_elsewhere(self, entry: Entry) -> bool:
        """True if another table holds the tags of a row."""
        return self._options.has_tags_table and entry.tags is None


class TableEntry(NamedTuple):
    """Row of a table, and its reader."""

    entry: Entry
    reader: TableReader

    def leads_to(self, row: IndexRow) -> bool:
        """True if its path is a way to the file of a row of the index."""
        return bool(self.entry.path) and self.reader.leads_to(self.entry.path or "", row.uri)

    def find_fault(self, row: IndexRow) -> str:
        """Difference between this and the row of the index; empty if there is none."""
        entry = self.entry
        if not entry.path:
            if row.problem is None:
                return f"it names no path, the index leads to '{row.uri}'"
        elif replace_surrogates(entry.path) == entry.path and not self.leads_to(row):
            return f"its path is '{entry.path}', the index leads to '{row.uri}'"
        if self.reader.is_tagged_elsewhere(entry) or are_same_tags(
            entry.tags, row.tags, is_text=entry.is_text, class_names=entry.class_names
        ):
            return ""
        return f"its tags are {entry.tags!r}, the index has {row.tags}"
