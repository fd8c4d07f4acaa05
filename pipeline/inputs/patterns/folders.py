"""Data files below a folder, and the files beside them that are passed over."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from pipeline.errors import ShardError
from pipeline.inputs.patterns.file_kinds import FORMS
from pipeline.run.records import PARQUET_SUFFIX, RUN_FILE
from pipeline.storage.listing import StoredObject, list_objects

OUTPUT_FOLDERS = ("labels/", "parts/", "retries/", "inputs/", "extensions/")
GLOB_CHARACTERS = re.compile(r"[*?\[]")
TAR_SUFFIX = ".tar"
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jfif", "avif", "heic"})
TABLE_SUFFIXES = frozenset({"csv", "tsv", "json", "jsonl", "ndjson"})
STATISTICS_SUFFIX = "_stats.json"
"""Suffix of the statistics that img2dataset writes beside each shard."""
HIDDEN = "names that begin with '.' or '_'"
BROKEN_LINK = "broken links"
MAX_KINDS = 6
"""Maximum kinds of passed-over files that a message lists."""


class PassedOverFiles:
    """Counts of files that are no shards, by kind, each with its first example."""

    def __init__(self) -> None:
        """Start with none."""
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, uri: str) -> None:
        """Count a file."""
        self._counts[kind] += 1
        self._examples.setdefault(kind, uri)

    def add_other(self, uri: str) -> None:
        """Count a file by its suffix."""
        self.add(_name_suffix(uri), uri)

    def add_broken_link(self, uri: str) -> None:
        """Count a link that leads nowhere."""
        self.add(BROKEN_LINK, uri)

    def merge(self, other: "PassedOverFiles") -> None:
        """Add the files of another folder."""
        for kind, number in other._counts.items():
            self._counts[kind] += number
            self._examples.setdefault(kind, other._examples[kind])

    def list_kinds(self) -> dict[str, tuple[int, str]]:
        """Count and first example of each kind."""
        return {kind: (number, self._examples[kind]) for kind, number in self._counts.items()}

    def advise(self) -> str:
        """What to do if all are broken links; empty otherwise."""
        if set(self._counts) != {BROKEN_LINK}:
            return ""
        return "correct the links, or get their content, with git-annex by 'git annex get'"

    def __len__(self) -> int:
        """Count the files."""
        return self._counts.total()

    def describe(self) -> str:
        """Counts and examples in one line.

        >>> passed_over = PassedOverFiles()
        >>> passed_over.add_other("data/a.json"); passed_over.add_other("data/b.json")
        >>> passed_over.describe()
        "2 files (*.json: 2, such as 'data/a.json')"
        """
        kinds = self._counts.most_common()
        shown = [f"{kind}: {number}, such as '{self._examples[kind]}'" for kind, number in kinds[:MAX_KINDS]]
        if rest := kinds[MAX_KINDS:]:
            shown.append(f"{len(rest)} other kinds: {sum(number for _, number in rest)}")
        return f"{len(self)} {'file' if len(self) == 1 else 'files'} ({'; '.join(shown)})"


def list_folder_shards(folder_uri: str, passed_over: PassedOverFiles) -> list[StoredObject]:
    """List the tars below a folder, or its Parquet files if it has none; count all other files.

    A name below the folder that begins with `.` or `_` is hidden, with all that is below it, as in Hive and Spark. A
    Parquet file beside a tar of the same name is the metadata of img2dataset, not a shard.

    Raises:
        ShardError: The folder contains tars and other Parquet files, or neither.
    """
    items = list(_drop_outputs(list_objects(folder_uri, passed_over.add_broken_link), passed_over))
    root = folder_uri.rstrip("/") + "/"
    shown = [item for item in items if not _has_hidden_part(item.uri.removeprefix(root).split("/"))]
    tars = [item for item in shown if item.uri.lower().endswith(TAR_SUFFIX)]
    tables = [item for item in shown if item.uri.lower().endswith(PARQUET_SUFFIX)]
    stems = {item.uri[: -len(TAR_SUFFIX)] for item in tars}
    alone = [item.uri for item in tables if item.uri[: -len(PARQUET_SUFFIX)] not in stems]
    if tars and alone:
        raise ShardError(
            f"folder '{folder_uri}' holds tars such as '{tars[0].uri}' and other Parquet files such as '{alone[0]}'; "
            f"name those that you mean, as in '{folder_uri}/*.tar'"
        )
    shards = tars or tables
    chosen = {item.uri for item in shards}
    visible = {item.uri for item in shown}
    metadata = {item.uri for item in tables}
    for item in items:
        if item.uri not in visible:
            passed_over.add(HIDDEN, item.uri)
        elif item.uri not in chosen and item.uri in metadata:
            passed_over.add("*.parquet beside a tar of the same name", item.uri)
        elif item.uri not in chosen:
            passed_over.add_other(item.uri)
    if not shards:
        _refuse_folder(folder_uri, items, passed_over)
    return shards


def _drop_outputs(items: Sequence[StoredObject], passed_over: PassedOverFiles) -> Iterator[StoredObject]:
    """Drop the outputs of runs: an output folder may be below the inputs, or be their folder."""
    runs = [item.uri.removesuffix(RUN_FILE) for item in items if item.uri.endswith(f"/{RUN_FILE}")]
    outputs = tuple(run + folder for run in runs for folder in OUTPUT_FOLDERS)
    for item in items:
        if item.uri.startswith(outputs):
            passed_over.add("outputs of a labelling run", item.uri)
        else:
            yield item


def _refuse_folder(folder_uri: str, items: Sequence[StoredObject], passed_over: PassedOverFiles) -> None:
    """Explain why a folder contains no shard.

    Raises:
        ShardError: Always.
    """
    for item in items:
        require_uncompressed(item.uri)
    if not passed_over:
        return
    hidden = [item.uri for item in items if item.uri.lower().endswith((TAR_SUFFIX, PARQUET_SUFFIX))]
    if hidden:
        raise ShardError(
            f"no shard at '{folder_uri}': its {len(hidden)} archives are all hidden by {HIDDEN}, "
            f"such as '{hidden[0]}'; name their folder or the files themselves if they are data"
        )
    advice = passed_over.advise() or _advise_loose_files([item.uri for item in items])
    raise ShardError(
        f"no shard at '{folder_uri}': it is a folder of {passed_over.describe()}, none of them *.tar or *.parquet; "
        f"{advice}"
    )


def _advise_loose_files(uris: Sequence[str]) -> str:
    """Next step for a folder without archives, by the suffixes of its files."""
    suffixes = Counter(uri.rpartition(".")[2].lower() for uri in uris)
    if any(suffixes[suffix] for suffix in IMAGE_SUFFIXES | TABLE_SUFFIXES):
        return FORMS
    return "check the path, or name the files"


def require_uncompressed(uri: str) -> None:
    """Check that the name of a shard has no suffix of a compressed tar.

    Raises:
        ShardError: It has.
    """
    if uri.lower().endswith(COMPRESSED_SUFFIXES):
        raise ShardError(f"shard '{uri}' is compressed, which is not supported; decompress it, as images do not shrink")


def is_hidden_match(pattern: str, uri: str) -> bool:
    """Check whether a glob matches a file only by a wildcard for a name that begins with `.` or `_`.

    >>> is_hidden_match("data/**/*.tar", "data/_temporary/a.tar"), is_hidden_match("data/_t*/*.tar", "data/_tmp/a.tar")
    (True, False)
    """
    wanted, names = pattern.split("/"), uri.split("/")
    start = next(place for place, part in enumerate(wanted) if GLOB_CHARACTERS.search(part))
    return _has_hidden_part(names[start:]) and not _matches_visibly(wanted[start:], names[start:])


def _matches_visibly(wanted: Sequence[str], names: Sequence[str]) -> bool:
    """Match the parts of a glob, whose wildcards at the start of a part take no hidden name."""
    if not wanted:
        return not names
    first, *rest = wanted
    if first == "**":
        ends_here = not rest and not _has_hidden_part(names)
        return (
            ends_here
            or _matches_visibly(rest, names)
            or bool(names and not _has_hidden_part(names[:1]) and _matches_visibly(wanted, names[1:]))
        )
    if not names or not fnmatchcase(names[0], first):
        return False
    is_named = first.startswith((".", "_"))
    return (is_named or not _has_hidden_part(names[:1])) and _matches_visibly(rest, names[1:])


def _has_hidden_part(parts: Sequence[str]) -> bool:
    # As in Spark, a partition such as `_split=train` is not hidden.
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts)


def _name_suffix(uri: str) -> str:
    """Kind of a file by its suffix.

    >>> _name_suffix("a/x.tar.part"), _name_suffix("a/README"), _name_suffix("a/00001_stats.json")
    ('*.part', 'without a suffix', '*_stats.json')
    """
    name = uri.rpartition("/")[2]
    if name.endswith(STATISTICS_SUFFIX):
        return f"*{STATISTICS_SUFFIX}"
    stem, dot, suffix = name.rpartition(".")
    return f"*.{suffix}" if stem and dot and len(suffix) <= 12 else "without a suffix"
