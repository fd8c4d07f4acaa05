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
OUTPUT_FOLDERS = frozenset({"labels", "parts", "retries", "inputs"})


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


class ImageNames:
    """Images below a folder, with their sizes and times, in little memory."""

    def __init__(self, root_uri: str) -> None:
        """Start without images."""
        self.prefix = root_uri.rstrip("/") + "/"
        self._numbers: dict[str, int] = {}
        self._sizes_bytes = array("q")
        self._changed_s = array("d")
        self._is_used = bytearray()

    def __len__(self) -> int:
        """Count the images."""
        return len(self._numbers)

    def add(self, file: SourceFile) -> None:
        """Add an image."""
        if self._numbers.setdefault(file.name, len(self._numbers)) == len(self._sizes_bytes):
            self._sizes_bytes.append(file.size_bytes)
            self._changed_s.append(inf if file.changed_s is None else file.changed_s)
            self._is_used.append(False)

    def find(self, uri: str | None) -> str | None:
        """Name of the image at a URI; None if it is not among them."""
        if uri is None or not uri.startswith(self.prefix):
            return None
        name = uri[len(self.prefix) :]
        return name if name in self._numbers else None

    def use(self, name: str) -> None:
        """Mark an image as one that a row names."""
        self._is_used[self._numbers[name]] = True

    def is_unused(self, name: str) -> bool:
        """True if no row has named an image so far."""
        return not self._is_used[self._numbers[name]]

    def get_size(self, name: str) -> int:
        """Size in bytes."""
        return self._sizes_bytes[self._numbers[name]]

    def is_new(self, name: str, since_s: float | None) -> bool:
        """True if an image was written or moved to its place after a time, or if that cannot be known."""
        return since_s is None or self._changed_s[self._numbers[name]] > since_s

    def list_unused(self, since_s: float | None) -> Iterator[tuple[str, bool]]:
        """Images that no row names, each with whether it is new since a time."""
        return ((name, self.is_new(name, since_s)) for name in self._numbers if self.is_unused(name))

    def list_used_suffixes(self) -> set[str]:
        """Suffixes of the images that rows name."""
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
        self.images = ImageNames(root_uri)
        self.tables: dict[str, bool] = {}
        """Names of tables, each with whether it is new."""
        self._kinds: dict[str, KindCount] = {}
        runs: set[str] = set()
        in_outputs: list[tuple[SourceFile, str]] = []
        for file in self.walk.list_files():
            kind = _judge(file)
            folders = file.name.split("/")[:-1]
            if kind is None:
                self.images.add(file)
            elif kind not in (HIDDEN, BROKEN_LINK) and not OUTPUT_FOLDERS.isdisjoint(folders):
                in_outputs.append((file, kind))
            else:
                self._add(file, kind, since_s)
            if posixpath.basename(file.name) == RUN_FILE and kind != HIDDEN:
                runs.add(posixpath.dirname(file.name))
        for file, kind in in_outputs:
            if not any(run in runs for run in _list_runs(file.name)):
                self._add(file, kind, since_s)

    def count_kinds(self, read_tables: frozenset[str]) -> Mapping[str, KindCount]:
        """Count the files that are neither images nor tables that were read.

        Args:
            read_tables: Names of those.
        """
        for name, new in self.tables.items():
            if name not in read_tables:
                self._kinds.setdefault(_name_suffix(name), KindCount()).add(name, is_new=new)
        return self._kinds

    def _add(self, file: SourceFile, kind: str, since_s: float | None) -> None:
        if kind not in (HIDDEN, BROKEN_LINK) and is_table(file.name):
            self.tables[file.name] = is_new(file, since_s)
        else:
            self._kinds.setdefault(kind, KindCount()).add(file.name, is_new=is_new(file, since_s))


def is_table(name: str) -> bool:
    """True for names of tables."""
    return get_suffix(name) in (*CSV_SUFFIXES, *LINES_SUFFIXES, PARQUET_SUFFIX)


def is_metadata(name: str) -> bool:
    """True for the names of Hugging Face's tables."""
    return posixpath.basename(name).lower().removesuffix(".gz").rpartition(".")[0] == "metadata"


def _judge(file: SourceFile) -> str | None:
    """Kind of a file; None for an image."""
    if file.is_broken:
        return BROKEN_LINK
    if any(part.startswith((".", "__")) for part in file.name.split("/")):
        return HIDDEN
    name = posixpath.basename(file.name).lower()
    return None if posixpath.splitext(name)[1] in IMAGE_SUFFIXES else _name_suffix(file.name)


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
