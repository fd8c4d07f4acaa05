"""Files of a folder of images by kind: images, tables, and what is passed over."""

import posixpath
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

from pipeline.audit.sources.listing import FolderWalk, SourceFile
from pipeline.audit.sources.tables import CSV_SUFFIXES, LINES_SUFFIXES, PARQUET_SUFFIX, get_suffix

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .avif .heic .heif .jxl .jp2".split()  # noqa: SIM905
)
HIDDEN = "hidden files, of names that begin with '.' or '__'"
BROKEN_LINK = "broken links"
UNNAMED = "images that no metadata table names"
WITHOUT_SUFFIX = "without a suffix"
STATISTICS = "_stats.json"
MAX_SUFFIX_LETTERS = 12
RUN_FILE = "run.json"
OUTPUT_FOLDERS = frozenset({"labels", "parts", "retries", "inputs", "extensions"})


@dataclass(kw_only=True)
class KindCount:
    """Files of one kind."""

    num_old: int = 0
    """Those that were there when the collection was listed."""
    num_new: int = 0
    """Those that were added or written since then, or perhaps."""
    example: str = ""
    """Name of the first old one, else of the first new one."""

    def add(self, name: str, *, is_new: bool) -> None:
        """Count a file."""
        if not self.example or (not is_new and not self.num_old):
            self.example = name
        self.num_new += is_new
        self.num_old += not is_new

    def merge(self, other: "KindCount") -> None:
        """Add the files of another folder."""
        if not self.example or (other.num_old and not self.num_old):
            self.example = other.example
        self.num_old += other.num_old
        self.num_new += other.num_new


def is_new(file: SourceFile, since_s: float | None) -> bool:
    """True if a file was written or moved to its place after a time, or if that cannot be known."""
    return file.changed_s is None or since_s is None or file.changed_s > since_s


class FileNames:
    """Files below a folder that rows may name, with their sizes and times, in little memory."""

    def __init__(self, root_uri: str) -> None:
        """Start without files."""
        self.prefix = root_uri.rstrip("/") + "/"
        self._numbers: dict[str, int] = {}
        self._sizes_bytes = array("q")
        self._changed_s = array("d")
        self._is_used = bytearray()

    def __len__(self) -> int:
        """Count the files."""
        return len(self._numbers)

    def add(self, file: SourceFile) -> None:
        """Add a file."""
        if self._numbers.setdefault(file.name, len(self._numbers)) == len(self._sizes_bytes):
            self._sizes_bytes.append(file.size_bytes)
            self._changed_s.append(inf if file.changed_s is None else file.changed_s)
            self._is_used.append(False)

    def find(self, uri: str | None) -> str | None:
        """Name of the file at a URI; None if it is not among them."""
        if uri is None or not uri.startswith(self.prefix):
            return None
        name = uri[len(self.prefix) :]
        return name if name in self._numbers else None

    def use(self, name: str) -> None:
        """Mark a file as one that a row names."""
        self._is_used[self._numbers[name]] = True

    def is_unused(self, name: str) -> bool:
        """True if no row has named a file so far."""
        return not self._is_used[self._numbers[name]]

    def get_size(self, name: str) -> int:
        """Size in bytes."""
        return self._sizes_bytes[self._numbers[name]]

    def is_new(self, name: str, since_s: float | None) -> bool:
        """True if a file was written or moved to its place after a time, or if that cannot be known."""
        return since_s is None or self._changed_s[self._numbers[name]] > since_s

    def list_unused(self, since_s: float | None) -> Iterator[tuple[str, bool]]:
        """Files that no row names, each with whether it is new since a time."""
        return ((name, self.is_new(name, since_s)) for name in self._numbers if self.is_unused(name))

    def list_used_suffixes(self) -> set[str]:
        """Suffixes of the files that rows name."""
        return {name.rpartition(".")[2] for name in self._numbers if not self.is_unused(name)}


class FolderFiles:
    """All files below a folder of images."""

    def __init__(self, root_uri: str, since_s: float | None) -> None:
        """List the folder.

        Args:
            root_uri: The folder.
            since_s: Unix time at which the run listed it.

        Raises:
            OSError: The store failed.
        """
        self.walk = FolderWalk(root_uri=root_uri, since_s=since_s)
        self.images = FileNames(root_uri)
        self.others = FileNames(root_uri)
        """Files that are images only if a table names them."""
        self.tables: dict[str, bool] = {}
        """Names of tables, each with whether it is new."""
        self._since_s = since_s
        self._broken_links = KindCount()
        runs: set[str] = set()
        in_outputs: list[SourceFile] = []
        for file in self.walk.list_files():
            kind = None if file.is_broken else _judge(file.name)
            if file.is_broken:
                self._broken_links.add(file.name, is_new=is_new(file, since_s))
            elif kind is None:
                self.images.add(file)
            elif kind != HIDDEN and not OUTPUT_FOLDERS.isdisjoint(file.name.split("/")[:-1]):
                in_outputs.append(file)
            else:
                self._add(file, kind)
            if posixpath.basename(file.name) == RUN_FILE and kind != HIDDEN:
                runs.add(posixpath.dirname(file.name))
        for file in in_outputs:
            if not any(run in runs for run in _list_runs(file.name)):
                self._add(file, _judge(file.name))

    def count_kinds(self, read_tables: frozenset[str]) -> Mapping[str, KindCount]:
        """Count the files that are neither images, by their suffix or by a row, nor tables that were read.

        Args:
            read_tables: Names of those.
        """
        kinds = {BROKEN_LINK: self._broken_links}
        for name, was_added in self.others.list_unused(self._since_s):
            kinds.setdefault(_judge(name) or "", KindCount()).add(name, is_new=was_added)
        for name, was_added in self.tables.items():
            if name not in read_tables:
                kinds.setdefault(_name_suffix(name), KindCount()).add(name, is_new=was_added)
        return kinds

    def _add(self, file: SourceFile, kind: str | None) -> None:
        if kind != HIDDEN and is_table(file.name):
            self.tables[file.name] = is_new(file, self._since_s)
        else:
            self.others.add(file)


def is_table(name: str) -> bool:
    """True for names of tables."""
    return get_suffix(name) in (*CSV_SUFFIXES, *LINES_SUFFIXES, PARQUET_SUFFIX)


def is_metadata(name: str) -> bool:
    """True for the names of Hugging Face's tables."""
    return posixpath.basename(name).lower().removesuffix(".gz").rpartition(".")[0] == "metadata"


def _judge(name: str) -> str | None:
    """Kind of a file by its name; None for an image."""
    if any(part.startswith((".", "__")) for part in name.split("/")):
        return HIDDEN
    suffix = posixpath.splitext(posixpath.basename(name).lower())[1]
    return None if suffix in IMAGE_SUFFIXES else _name_suffix(name)


def _name_suffix(name: str) -> str:
    name = posixpath.basename(name)
    if name.endswith(STATISTICS):
        return f"*{STATISTICS}"
    stem, _, suffix = name.rpartition(".")
    return f"*.{suffix}" if stem and len(suffix) <= MAX_SUFFIX_LETTERS else WITHOUT_SUFFIX


def _list_runs(name: str) -> Iterator[str]:
    """Folders of which a file would be an output."""
    parts = name.split("/")
    return ("/".join(parts[:place]) for place, part in enumerate(parts[:-1]) if part in OUTPUT_FOLDERS)
