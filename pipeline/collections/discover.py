"""What the patterns of --shards name: shards, or a collection that is listed into index shards."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, NamedTuple

from braceexpand import braceexpand

from pipeline.collections.coco import find_root, is_coco, read_coco, read_document, read_json_records
from pipeline.collections.folders import Folder, choose_table, collect_folder, list_parquets, scan_images
from pipeline.collections.index import list_index_shards, read_record, write_record, write_shards
from pipeline.collections.parquet_tables import is_path_table
from pipeline.collections.rows import Findings, IndexRow, PathFollower, count_rows, require_images
from pipeline.collections.tables import TEXT_SUFFIXES, read_table, strip_suffix
from pipeline.errors import RunConflictError, ShardError
from pipeline.inputs.allowed_places import is_web_uri
from pipeline.inputs.patterns.folders import GLOB_CHARACTERS
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.fingerprint import list_changes
from pipeline.run.records import PARQUET_SUFFIX, InputShard
from pipeline.storage.listing import find_object
from pipeline.storage.uris import get_local_path, normalise_uri

JSON_SUFFIX = ".json"
OPTIONS = ("tags_field", "image_column", "key_column", "image_root", "allow_url")
"""Settings that determine an index."""


class _Kind(StrEnum):
    FOLDER = "folder of images"
    TABLE = "table of paths"
    BARE_PARQUET = "Parquet file of paths, without bytes of images,"


class _Source(NamedTuple):
    kind: _Kind
    uri: str
    folder: Folder | None = None


@dataclass(frozen=True)
class IndexPlace:
    """Where the index of a collection is."""

    uri: str
    """Folder below the output."""
    is_begun: bool
    """Whether the output holds a run, which keeps its index."""
    scratch_uri: str | None = None
    """Where an index is written instead if there is none; for a dry run."""


def find_inputs(
    patterns: Sequence[str],
    config: InputConfig,
    index: IndexPlace,
    on_note: Callable[[str], None],
    on_warning: Callable[[str], None],
) -> tuple[InputShard, ...]:
    """List the shards that patterns match, or list a collection into index shards.

    The index of a run that has begun is used as it stands; the collection is not listed again.

    Args:
        patterns: As of `list_shards`; or folders of images, tables with a column of paths, COCO files.
        config: How tables are read.
        index: Where an index of a collection is kept.
        on_note: Called with sentences about what was found.
        on_warning: Called with sentences about what was passed over or is missing.

    Raises:
        ShardError: Nothing is found, it is ambiguous, or it lacks what is needed.
        RunConflictError: The run was begun with another collection.
        OSError: The store failed.
    """
    source = _describe_source(patterns, config)
    record = read_record(index.uri) if index.is_begun else None
    if record is not None:
        if record["source"] != source:
            changes = "; ".join(list_changes(record["source"], source))
            raise RunConflictError(
                f"'{index.uri}' is the index of another collection: {changes}; give the same command as before, or "
                "another --out"
            )
        on_note(f"using the list of {record['num_rows']} images that this run was begun with")
        return list_index_shards(index.uri, record["shards"])
    if index.is_begun:
        # A run of shards.
        return list_shards(patterns, on_warning)
    sources = [_recognise(pattern, config) for pattern in patterns]
    plain = [pattern for pattern, found in zip(patterns, sources, strict=True) if not found]
    if len(plain) == len(patterns):
        return list_shards(patterns, on_warning)
    if plain:
        other = next(found for found in sources if found)[0]
        raise ShardError(
            f"'{other.uri}' is a {other.kind} and '{plain[0]}' is not; label shards and collections under two --out"
        )
    findings = Findings()
    folder_uri = index.scratch_uri or index.uri
    shards = _write_index(list(chain.from_iterable(sources)), source, config, folder_uri, findings)
    what = _name(list(chain.from_iterable(sources)))
    on_note(f"{what}: {findings.num_rows} rows, {findings.num_with_tags} with tags")
    for note in findings.notes:
        on_note(note)
    for warning in _list_warnings(what, findings):
        on_warning(warning)
    return shards


def _describe_source(patterns: Sequence[str], config: InputConfig) -> dict[str, Any]:
    options = {name: getattr(config, name) for name in OPTIONS}
    return {
        "patterns": [_make_absolute(pattern) for pattern in patterns],
        **options,
        "allow_url": list(config.allow_url),
    }


def _make_absolute(pattern: str) -> str:
    if pattern.startswith("@"):
        return pattern
    path = get_local_path(normalise_uri(pattern))
    return normalise_uri(pattern) if path is None else os.path.abspath(path.expanduser())  # noqa: PTH100 (keeps links)


def _recognise(pattern: str, config: InputConfig) -> list[_Source]:
    """Sources that a pattern names; none if it names shards, or nothing."""
    if pattern.startswith("@") or not pattern.strip():
        return []
    uri = _make_absolute(pattern)
    suffix = strip_suffix(uri)
    if suffix in (*TEXT_SUFFIXES, JSON_SUFFIX):
        return [_Source(_Kind.TABLE, shard.uri) for shard in list_shards([uri])]
    is_pattern = bool(GLOB_CHARACTERS.search(uri) or "{" in uri)
    if suffix == PARQUET_SUFFIX and not uri.lower().endswith(".gz"):
        if is_pattern and not GLOB_CHARACTERS.search(uri):
            first = next(iter(braceexpand(uri)), uri)
            return _recognise_parquets([first], config) and _recognise_parquets(
                [shard.uri for shard in list_shards([uri])], config
            )
        return _recognise_parquets([shard.uri for shard in list_shards([uri])] if is_pattern else [uri], config)
    if is_pattern or is_web_uri(uri) or suffix == ".tar" or find_object(uri) is not None:
        return []
    return _recognise_folder(uri, config)


def _recognise_parquets(uris: Sequence[str], config: InputConfig) -> list[_Source]:
    """Tables of paths among Parquet files, as the first of them is; none if they are shards."""
    if not uris or find_object(uris[0]) is None:
        return []
    try:
        is_table = is_path_table(uris[0], config)
    except ShardError:
        # A damaged file is a shard's failure, told by its reader.
        return []
    return [_Source(_Kind.BARE_PARQUET, uri) for uri in uris] if is_table else []


def _recognise_folder(uri: str, config: InputConfig) -> list[_Source]:
    folder = scan_images(uri)
    if folder is None:
        return []
    if folder.images:
        shards = [found for found in list_parquets(folder) if not found.lower().endswith("metadata.parquet")]
        if shards and not _recognise_parquets(shards[:1], config):
            raise ShardError(
                f"folder '{uri}' holds images and Parquet files such as '{shards[0]}'; name those that you mean, as in "
                f"'{uri}/*.parquet', or move the others away"
            )
        return [_Source(_Kind.FOLDER, uri, folder)]
    if folder.parquets:
        return _recognise_parquets(list_parquets(folder), config)
    table = choose_table(folder)
    return [_Source(_Kind.TABLE, f"{uri.rstrip('/')}/{table}")] if table else []


def _write_index(
    sources: Sequence[_Source],
    description: dict[str, Any],
    config: InputConfig,
    folder_uri: str,
    findings: Findings,
) -> tuple[InputShard, ...]:
    rows = count_rows(chain.from_iterable(_collect(source, config, findings) for source in sources), findings)
    names = write_shards(rows, folder_uri, findings)
    require_images(findings, _name(sources), _advise(sources, config))
    write_record(folder_uri, description, names, findings)
    return list_index_shards(folder_uri, names)


def _collect(source: _Source, config: InputConfig, findings: Findings) -> Iterator[IndexRow]:
    if source.folder is not None:
        yield from collect_folder(source.folder, config, findings)
        return
    root = None if config.image_root is None else _make_absolute(config.image_root)
    folder = source.uri.rpartition("/")[0]
    if strip_suffix(source.uri) != JSON_SUFFIX:
        images = read_table(source.uri, config)
    else:
        document = read_document(source.uri)
        if is_coco(document):
            folder = folder if root else find_root(source.uri, document, findings)
            images = read_coco(source.uri, document, config, findings)
        else:
            images = read_json_records(source.uri, document, config)
    follower = PathFollower(root or folder, config, findings)
    yield from follower.follow(images)
    if follower.listing is not None:
        suffixes = {name.rpartition(".")[2] for name in follower.used}
        for name in sorted(follower.listing.keys() - follower.used):
            if name.rpartition(".")[2] in suffixes:
                findings.passed_over.add("images that the table does not name", name)


def _advise(sources: Sequence[_Source], config: InputConfig) -> str:
    if sources[0].folder is not None:
        return "paths of a metadata table start at its folder"
    if sources[0].uri.lower().endswith(PARQUET_SUFFIX):
        return "only paths are there, no bytes; name the folder that they start at by --inputs.image-root"
    where = "start at its folder" if config.image_root is None else f"were followed from '{config.image_root}'"
    return f"its paths {where}; name the folder that they start at by --inputs.image-root"


def _name(sources: Sequence[_Source]) -> str:
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    return f"{sources[0].kind} '{sources[0].uri}'{more}"


def _list_warnings(what: str, findings: Findings) -> Iterator[str]:
    """Sentences about what is missing or passed over."""
    if findings.missing:
        kinds = findings.missing.list_kinds().items()
        shown = "; ".join(f"{kind}: {number}, such as '{example}'" for kind, (number, example) in kinds)
        yield f"{what}: {len(findings.missing)} rows are rejected as not_found ({shown})"
    if findings.passed_over:
        yield f"{what}: passed over {findings.passed_over.describe()}"
