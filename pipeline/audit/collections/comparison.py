"""Comparison of the rows of an index with its source, one after the other."""

import os
import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from pipeline.audit.collections.join import EntryJoin
from pipeline.audit.collections.recorded_sources import judge_table, open_collection
from pipeline.audit.collections.records import IndexRow, RecordedIndex
from pipeline.audit.collections.table_reader import MAX_LOOKUPS, TableEntry, TableReader
from pipeline.audit.sources.folder_files import UNNAMED, FileNames, FolderFiles, KindCount, is_new
from pipeline.audit.sources.listing import find_file, was_never_there
from pipeline.audit.sources.places import WEB
from pipeline.audit.sources.tables import TableOptions
from pipeline.audit.sources.tag_texts import are_same_tags
from pipeline.audit.verdict import Check, Problem

UNNAMED_BY_TABLE = "images that the table does not name"
STRANGERS = "annotations of images that are not listed"
NUM_THREADS = 16
LOOKUPS_AT_ONCE = 1024


class CollectionComparison:
    """Comparison of one collection, which was listed once, or again when its run was extended."""

    def __init__(self, index: RecordedIndex, options: TableOptions) -> None:
        """List the source.

        Args:
            index: Its records; the last one states what was passed over, and the tables' state.
            options: By which tables are read.

        Raises:
            GoneError: A source does not exist any more.
            OSError: The store failed.
        """
        self._record = record = index.last
        self._lists_tables = sum(listing.record.num_rows for listing in index.listings) > MAX_LOOKUPS
        self._outdated = {
            listing.record.uri
            for listing in index.listings
            if any(record.tables.get(uri) != state for uri, state in listing.record.tables.items())
        }
        """Records of listings before which a table had another state than now."""
        self._collection = open_collection(record)
        self._readers = [TableReader(table, options, record.listed_s) for table in self._collection.tables]
        self._join: EntryJoin | None = None
        self._to_look_up: list[IndexRow] = []
        self._has_links = any(folder.walk.linked_folders for folder in self._collection.folders)
        self._linked: set[str] = set()
        """Real paths of images that rows name through links to folders."""

    def check_tables(self) -> Iterator[Problem]:
        """Check that the tables are those that were read, before rows are compared with them.

        Raises:
            GoneError: One does not exist any more.
            OSError: The store failed.
        """
        is_changed, readers = False, []
        for reader in self._readers:
            uri = reader.table.uri
            recorded = self._record.tables.get(uri)
            if change := judge_table(reader.table, recorded):
                is_changed = True
                yield Problem(Check.CHANGED_COLLECTION, 0, change)
            elif recorded is not None:
                readers.append(reader)
            elif (file := find_file(uri)) is not None and is_new(file, self._record.listed_s):
                yield Problem(Check.CHANGED_COLLECTION, 0, f"'{uri}' was added since the collection was listed")
            else:
                yield Problem(Check.UNLISTED_IMAGES, 0, f"'{uri}' is a table of the collection that was not read")
        self._readers = readers
        if not is_changed:
            self._join = EntryJoin(chain.from_iterable(reader.read() for reader in readers))

    def check_row(self, row: IndexRow) -> Iterator[Problem]:
        """Compare a row of the index with the source.

        Raises:
            OSError: The store failed. For a damaged table its parser raises its own exceptions.
        """
        # A name that is no Unicode has no URI.
        uris = {folder: row.uri or f"{folder.images.prefix}{row.path}" for folder in self._collection.class_folders}
        folders = [
            folder
            for folder, uri in uris.items()
            if (_is_below(row.uri, folder.images) if row.uri else folder.images.find(uri) is not None)
        ]
        if folders:
            yield from self._check_class_row(folders, row)
            return
        for folder in self._collection.table_folders:
            if _is_below(row.uri, folder.images):
                is_other = folder.others.find(row.uri) is not None
                yield from self._check_file(folder.others if is_other else folder.images, row)
        if self._join is not None:
            for mate, entry in self._join.add(row):
                yield from self._check_pair(mate, entry)

    def close(self) -> Iterator[Problem]:
        """Report what the index lacks, after all its rows.

        Raises:
            OSError: The store failed. For a damaged table its parser raises its own exceptions.
        """
        if self._join is not None:
            for row, entry in self._join.close():
                yield from self._check_pair(row, entry)
            for row in self._join.list_rows_left():
                text = f"'{row.path or row.key}', key '{row.key}': the index has it more often than the collection"
                yield Problem(self._blame(row), 1, text)
            left = list(self._join.list_entries_left())
            # An extension adds no row for an image that was moved.
            check = Check.CHANGED_COLLECTION if len(left) <= self._record.num_moved else Check.UNLISTED_IMAGES
            for found, _ in left:
                yield Problem(check, 1, f"{found.where}: '{found.path or found.key}' is no row of the index")
        yield from self._look_up()
        for folder in self._collection.class_folders:
            yield from self._check_unused(folder)
        yield from self._check_kinds()

    def _blame(self, row: IndexRow) -> Check:
        """Check that a difference from a table fails: none if the table changed before the run was extended."""
        return Check.CHANGED_COLLECTION if row.record.uri in self._outdated else Check.WRONG_INDEX_ROWS

    def _check_class_row(self, folders: list[FolderFiles], row: IndexRow) -> Iterator[Problem]:
        """Check a row of a folder whose sub-folders are the tags."""
        named = [
            (folder.images, name)
            for folder in folders
            if (name := folder.images.find(row.uri or f"{folder.images.prefix}{row.path}")) is not None
        ]
        if not any(images.is_unused(name) for images, name in named) and named:
            text = f"'{row.uri}': the index has it more often than the collection"
            yield Problem(Check.WRONG_INDEX_ROWS, 1, text)
            return
        images = next((images for images, name in named if images.is_unused(name)), folders[0].images)
        yield from self._check_file(images, row)
        uri = row.uri or f"{images.prefix}{row.path}"
        path = uri.removeprefix(images.prefix)
        tag = posixpath.basename(posixpath.dirname(path))
        # Of several folders, each stands before the keys of its images.
        if row.path != path or not (row.key == path or (row.key.endswith(f"/{path}") and uri.endswith(f"/{row.key}"))):
            text = f"'{uri}': the index has the key '{row.key}' and the path '{row.path}'"
            yield Problem(Check.WRONG_INDEX_ROWS, 1, text)
        elif not are_same_tags([tag] if tag else None, row.tags):
            text = f"'{uri}': it is in folder '{tag}', the index has the tags {row.tags}"
            yield Problem(Check.WRONG_INDEX_ROWS, 1, text)

    def _check_pair(self, row: IndexRow, found: TableEntry) -> Iterator[Problem]:
        entry, reader = found
        if fault := found.find_fault(row):
            yield Problem(self._blame(row), 1, f"{entry.where}, '{entry.path or entry.key}': {fault}")
        elif reader.table.is_alone and row.uri and not row.uri.startswith(WEB):
            names = reader.get_names() if self._lists_tables else None
            if names is not None and _is_below(row.uri, names):
                yield from self._check_file(names, row)
            else:
                yield from self._queue(row)

    def _check_file(self, images: FileNames, row: IndexRow) -> Iterator[Problem]:
        """Compare a row with the file that it names, and mark that."""
        name = images.find(row.uri or f"{images.prefix}{row.path}")
        if name is None:
            yield from self._queue(row)
            return
        images.use(name)
        was_changed, size_bytes = images.is_new(name, row.record.listed_s), images.get_size(name)
        if row.problem is not None:
            if row.uri is not None and not was_changed:
                yield _describe_found(row)
        elif row.size_bytes is not None and row.size_bytes != size_bytes:
            check = Check.CHANGED_COLLECTION if was_changed else Check.WRONG_INDEX_ROWS
            yield Problem(check, 1, f"'{row.uri}' has {size_bytes} bytes, the index states {row.size_bytes}")

    def _queue(self, row: IndexRow) -> Iterator[Problem]:
        self._to_look_up.append(row)
        if len(self._to_look_up) >= LOOKUPS_AT_ONCE:
            yield from self._look_up()

    def _look_up(self) -> Iterator[Problem]:
        """Look up files that no listing has, and those that the index calls missing."""
        rows = [row for row in self._to_look_up if row.uri is not None]
        self._to_look_up = []
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for row, file in zip(rows, pool.map(lambda row: find_file(row.uri or ""), rows), strict=True):
                if row.problem is not None:
                    if file is not None and not is_new(file, row.record.listed_s):
                        yield _describe_found(row)
                elif file is not None:
                    if self._has_links:
                        self._linked.add(os.path.realpath(row.uri or ""))
                elif was_never_there(row.uri or "", row.record.listed_s):
                    text = f"'{row.uri}' does not exist, and nothing was removed from its folder since it was listed"
                    yield Problem(Check.WRONG_INDEX_ROWS, 1, text)
                else:
                    yield Problem(Check.CHANGED_COLLECTION, 1, f"'{row.uri}' is gone")

    def _check_unused(self, folder: FolderFiles) -> Iterator[Problem]:
        """Report the images of a folder that no row names."""
        links = tuple(folder.walk.linked_folders)
        for name, was_added in folder.images.list_unused(self._record.listed_s):
            uri = folder.images.prefix + name
            if links and name.startswith(links) and os.path.realpath(uri) in self._linked:
                continue
            if was_added:
                text = f"'{uri}' was added since the collection was listed"
                yield Problem(Check.CHANGED_COLLECTION, 1, text)
            else:
                text = f"'{uri}' is no row of the index; it was there when the collection was listed"
                yield Problem(Check.UNLISTED_IMAGES, 1, text)

    def _check_kinds(self) -> Iterator[Problem]:
        """Compare the numbers of what was passed over with those of the source."""
        kinds: dict[str, KindCount] = {}
        for folder in self._collection.folders:
            for kind, count in folder.count_kinds(self._collection.get_read_tables(folder)).items():
                kinds.setdefault(kind, KindCount()).merge(count)
        for folder in self._collection.table_folders:
            self._count_unused(folder.images, kinds.setdefault(UNNAMED, KindCount()))
        for reader in self._readers:
            for number in reader.strangers:
                kinds.setdefault(STRANGERS, KindCount()).add(f"image_id {number}", is_new=False)
            if reader.lists_images and (names := reader.get_names()) is not None:
                self._count_unused(names, kinds.setdefault(UNNAMED_BY_TABLE, KindCount()), names.list_used_suffixes())
        walks = [folder.walk for folder in self._collection.folders]
        walks += [reader.walk for reader in self._readers if reader.walk is not None]
        may_lack = any(walk.is_touched for walk in walks)
        for kind in sorted({*kinds, *self._record.passed_over}):
            if self._join is None and kind in (STRANGERS, UNNAMED_BY_TABLE):
                continue
            found, stated = kinds.get(kind, KindCount()), self._record.passed_over.get(kind, 0)
            text = f"'{self._record.uri}' states {kind}: {stated}; the collection has {found.num_old}"
            if stated < found.num_old:
                text = f"{text}, such as '{found.example}'"
                yield Problem(Check.UNLISTED_IMAGES, found.num_old - stated, text)
            elif stated > found.num_old + found.num_new:
                yield Problem(Check.CHANGED_COLLECTION if may_lack else Check.UNLISTED_IMAGES, 0, text)

    def _count_unused(self, images: FileNames, count: KindCount, suffixes: set[str] | None = None) -> None:
        for name, was_added in images.list_unused(self._record.listed_s):
            if suffixes is None or name.rpartition(".")[2] in suffixes:
                count.add(name, is_new=was_added)


def _is_below(uri: str | None, images: FileNames) -> bool:
    return uri is not None and uri.startswith(images.prefix)


def _describe_found(row: IndexRow) -> Problem:
    text = f"'{row.uri}' is missing by the index; it was there when the collection was listed"
    return Problem(Check.WRONG_INDEX_ROWS, 1, text)
