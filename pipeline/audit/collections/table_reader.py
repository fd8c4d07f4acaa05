"""Reader of one table, with what an audit collects while its rows are compared."""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.audit.collections.recorded_sources import SourceTable
from pipeline.audit.collections.records import IndexRow
from pipeline.audit.sources.coco import JsonTable
from pipeline.audit.sources.folder_files import ImageNames
from pipeline.audit.sources.listing import FolderWalk
from pipeline.audit.sources.places import Root
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
        self._names: ImageNames | None = None
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

    def get_names(self) -> ImageNames | None:
        """List the folder of the images, the first time; None if the web has them or no image is found."""
        root_uri = self._root.uri
        if self._names is None and root_uri is not None and not root_uri.startswith(("http://", "https://")):
            self.walk = FolderWalk(root_uri=root_uri, since_s=self._listed_s)
            self._names = ImageNames(root_uri)
            for file in self.walk.list_files():
                if not file.is_broken:
                    self._names.add(file)
        return self._names

    def find_fault(self, entry: Entry, row: IndexRow) -> str:
        """Difference between a row of the table and the row of the index; empty if there is none."""
        base = self.table.base
        if entry.path and (row.uri is None or not self._root.leads_to(entry.path, base, row.uri)):
            return f"its path is '{entry.path}', the index leads to '{row.uri}'"
        if not entry.path and row.problem is None:
            return f"it names no path, the index leads to '{row.uri}'"
        is_tagged_elsewhere = self._options.has_tags_table and entry.tags is None
        if not is_tagged_elsewhere and not are_same_tags(entry.tags, row.tags, is_text=entry.is_text):
            return f"its tags are {entry.tags!r}, the index has {row.tags}"
        return ""


class TableEntry(NamedTuple):
    """Row of a table, and its reader."""

    entry: Entry
    reader: TableReader
