"""Input shards that patterns match, in a stable order."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from braceexpand import braceexpand

from pipeline.errors import ShardError, UriError
from pipeline.inputs.patterns.folders import (
    GLOB_CHARACTERS,
    HIDDEN,
    STATISTICS_SUFFIX,
    TAR_SUFFIX,
    PassedOverFiles,
    is_hidden_match,
    list_folder_shards,
    require_uncompressed,
)
from pipeline.inputs.patterns.list_files import read_patterns
from pipeline.run.fingerprint import hash_uri
from pipeline.run.records import PARQUET_SUFFIX, InputShard
from pipeline.storage.listing import StoredObject, find_object, glob_objects, list_folder, require_bucket
from pipeline.storage.uris import get_local_path, identify_place, list_schemes, normalise_uri

MAX_LOOKUPS = 8
"""Maximum number of names in a folder to look up one by one; for more the folder is listed once."""

MAX_NAME_BYTES = 200
"""File systems allow 255 bytes; suffixes and hashes are added."""


def _ignore(_: str) -> None:
    """Ignore a warning."""


def list_shards(patterns: Sequence[str], on_warning: Callable[[str], None] = _ignore) -> tuple[InputShard, ...]:
    """List the shards that patterns match, in the order of the patterns, sorted within a pattern.

    Args:
        patterns: Each a path or URI of an archive, a folder (all `*.tar` below it, else all `*.parquet`), a glob, a
            brace pattern such as `s3://bucket/train-{00000..00099}.tar`, or `@` and a text file with one of these
            a line.
        on_warning: Called once for each pattern of which files were passed over, with their counts and examples.

    Raises:
        ShardError: A pattern matches nothing, some names of a brace pattern are missing, or a file has an
            unsupported format.
        UriError: A URI has an unknown scheme, or one whose driver is not installed.
    """
    found: dict[str, StoredObject] = {}
    warnings: list[str] = []
    for pattern in read_patterns(patterns):
        if not pattern.text.strip():
            raise ShardError("a pattern of shards is empty; name an archive, a folder or a pattern")
        passed_over = PassedOverFiles()
        try:
            text = _make_absolute(normalise_uri(pattern.text))
            for item in _expand_pattern(text, passed_over):
                # Two spellings of a name are one shard.
                found.setdefault(identify_place(item.uri), item)
        except (ShardError, UriError, ValueError) as error:
            if not pattern.origin:
                raise
            raise ShardError(pattern.explain(error)) from error
        if passed_over:
            warnings.append(f"'{text}': passed over {passed_over.describe()}")
    if not found:
        raise ShardError("need at least one shard, got no pattern; name archives, folders or patterns")
    for item in found.values():
        require_uncompressed(item.uri)
    for warning in warnings:
        on_warning(warning)
    return _make_shards(list(found.values()))


def _make_shards(items: Sequence[StoredObject]) -> tuple[InputShard, ...]:
    shards = [
        InputShard(uri=item.uri, name=_make_shard_name(item.uri), size_bytes=item.size_bytes, etag=item.etag)
        for item in items
    ]
    # Some file systems ignore case.
    times = Counter(shard.name.casefold() for shard in shards)
    return tuple(
        replace(shard, name=f"{shard.name}-{hash_uri(shard.uri)}") if times[shard.name.casefold()] > 1 else shard
        for shard in shards
    )


def _make_absolute(pattern: str) -> str:
    """Make a local path absolute: workers have other working folders."""
    path = get_local_path(pattern)
    return pattern if path is None or "://" in pattern else os.path.abspath(path.expanduser())  # noqa: PTH100 (keeps links)


def _expand_pattern(pattern: str, passed_over: PassedOverFiles) -> list[StoredObject]:
    """List the files that one pattern matches; count those that are passed over.

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
        return _match_globs(pattern, names, passed_over)
    if names != [pattern]:
        return _look_up_names(pattern, names)
    shards = list_folder_shards(pattern, passed_over)
    if not shards:
        require_bucket(pattern)
        raise ShardError(f"no shard at '{pattern}': {_describe_nothing(pattern)}")
    return shards


def _match_globs(pattern: str, names: Sequence[str], passed_over: PassedOverFiles) -> list[StoredObject]:
    """List the files that globs match, without hidden ones."""
    found: dict[str, StoredObject] = {}
    hidden: dict[str, StoredObject] = {}
    for name in names:
        items = glob_objects(name, passed_over.add_broken_link) if GLOB_CHARACTERS.search(name) else [find_object(name)]
        for item in filter(None, items):
            is_hidden = bool(GLOB_CHARACTERS.search(name)) and is_hidden_match(name, item.uri)
            (hidden if is_hidden else found)[item.uri] = item
    for uri in sorted(hidden.keys() - found.keys()):
        passed_over.add(HIDDEN, uri)
    for uri in [uri for uri in found if uri.endswith(STATISTICS_SUFFIX)]:
        passed_over.add_other(uri)
        del found[uri]
    if not found:
        require_bucket(pattern)
        if passed_over:
            advice = passed_over.advise() or "name the files if they are data"
            raise ShardError(f"shard pattern '{pattern}' matches no shard, only {passed_over.describe()}; {advice}")
        raise ShardError(f"shard pattern '{pattern}' matches no file; check the folder and the pattern")
    return list(found.values())


def _describe_nothing(pattern: str) -> str:
    """What stands at a name without any file, and what to do."""
    path = get_local_path(pattern)
    if path is None:
        if {"http", "https"} & set(list_schemes(pattern)):
            return "the server has no such file, and no page that lists files; check the address, or name the files"
        return "it is neither a file nor a folder; check the path"
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            return f"'{place}' is a link to '{place.readlink()}', which does not exist; correct the link"
    if path.is_dir():
        return "it is an empty folder; check the path"
    return "it is neither a file nor a folder; check the path"


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
        require_bucket(missing[0])
        shown = ", ".join(f"'{name}'" for name in missing[:5])
        path = get_local_path(missing[0])
        if path is not None and path.is_dir():
            raise ShardError(f"shard pattern '{pattern}' names folders, such as '{missing[0]}'; give each by itself")
        raise ShardError(
            f"shard pattern '{pattern}': {len(missing)} of {len(names)} shards do not exist, such as {shown}; "
            "copy them or change the pattern"
        )
    return [found[name] for name in sorted(names)]


def _make_shard_name(uri: str) -> str:
    """Derive a shard's name from its URI.

    >>> _make_shard_name("s3://bucket/train 00001.tar")
    'train_00001'
    """
    name = re.sub(r"[^\w.\-]", "_", uri.rpartition("/")[2].removesuffix(TAR_SUFFIX).removesuffix(PARQUET_SUFFIX))
    if len(name.encode()) > MAX_NAME_BYTES or not name.strip("."):
        name = f"{name.encode()[:MAX_NAME_BYTES].decode(errors='ignore')}-{hash_uri(uri)}"
    return f"_{name[1:]}" if name.startswith(".") else name
