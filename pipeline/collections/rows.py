"""Rows of a collection: from what a table or a folder says to a row of the index."""

import json
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

from pipeline.errors import ShardError
from pipeline.inputs.allowed_places import ABSOLUTE_URI, is_allowed, is_web_uri, suggest_place
from pipeline.inputs.parquet_reader import MAX_KEY_LETTERS
from pipeline.inputs.patterns.folders import PassedOverFiles
from pipeline.run.config import InputConfig
from pipeline.storage.bulk.scanning import scan_folder
from pipeline.storage.listing import find_object
from pipeline.storage.uris import get_local_path, join_uri, normalise_uri

NOT_THERE = "their image does not exist"
"""Kind of rows whose path leads to no file."""
SAME_ROW = "all of an earlier row"
OTHER_TAGS = "the image of an earlier row, with other tags"
OTHER_IMAGE = "the key of an earlier row, of another image"
"""What rows repeat; of rows of one key only the first is labelled."""
MAX_REPEATED_FRACTION = 0.05
"""Share of the rows above which repeated keys show that the table has another form."""
MAX_LOOKUPS = 1000
"""Paths of a table that are looked up one by one; for more the folder is listed once."""
NUM_THREADS = 16
WITHOUT_PATH = " without a path"
"""End of the keys of rows that name neither a key nor a path."""

Listing = dict[str, tuple[int, str]]
"""Size and etag of the files below a folder, by relative path."""


class NamedImage(NamedTuple):
    """A row of a table before its path is followed."""

    where: str
    """Place in the table, for messages."""
    path: str | None
    key: str | None
    tags: Any
    """Value as plain JSON; None for no tags."""


class IndexRow(NamedTuple):
    """A row of an index shard."""

    key: str
    path: str | None
    uri: str | None
    size_bytes: int | None
    etag: str | None
    tags: str | None
    problem: str | None


@dataclass(kw_only=True)
class Findings:
    """What was found while a collection was listed."""

    num_rows: int = 0
    num_with_tags: int = 0
    passed_over: PassedOverFiles = field(default_factory=PassedOverFiles)
    """Files that are in no row."""
    missing: PassedOverFiles = field(default_factory=PassedOverFiles)
    """Rows without an image, by reason."""
    refused: PassedOverFiles = field(default_factory=PassedOverFiles)
    """Paths that lead to places which the command line does not allow, by place."""
    repeated: PassedOverFiles = field(default_factory=PassedOverFiles)
    """Rows whose key an earlier row has, by what differs."""
    notes: list[str] = field(default_factory=list)
    """Choices that were made, as sentences."""
    listed_at: str = ""
    """Time before the first file was listed, in ISO format; an audit distinguishes by it what was added later."""
    tables: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Size and etag of each table before it was read, by URI."""

    def note_table(self, uri: str) -> None:
        """Keep the state of a table, for the audit of the index."""
        if (found := find_object(uri)) is not None:
            self.tables[uri] = (found.size_bytes, found.etag)


class PathFollower:
    """Follows the paths of tables below one root."""

    def __init__(self, root_uri: str, config: InputConfig, findings: Findings, listing: Listing | None = None) -> None:
        """Start without any path.

        Args:
            root_uri: Folder that paths may not leave.
            config: Which other places are allowed.
            findings: Where rows are counted.
            listing: Files below the root; None: they are looked up, or listed if there are many.
        """
        self.used: set[str] = set()
        """Relative paths that rows name, if there is a listing."""
        self.listing = listing
        self._root = root_uri
        self._config = config
        self._findings = findings

    def follow(self, images: Iterable[NamedImage], base: str = "", key_base: str = "") -> Iterator[IndexRow]:
        """Turn the rows of a table into rows of the index, in order.

        Args:
            images: Rows.
            base: Folder below the root that their paths start at.
            key_base: Folder that stands before a path to make a key: tables of two folders may name equal paths.
        """
        rows = iter(images)
        if self.listing is None and not is_web_uri(self._root):
            first = list(islice(rows, MAX_LOOKUPS + 1))
            if len(first) <= MAX_LOOKUPS:
                with ThreadPoolExecutor(NUM_THREADS) as pool:
                    yield from pool.map(lambda image: self._make_row(image, base, key_base), first)
                return
            self.listing = {
                file.name: (file.size_bytes, file.etag) for file in scan_folder(self._root, lambda name: None)
            }
            rows = chain(first, rows)
        for image in rows:
            yield self._make_row(image, base, key_base)

    def _make_row(self, image: NamedImage, base: str, key_base: str) -> IndexRow:
        path = image.path
        key = image.key or (path and _join_key(key_base, path))
        if not key:
            key = image.where + WITHOUT_PATH
        if len(key) > MAX_KEY_LETTERS:
            raise ShardError(f"{image.where}: key '{key[:50]}...' has {len(key)} letters, limit {MAX_KEY_LETTERS}")
        tags = None if image.tags is None else _write_tags(image.tags)
        uri, size, etag, problem = self._find(path, base) if path else (None, None, None, "its row names no path")
        if uri is not None and _clean(uri) != uri:
            # Neither Arrow nor JSON can hold the name, so no worker could be told it.
            problem = f"the name '{_clean(uri)}' is not UTF-8; rename the file"
            uri = size = etag = None
        return IndexRow(_clean(key), path and _clean(path), uri, size, etag, tags and _clean(tags), problem)

    def _find(self, path: str, base: str) -> tuple[str | None, int | None, str | None, str | None]:
        """Follow a path: URI, size, etag, and the problem if there is no image."""
        name = self._make_relative(path, base)
        if name is None:
            uri = _resolve_outside(path, self._root, base)
            if not is_allowed(uri, self._config.allow_url):
                self._findings.refused.add(suggest_place(uri), path)
            return uri, None, None, None
        if is_web_uri(self._root):
            return join_uri(self._root, name), None, None, None
        for candidate in _spell(name):
            if self.listing is None:
                if (found := find_object(join_uri(self._root, candidate))) is not None:
                    return found.uri, found.size_bytes, found.etag, None
            elif candidate in self.listing:
                self.used.add(candidate)
                return (join_uri(self._root, candidate), *self.listing[candidate], None)
        uri = join_uri(self._root, name)
        return uri, None, None, f"'{uri}' does not exist"

    def _make_relative(self, path: str, base: str) -> str | None:
        """Path below the root, normalised; None if it leads elsewhere."""
        if ABSOLUTE_URI in path or path.startswith("/"):
            root = self._root.rstrip("/") + "/"
            full = normalise_uri(path).removeprefix("file://") if get_local_path(self._root) is not None else path
            if not full.startswith(root):
                return None
            name = full.removeprefix(root)
        else:
            name = posixpath.join(base, path)
        name = posixpath.normpath(name)
        return None if _leads_out(name) else name


def _join_key(base: str, path: str) -> str:
    """Key of a path as written, below the folder of its table.

    >>> _join_key("train", "./a.jpg"), _join_key("", "a.jpg"), _join_key("train", "https://host/a.jpg")
    ('train/./a.jpg', 'a.jpg', 'https://host/a.jpg')
    """
    return path if ABSOLUTE_URI in path else posixpath.join(base, path)


def _resolve_outside(path: str, root_uri: str, base: str) -> str:
    if ABSOLUTE_URI in path:
        return normalise_uri(path)
    if path.startswith("/"):
        return posixpath.normpath(path)
    scheme, separator, folder = root_uri.rpartition(ABSOLUTE_URI)
    return scheme + separator + posixpath.normpath(posixpath.join(folder, base, path))


def _leads_out(name: str) -> bool:
    """Whether a normalised path leads out of the folder that it starts at."""
    return name == ".." or name.startswith("../")


def _spell(name: str) -> Iterator[str]:
    """Spellings of a path: as it is, with the slashes of Windows, and in the Unicode forms of other systems."""
    yield name
    if "\\" in name:
        name = posixpath.normpath(name.replace("\\", "/"))
        if not _leads_out(name):
            yield name
    if not name.isascii():
        yield from {unicodedata.normalize(form, name) for form in ("NFC", "NFD")} - {name}


def _write_tags(tags: Any) -> str:
    """Write tags as JSON; what JSON cannot hold, such as the bytes and sets of a Python list, as text and lists."""
    try:
        return json.dumps(tags, ensure_ascii=False, default=_to_plain)
    except TypeError:
        # Keys of a mapping that are no text.
        return json.dumps(str(tags), ensure_ascii=False)


def _to_plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)


def _clean(text: str) -> str:
    """Escape unpaired surrogates, which Arrow cannot hold; names that differ stay different."""
    return text.encode("utf-8", "backslashreplace").decode()


class _Keys:
    """Keys of the rows so far, as hashes: about 200 bytes each."""

    def __init__(self) -> None:
        self._images: dict[int, int] = {}
        self._rows: set[int] = set()

    def find_repeat(self, row: IndexRow) -> str:
        """Enter a row; return how it repeats an earlier one, empty if its key is new."""
        image = row.uri or row.path
        key, whole = hash(row.key), hash((row.key, image, row.tags))
        first = self._images.get(key)
        is_known = whole in self._rows
        self._rows.add(whole)
        if first is None:
            self._images[key] = hash(image)
            return ""
        return SAME_ROW if is_known else OTHER_TAGS if first == hash(image) else OTHER_IMAGE


def count_rows(rows: Iterable[IndexRow], findings: Findings) -> Iterator[IndexRow]:
    """Count rows while they pass."""
    keys = _Keys()
    for row in rows:
        findings.num_rows += 1
        if repeat := keys.find_repeat(row):
            findings.repeated.add(repeat, row.key)
        findings.num_with_tags += row.tags not in (None, "null", '""', "[]")
        if row.problem is not None:
            kind = (
                "they name no path" if not row.path else NOT_THERE if row.uri else "the name of their file is not UTF-8"
            )
            findings.missing.add(kind, row.path or row.key)
        yield row


def require_images(findings: Findings, name: str, advice: str) -> None:
    """Check that rows were found, that their places are allowed, and that not all images are missing.

    Raises:
        ShardError: One does not hold.
    """
    kinds: Mapping[str, tuple[int, str]] = findings.refused.list_kinds()
    if kinds:
        total = sum(number for number, _ in kinds.values())
        examples = ", ".join(f"'{example}'" for _, example in list(kinds.values())[:3])
        places = " ".join(list(kinds)[:5]) + (" ..." if len(kinds) > 5 else "")
        raise ShardError(
            f"{name}: {total} of {findings.num_rows} paths lead out of its image root, such as {examples}; if these "
            f"places may be read, give --inputs.allow-url {places}"
        )
    if not findings.num_rows:
        raise ShardError(f"{name} holds no row; check that it is the right one")
    _require_own_keys(findings, name)
    if len(findings.missing) < findings.num_rows:
        return
    number, example = findings.missing.list_kinds().get(NOT_THERE, (0, ""))
    if not number:
        raise ShardError(
            f"{name}: none of its {findings.num_rows} rows names a path; name the column of paths by "
            "--inputs.image-column, such as coco_url"
        )
    raise ShardError(f"{name}: none of its {number} images exists, such as '{example}'; {advice}")


def _require_own_keys(findings: Findings, name: str) -> None:
    """Check that a table has a row for each image; note the few rows that repeat another one.

    Raises:
        ShardError: Many rows have the image of another one.
    """
    kinds = findings.repeated.list_kinds()
    number, example = kinds.get(OTHER_TAGS, (0, ""))
    if number > MAX_REPEATED_FRACTION * findings.num_rows:
        raise ShardError(
            f"{name}: {number} of {findings.num_rows} rows have {OTHER_TAGS}, such as '{example}', and would be "
            "rejected; write one row for each image with the list of its tags, in pandas by groupby(...).agg(list)"
        )
    if kinds:
        shown = "; ".join(f"{kind}: {number}, such as '{example}'" for kind, (number, example) in kinds.items())
        findings.notes.append(
            f"{len(findings.repeated)} rows have the key of an earlier row; of those in a shard only the first is "
            f"labelled ({shown})"
        )
