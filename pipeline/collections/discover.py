"""What the patterns of --shards name: shards, or a collection that is listed into index shards."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain, takewhile
from typing import Any, NamedTuple

from braceexpand import braceexpand

from pipeline.collections.coco import find_root, is_coco, read_coco, read_document, read_json_records
from pipeline.collections.folders import Folder, choose_table, collect_folder, list_parquets, scan_images
from pipeline.collections.growth import FOUND, KnownRows
from pipeline.collections.index import (
    count_rows_of,
    list_index_shards,
    read_records,
    write_growth,
    write_record,
    write_shards,
)
from pipeline.collections.parquet_tables import is_path_table
from pipeline.collections.rows import Findings, IndexRow, PathFollower, count_rows, require_images
from pipeline.collections.tables import read_table
from pipeline.errors import RunConflictError, ShardError
from pipeline.inputs.allowed_places import is_web_uri
from pipeline.inputs.patterns.folders import GLOB_CHARACTERS
from pipeline.inputs.shards import list_shards
from pipeline.inputs.tables.kinds import TEXT_SUFFIXES, strip_suffix
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
    recorded: tuple[str, ...] = ()
    """File names of the index shards that the run has by its record; empty: those that `index.json` names."""


def find_inputs(
    patterns: Sequence[str],
    config: InputConfig,
    index: IndexPlace,
    on_note: Callable[[str], None],
    on_warning: Callable[[str], None],
    *,
    extend: bool = False,
) -> tuple[InputShard, ...]:
    """List the shards that patterns match, or list a collection into index shards.

    The index of a run that has begun is used as it stands. To extend the run, the collection is listed again, and rows
    that the index lacks go into further index shards. They count once the run has them: if another driver adds some
    first, call this function again.

    Args:
        patterns: As of `list_shards`; or folders of images, tables with a column of paths, COCO files.
        config: How tables are read.
        index: Where an index of a collection is kept.
        on_note: Called with sentences about what was found.
        on_warning: Called with sentences about what was passed over or is missing.
        extend: True to add the rows that a run lacks.

    Raises:
        ShardError: Nothing is found, it is ambiguous, or it lacks what is needed.
        RunConflictError: The run was begun with another collection.
        ManifestError: The record of the index cannot be read.
        OSError: The store failed.
    """
    listed_at = datetime.now(UTC).isoformat()
    source = _describe_source(patterns, config)
    # The run records where its index shards are, and workers have other working folders.
    index = replace(index, uri=_make_absolute(index.uri))
    if records := read_records(index.uri, index.recorded) if index.is_begun else []:
        _require_same_source(records, source, index.uri, extend=extend)
        shards = list_index_shards(index.uri, index.recorded or records[0]["shards"])
        if not extend:
            advice = "; --extend would list them again and add what is new" if index.recorded else ""
            on_note(f"using the list of {count_rows_of(records)} images that this run has{advice}")
            return shards
        sources = _recognise_all(patterns, config)
        if sources is None:
            raise ShardError(f"'{patterns[0]}' was a collection when this run was begun, and is none now; put it back")
        added, findings, lines = _grow_index(sources, source, config, index, shards, listed_at)
    elif (index.is_begun and not extend) or (sources := _recognise_all(patterns, config)) is None:
        return list_shards(patterns, on_warning)
    elif index.is_begun:
        raise RunConflictError(
            f"the run in --out has shards, and '{sources[0].uri}' is a {sources[0].kind}; label shards and "
            "collections under two --out"
        )
    else:
        shards, findings = (), Findings(listed_at=listed_at)
        added = _write_index(sources, source, config, index.scratch_uri or index.uri, findings)
        lines = [f"{findings.num_rows} rows, {findings.num_with_tags} with tags"]
    what = _name(sources)
    for note in (f"{what}: {lines[0]}", *findings.notes):
        on_note(note)
    for warning in (*_list_warnings(findings), *lines[1:]):
        on_warning(f"{what}: {warning}")
    return (*shards, *added)


def _require_same_source(
    records: Sequence[dict[str, Any]], source: dict[str, Any], index_uri: str, *, extend: bool
) -> None:
    """Check that a run lists the collection of its index; further patterns may be added to extend it.

    Raises:
        RunConflictError: It lists another one.
    """
    last = records[-1]["source"]
    if not extend and source in [record["source"] for record in records]:
        return
    named = {pattern for record in records for pattern in record["source"]["patterns"]}
    if extend and last | {"patterns": []} == source | {"patterns": []} and named <= set(source["patterns"]):
        return
    changes = "; ".join(list_changes(last, source))
    advice = "name the old ones, too, with the same options as before" if extend else "give the same command as before"
    raise RunConflictError(f"'{index_uri}' is the index of another collection: {changes}; {advice}, or another --out")


def _recognise_all(patterns: Sequence[str], config: InputConfig) -> list[_Source] | None:
    """Sources that patterns name; None if they name shards, or nothing.

    Raises:
        ShardError: Some of them name shards.
    """
    sources = [_recognise(pattern, config) for pattern in patterns]
    plain = [pattern for pattern, found in zip(patterns, sources, strict=True) if not found]
    if plain and len(plain) < len(patterns):
        other = next(found for found in sources if found)[0]
        raise ShardError(
            f"'{other.uri}' is a {other.kind} and '{plain[0]}' is not; label shards and collections under two --out"
        )
    return None if plain or not patterns else list(chain.from_iterable(sources))


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
        if is_pattern or find_object(uri) is not None:
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
    rows = count_rows(_collect_all(sources, config, findings), findings)
    names = write_shards(rows, folder_uri, findings)
    require_images(findings, _name(sources), _advise(sources, config))
    write_record(folder_uri, description, names, findings)
    return list_index_shards(folder_uri, names)


def _collect_all(sources: Sequence[_Source], config: InputConfig, findings: Findings) -> Iterator[IndexRow]:
    """List the rows of sources; before the paths of each stands its folder, where their folders differ."""
    folders = [source.uri if source.folder is not None else source.uri.rpartition("/")[0] for source in sources]
    places = [folder.rstrip("/").split("/") for folder in folders]
    num_common = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False)))
    for source, place in zip(sources, places, strict=True):
        key_base = "" if config.image_root is not None else "/".join(place[num_common:])
        yield from _collect(source, config, findings, key_base)


def _grow_index(
    sources: Sequence[_Source],
    description: dict[str, Any],
    config: InputConfig,
    index: IndexPlace,
    shards: Sequence[InputShard],
    listed_at: str,
) -> tuple[tuple[InputShard, ...], Findings, list[str]]:
    """Write index shards of the rows that the run lacks.

    Returns:
        The shards, what was found about their rows, and a note and warnings about the other rows.
    """
    known = KnownRows(shards)
    listed, new = Findings(), Findings(listed_at=listed_at)
    rows = count_rows(_collect_all(sources, config, listed), listed)
    folder_uri = index.scratch_uri or index.uri
    names = write_shards(count_rows(known.select_new(rows), new), folder_uri, listed, len(shards))
    require_images(listed, _name(sources), _advise(sources, config))
    new.passed_over, new.notes, new.tables = listed.passed_over, listed.notes, listed.tables
    lines = [f"none of {listed.num_rows} rows is new"]
    if names:
        lines = [f"{new.num_rows} of {listed.num_rows} rows are new, {new.num_with_tags} of these with tags"]
    if known.differences:
        kinds = known.differences.list_kinds()
        shown = "; ".join(f"{kind}: {number}, such as '{example}'" for kind, (number, example) in kinds.items())
        advice = "--retry rejected:not_found labels what was missing; " if FOUND in kinds else ""
        lines.append(
            f"the {known.num_rows} rows of the run stay as they were listed first, but differ now ({shown}); {advice}"
            "another --out takes all as it is now"
        )
    if not names:
        return (), new, lines
    require_images(new, f"what is new in {_name(sources)}", _advise(sources, config))
    write_growth(folder_uri, description, names, new, known, len(shards))
    return list_index_shards(folder_uri, names, len(shards)), new, lines


def _collect(source: _Source, config: InputConfig, findings: Findings, key_base: str) -> Iterator[IndexRow]:
    if source.folder is not None:
        yield from collect_folder(source.folder, config, findings, key_base)
        return
    findings.note_table(source.uri)
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
    yield from follower.follow(images, key_base=key_base)
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
    return (
        f"its paths {where}; name the folder that they start at by --inputs.image-root, or another column of paths by "
        "--inputs.image-column"
    )


def _name(sources: Sequence[_Source]) -> str:
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    return f"{sources[0].kind} '{sources[0].uri}'{more}"


def _list_warnings(findings: Findings) -> Iterator[str]:
    """Sentences about what is missing or passed over."""
    if findings.missing:
        kinds = findings.missing.list_kinds().items()
        shown = "; ".join(f"{kind}: {number}, such as '{example}'" for kind, (number, example) in kinds)
        yield f"{len(findings.missing)} rows are rejected as not_found ({shown})"
    if findings.passed_over:
        yield f"passed over {findings.passed_over.describe()}"
