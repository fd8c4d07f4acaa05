"""Folders of images: with Hugging Face's metadata tables, or with one sub-folder a class."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from pipeline.collections.rows import Findings, IndexRow, Listing, NamedImage, PathFollower
from pipeline.collections.tables import has_paths, read_table
from pipeline.errors import ShardError
from pipeline.inputs.patterns.folders import OUTPUT_FOLDERS, PassedOverFiles
from pipeline.inputs.tables.kinds import GZIP_SUFFIX, TEXT_SUFFIXES, strip_suffix
from pipeline.run.config import InputConfig
from pipeline.run.records import PARQUET_SUFFIX, RUN_FILE
from pipeline.storage.bulk.scanning import scan_folder
from pipeline.storage.uris import join_uri

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl", "jp2"}
)
"""Suffixes of images; those that cannot be decoded become rows that say so."""
SIDECAR_SUFFIXES = frozenset({"txt", "json", "cls", "caption"})
NO_CLASS = re.compile(
    r"(train|training|val|valid|validation|dev|test|testing|images?|imgs?|jpegimages|photos?|pictures?|data)[-_]?\d*",
    re.IGNORECASE,
)
"""Names of folders that stand for a part of a collection, or for images as such."""
MAX_SHOWN = 4
METADATA_STEM = "metadata"
HIDDEN_PART = re.compile(r"(^|/)(\.|__)")
"""Start of a hidden name in a path; as in Hugging Face's imagefolder."""
HIDDEN = "hidden files, of names that begin with '.' or '__'"


class Folder(NamedTuple):
    """Visible files below a folder."""

    uri: str
    images: Listing
    tables: list[str]
    """Relative paths of tables, sorted."""
    parquets: list[str]
    others: Listing
    hidden: Listing
    """Files that only a table may name."""
    passed_over: PassedOverFiles


def scan_images(folder_uri: str) -> Folder | None:
    """List a folder; None as soon as it holds a tar, which makes it a folder of shards.

    Raises:
        OSError: The store failed.
    """
    passed_over = PassedOverFiles()
    folder = Folder(folder_uri, {}, [], [], {}, {}, passed_over)
    for file in scan_folder(folder_uri, passed_over.add_broken_link):
        suffix = file.name.rpartition(".")[2].lower()
        if HIDDEN_PART.search(file.name):
            folder.hidden[file.name] = (file.size_bytes, file.etag)
        elif suffix in IMAGE_SUFFIXES:
            folder.images[file.name] = (file.size_bytes, file.etag)
        elif suffix == "tar":
            return None
        elif strip_suffix(file.name) in TEXT_SUFFIXES:
            folder.tables.append(file.name)
        elif suffix == "parquet":
            folder.parquets.append(file.name)
        else:
            folder.others[file.name] = (file.size_bytes, file.etag)
    _drop_outputs(folder)
    folder.tables.sort()
    folder.parquets.sort()
    return folder


def _drop_outputs(folder: Folder) -> None:
    """Drop the outputs of runs: an output folder may be below the images."""
    runs = [name.removesuffix(RUN_FILE) for name in folder.others if f"/{name}".endswith(f"/{RUN_FILE}")]
    outputs = tuple(run + part for run in runs for part in OUTPUT_FOLDERS)
    if outputs:
        for names in (folder.tables, folder.parquets):
            names[:] = [name for name in names if not name.startswith(outputs)]
        for name in [name for name in folder.others if name.startswith(outputs)]:
            del folder.others[name]


def collect_folder(folder: Folder, config: InputConfig, findings: Findings, key_base: str = "") -> Iterator[IndexRow]:
    """List the samples of a folder of images.

    With metadata tables their rows, table by table; else all images, sorted by path, each tagged by its folder.

    Args:
        folder: The folder.
        config: How tables are read.
        findings: What is found is added.
        key_base: Folder that stands before all paths to make keys.

    Raises:
        ShardError: The folder says nothing about tags, or two things.
    """
    findings.passed_over.merge(folder.passed_over)
    metadata = [name for name in (*folder.tables, *folder.parquets) if _get_stem(name) == METADATA_STEM]
    metadata.sort()
    if metadata:
        follower = PathFollower(folder.uri, config, findings, folder.images | folder.others | folder.hidden)
        yield from _follow_metadata(folder, metadata, config, findings, follower, key_base)
    else:
        _require_class_folders(folder, config)
        follower = PathFollower(folder.uri, config, findings, folder.images)
        yield from follower.follow(_tag_by_folder(sorted(folder.images)), key_base=key_base)
    _count_others(folder, follower.used.union(metadata), findings)


def _count_others(folder: Folder, used: Set[str], findings: Findings) -> None:
    """Count the files that are neither the image of a row nor a table that was read."""
    for name in sorted(folder.images.keys() - used):
        findings.passed_over.add("images that no metadata table names", name)
    for name in sorted(folder.hidden.keys() - used):
        findings.passed_over.add(HIDDEN, name)
    for name in (*folder.tables, *folder.parquets, *sorted(folder.others)):
        if name not in used:
            findings.passed_over.add_other(name)


def _tag_by_folder(names: Iterable[str]) -> Iterator[NamedImage]:
    for name in names:
        parent = posixpath.basename(posixpath.dirname(name))
        yield NamedImage(name, name, None, [parent] if parent else None)


def _get_stem(name: str) -> str:
    return posixpath.basename(name).lower().removesuffix(GZIP_SUFFIX).rpartition(".")[0]


def _follow_metadata(
    folder: Folder,
    metadata: Sequence[str],
    config: InputConfig,
    findings: Findings,
    follower: PathFollower,
    key_base: str,
) -> Iterator[IndexRow]:
    """Follow the tables of Hugging Face's imagefolder, each for its own folder."""
    places = Counter(posixpath.dirname(name) for name in metadata)
    twice = next((place for place, number in places.items() if number > 1), None)
    if twice is not None:
        both = [name for name in metadata if posixpath.dirname(name) == twice]
        raise ShardError(f"folder '{folder.uri}' holds '{both[0]}' and '{both[1]}'; keep one of them")
    for name in metadata:
        findings.note_table(join_uri(folder.uri, name))
        base = posixpath.dirname(name)
        rows = read_table(join_uri(folder.uri, name), config)
        yield from follower.follow(rows, base, posixpath.join(key_base, base) if base else key_base)


def _require_class_folders(folder: Folder, config: InputConfig) -> None:
    """Check that images are in sub-folders, and that nothing else there is likely to hold their tags.

    Raises:
        ShardError: They are not.
    """
    tables = [name for name in folder.tables if has_paths(join_uri(folder.uri, name), config)]
    if tables:
        raise ShardError(
            f"folder '{folder.uri}' holds images and a table of paths, '{tables[0]}', which is not named metadata; "
            f"name the table instead, as --shards {join_uri(folder.uri, tables[0])}"
        )
    if config.tags_table is not None:
        return
    stems = {name.rpartition(".")[0] for name in folder.images}
    sidecars = [
        name
        for name in folder.others
        if name.rpartition(".")[2].lower() in SIDECAR_SUFFIXES and name.rpartition(".")[0] in stems
    ]
    if 2 * len(sidecars) > len(stems):
        raise ShardError(
            f"folder '{folder.uri}' holds a file of tags beside each image, such as '{sidecars[0]}'; make a shard of "
            f"it, by tar --sort=name -cf photos.tar -C {folder.uri} ."
        )
    classes = {posixpath.basename(posixpath.dirname(name)) for name in folder.images} - {""}
    if all(NO_CLASS.fullmatch(name) for name in classes):
        where = f" in {', '.join(f'{name!r}' for name in sorted(classes)[:MAX_SHOWN])}" if classes else ""
        raise ShardError(
            f"folder '{folder.uri}' holds {len(folder.images)} images such as '{min(folder.images)}'{where} and nothing"
            f" about their tags; {_advise_on_tags(folder)}"
        )


def _advise_on_tags(folder: Folder) -> str:
    """Where the tags of a folder of images may be."""
    if folder.tables:
        return (
            f"if '{folder.tables[0]}' holds them, name it and its columns, as --shards "
            f"{join_uri(folder.uri, folder.tables[0])} --inputs.image-column NAME --inputs.tags-field NAME"
        )
    documents = sorted(name for name in folder.others if name.lower().endswith(".json"))
    if documents:
        return f"if '{documents[0]}' holds them, name it, as --shards {join_uri(folder.uri, documents[0])}"
    return "put a metadata.csv with columns file_name and tags beside them, or one sub-folder a class"


def choose_table(folder: Folder) -> str | None:
    """Table of a folder without images: the only one that is no Parquet file; None if there is none.

    Raises:
        ShardError: There are several.
    """
    found = [name for name in folder.tables if strip_suffix(name) in TEXT_SUFFIXES]
    named = [name for name in found if _get_stem(name) == METADATA_STEM] or found
    if len(named) > 1:
        raise ShardError(
            f"folder '{folder.uri}' holds {len(named)} tables, such as '{named[0]}' and '{named[1]}', and no images; "
            f"name those that you mean, as in '{join_uri(folder.uri, named[0])}'"
        )
    return named[0] if named else None


def list_parquets(folder: Folder) -> list[str]:
    """URIs of the Parquet files of a folder that holds no images."""
    return [join_uri(folder.uri, name) for name in folder.parquets if name.lower().endswith(PARQUET_SUFFIX)]
