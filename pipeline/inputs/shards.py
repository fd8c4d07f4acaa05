"""Input shards that patterns match, in a stable order."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from braceexpand import braceexpand

from pipeline.errors import ShardError
from pipeline.run.fingerprint import hash_uri
from pipeline.run.records import PARQUET_SUFFIX, RUN_FILE, InputShard
from pipeline.storage.listing import StoredObject, find_object, glob_objects, list_folder, list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import get_local_path

MAX_LOOKUPS = 8
"""Maximum number of names in a folder to look up one by one; for more the folder is listed once."""

OUTPUT_FOLDERS = ("labels/", "parts/", "retries/")

MAX_NAME_BYTES = 200
"""File systems allow 255 bytes; suffixes and hashes are added."""

GLOB_CHARACTERS = re.compile(r"[*?\[]")
TAR_SUFFIX = ".tar"
STATISTICS_SUFFIX = "_stats.json"
"""Suffix of the statistics that img2dataset writes beside each shard; a glob may match them by accident."""
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def list_shards(patterns: Sequence[str]) -> tuple[InputShard, ...]:
    """List the shards that patterns match, in the order of the patterns, sorted within a pattern.

    Args:
        patterns: Each a path or URI of an archive, a folder (all `*.tar` below it, else all `*.parquet`), a glob, a
            brace pattern such as `s3://bucket/train-{00000..00099}.tar`, or `@` and a text file with one of these
            a line.

    Raises:
        ShardError: A pattern matches nothing, some names of a brace pattern are missing, or a file has an
            unsupported format.
    """
    found: dict[str, StoredObject] = {}
    for pattern in _read_pattern_files(patterns):
        for item in _expand_pattern(_make_absolute(pattern)):
            found.setdefault(item.uri, item)
    if not found:
        raise ShardError("need at least one shard, got no pattern; name archives, folders or patterns")
    for uri in found:
        _require_supported(uri)
    shards = [
        InputShard(uri=item.uri, name=_make_shard_name(item.uri), size_bytes=item.size_bytes, etag=item.etag)
        for item in found.values()
    ]
    # Some file systems ignore case.
    times = Counter(shard.name.casefold() for shard in shards)
    return tuple(
        replace(shard, name=f"{shard.name}-{hash_uri(shard.uri)}") if times[shard.name.casefold()] > 1 else shard
        for shard in shards
    )


def _read_pattern_files(patterns: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        if not pattern.startswith("@"):
            yield pattern
            continue
        try:
            lines = read_bytes(pattern[1:]).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ShardError(
                f"list of shards '{pattern[1:]}' is not UTF-8: {error.reason} at byte {error.start}; correct it"
            ) from error
        except FileNotFoundError as error:
            raise ShardError(f"list of shards '{pattern[1:]}' does not exist; check the path") from error
        yield from (line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _make_absolute(pattern: str) -> str:
    """Make a local path absolute: workers have other working folders."""
    path = get_local_path(pattern)
    return pattern if path is None or "://" in pattern else os.path.abspath(path.expanduser())  # noqa: PTH100 (keeps links)


def _expand_pattern(pattern: str) -> list[StoredObject]:
    """List the files that one pattern matches.

    Raises:
        ShardError: Nothing matches, or not all names of a brace pattern exist.
    """
    # An existing name is literal, even if it contains pattern characters.
    if (item := find_object(pattern)) is not None:
        return [item]
    try:
        names = list(dict.fromkeys(braceexpand(pattern))) if "{" in pattern else [pattern]
    except ValueError as error:
        raise ShardError(f"shard pattern '{pattern}' has unbalanced braces; close them") from error
    if GLOB_CHARACTERS.search(pattern):
        found = [item for name in names for item in glob_objects(name) if not item.uri.endswith(STATISTICS_SUFFIX)]
        if not found:
            raise ShardError(f"shard pattern '{pattern}' matches no file; check the folder and the pattern")
        return found
    return _list_shards_below(pattern) if names == [pattern] else _look_up_names(pattern, names)


def _list_shards_below(folder_uri: str) -> list[StoredObject]:
    """List the tars below a folder, or its Parquet files if it has none.

    A Parquet file beside a tar of the same name is the metadata of img2dataset, not a shard.
    """
    items = [item for item in list_objects(folder_uri) if not item.uri.rpartition("/")[2].startswith(".")]
    # An output folder may be below, or be the folder itself: outputs of a run are not inputs.
    runs = [item.uri.removesuffix(RUN_FILE) for item in items if item.uri.endswith(f"/{RUN_FILE}")]
    outputs = tuple(run + folder for run in runs for folder in OUTPUT_FOLDERS)
    items = [item for item in items if not item.uri.startswith(outputs)]
    tars = [item for item in items if item.uri.endswith(TAR_SUFFIX)]
    tables = [item for item in items if item.uri.endswith(PARQUET_SUFFIX)]
    stems = {item.uri.removesuffix(TAR_SUFFIX) for item in tars}
    alone = [item.uri for item in tables if item.uri.removesuffix(PARQUET_SUFFIX) not in stems]
    if tars and alone:
        raise ShardError(
            f"folder '{folder_uri}' holds tars such as '{tars[0].uri}' and other Parquet files such as '{alone[0]}'; "
            f"name those that you mean, as in '{folder_uri}/*.tar'"
        )
    if not tars and not tables:
        for item in items:
            _require_supported(item.uri)
        seen = (
            f"a folder of {len(items)} files, none of them *.tar or *.parquet"
            if items
            else "neither a file nor a folder"
        )
        raise ShardError(f"no shard at '{folder_uri}': it is {seen}; check the path")
    return tars or tables


def _look_up_names(pattern: str, names: Sequence[str]) -> list[StoredObject]:
    """Look up names; list each folder once if it has many of them."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        by_folder.setdefault(name.rpartition("/")[0], []).append(name)
    found: dict[str, StoredObject] = {}
    for folder, group in by_folder.items():
        looked_up = list_folder(folder) if len(group) > MAX_LOOKUPS else map(find_object, group)
        found |= {item.uri: item for item in looked_up if item is not None}
    missing = [name for name in names if name not in found]
    if missing:
        shown = ", ".join(f"'{name}'" for name in missing[:5])
        raise ShardError(
            f"shard pattern '{pattern}': {len(missing)} of {len(names)} shards do not exist, such as {shown}; "
            "copy them or change the pattern"
        )
    return [found[name] for name in sorted(names)]


def _require_supported(uri: str) -> None:
    if uri.lower().endswith(COMPRESSED_SUFFIXES):
        raise ShardError(f"shard '{uri}' is compressed, which is not supported; decompress it, as images do not shrink")


def _make_shard_name(uri: str) -> str:
    """Derive a shard's name from its URI.

    >>> _make_shard_name("s3://bucket/train 00001.tar")
    'train_00001'
    """
    name = re.sub(r"[^\w.\-]", "_", uri.rpartition("/")[2].removesuffix(TAR_SUFFIX).removesuffix(PARQUET_SUFFIX))
    if len(name.encode()) > MAX_NAME_BYTES or not name.strip("."):
        name = f"{name.encode()[:MAX_NAME_BYTES].decode(errors='ignore')}-{hash_uri(uri)}"
    return f"_{name[1:]}" if name.startswith(".") else name
