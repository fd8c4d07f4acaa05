"""Checks of run.json and its extensions against their digests, and of the model against its digest in run.json."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.audit.archives.member_rules import MemberRules, read_member_rules
from pipeline.audit.manifest_format import ManifestFormat, make_format, refuse_repeated
from pipeline.audit.rows import RowRules, read_rules
from pipeline.errors import ManifestError
from pipeline.run.records import RUN_FILE, InputShard
from pipeline.storage.listing import find_object, list_folder
from pipeline.storage.reading import open_stream, read_bytes
from pipeline.storage.uris import get_local_path, join_uri

IDENTITY_FIELDS = ("config", "format_version", "inputs", "model_digest", "source", "vocabulary")
"""Fields of the fingerprint; only runs that make masks of kept maps have a `source`."""
OTHER_FIELDS = ("fingerprint", "library_version", "model_uri", "record_sha256")
EXTENSIONS_FOLDER = "extensions"
EXTENSION_FIELDS = ("fingerprint", "inputs", "library_version", "previous_sha256", "record_sha256")
EXTENSION_NAME = re.compile(r"[0-9]{6}\.json")
MODEL_FILES = ("model.json", "model.safetensors")
PIECE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Content of run.json and its extensions that an audit needs."""

    fingerprint: str
    shards: tuple[InputShard, ...]
    """Those of run.json, then those of each extension."""
    inputs: Mapping[str, Any]
    """Configuration of the inputs, with the columns of Parquet files."""
    rules: RowRules
    members: MemberRules
    """Which members of a tar are samples."""
    format: ManifestFormat
    """Columns and texts of its manifests."""
    model_uri: str
    model_digest: str
    faults: tuple[str, ...]
    """Contradictions within run.json."""
    extension_faults: tuple[str, ...] = ()
    """Contradictions within its extensions, each with the name of the file."""


def read_record(out_uri: str) -> RunRecord:
    """Read run.json and the extensions of an output folder and find their contradictions.

    Raises:
        ManifestError: There is no run, or this version cannot read its run.json.
    """
    uri = join_uri(out_uri, RUN_FILE)
    try:
        fields = json.loads(read_bytes(uri), object_pairs_hook=refuse_repeated, parse_constant=_refuse_constant)
        if not isinstance(fields, dict):
            raise ValueError(f"it holds a {type(fields).__name__}")
        if missing := {"fingerprint", "inputs", "vocabulary"} - fields.keys():
            raise ValueError(f"{sorted(missing)} are missing")
    except FileNotFoundError as error:
        raise ManifestError(f"'{out_uri}' holds no labelling run: {RUN_FILE} is missing; check the folder") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"'{uri}' is not the record of a run: {error}; was it edited?") from error
    try:
        record = _parse_record(fields)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ManifestError(
            f"'{uri}' cannot be understood: {error!r}; use the version of tagmask that wrote it"
        ) from error
    shards, faults = list(record.shards), list[str]()
    for found in _read_extensions(out_uri, fields):
        faults += found.faults
        shards += found.shards
    if len(shards) > len(record.shards):
        faults += _find_repeated(shards)
    return replace(record, shards=tuple(shards), extension_faults=tuple(faults))


def check_model(record: RunRecord) -> tuple[str, str]:
    """Compare the digest of the model with run.json.

    Returns:
        A fault of the model, and a reason why it could not be checked; at least one of them is empty.
    """
    digest = hashlib.sha256()
    try:
        for name in MODEL_FILES:
            uri = join_uri(record.model_uri, name)
            found = find_object(uri)
            if found is None:
                return "", f"'{uri}' is not there"
            digest.update(f"{name} {found.size_bytes}\n".encode())
            stream = open_stream(uri)
            while piece := stream.read(PIECE_BYTES):
                digest.update(piece)
            stream.close()
    except Exception as error:  # noqa: BLE001 (run.json may name any URI, and each store raises its own exceptions)
        return "", f"'{record.model_uri}' cannot be read: {error or type(error).__name__}"
    if digest.hexdigest() == record.model_digest:
        return "", ""
    if get_local_path(record.model_uri) is not None and not record.model_uri.startswith(("/", "file://")):
        # From this folder the path may lead to another model.
        return "", f"'{record.model_uri}' is a relative path, at which another model stands here"
    return f"'{record.model_uri}' has the digest {digest.hexdigest()}, run.json states {record.model_digest}", ""


def _parse_record(fields: Mapping[str, Any]) -> RunRecord:
    shards = tuple(_parse_input(entry) for entry in fields["inputs"])
    faults = tuple(_find_record_faults(fields))
    inputs = fields["config"]["inputs"]
    for name in ("image_column", "key_column"):
        if not isinstance(inputs.get(name), str | None):
            raise ValueError(f"config.inputs.{name} is {inputs[name]!r}")
    for name in ("fingerprint", "model_uri", "model_digest"):
        if not isinstance(fields[name], str):
            raise ValueError(f"{name} is {fields[name]!r}")
    rules = read_rules(fields)
    return RunRecord(
        fingerprint=fields["fingerprint"],
        shards=shards,
        inputs=inputs,
        rules=rules,
        members=read_member_rules(_get_format_version(fields), inputs),
        format=make_format(
            list(fields["vocabulary"]["classes"]), rules.mask.palette, is_old=not rules.has_place_columns
        ),
        model_uri=fields["model_uri"],
        model_digest=fields["model_digest"],
        faults=faults,
    )


def _get_format_version(fields: Mapping[str, Any]) -> Any:
    """Version by whose rules the rows were made: of kept maps, that of the run that kept them."""
    version = fields.get("format_version")
    return fields["source"].get("format_version", version) if "source" in fields else version


def _parse_input(entry: Any) -> InputShard:
    uri, name, size_bytes, etag = entry
    if not (isinstance(uri, str) and isinstance(name, str) and isinstance(etag, str) and type(size_bytes) is int):
        raise ValueError(f"one of its inputs is {entry!r}")
    return InputShard(uri=uri, name=name, size_bytes=size_bytes, etag=etag)


def _find_record_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    if unknown := sorted(fields.keys() - {*IDENTITY_FIELDS, *OTHER_FIELDS}):
        yield f"it has the fields {unknown}, which no version of tagmask up to this one writes"
    identity = {name: value for name, value in fields.items() if name in IDENTITY_FIELDS}
    if _hash_fields(identity) != fields["fingerprint"]:
        yield f"its fingerprint is {fields['fingerprint']!r}, that of its content {_hash_fields(identity)}"
    # Earlier versions wrote no digest: their model_uri and library_version cannot be checked.
    recorded = {name: value for name, value in fields.items() if name != "record_sha256"}
    if "record_sha256" in fields and fields["record_sha256"] != _hash_fields(recorded):
        yield f"its record_sha256 is {fields['record_sha256']!r}, that of its content {_hash_fields(recorded)}"
    if not isinstance(fields.get("library_version"), str):
        yield f"its library_version is {fields.get('library_version')!r}"


@dataclass(frozen=True, kw_only=True)
class _Link:
    """One file of the folder of extensions."""

    shards: tuple[InputShard, ...] = ()
    faults: tuple[str, ...] = ()


def _read_extensions(out_uri: str, first: Mapping[str, Any]) -> Iterator[_Link]:
    """Read the extensions in the order of their numbers, each compared with the record before it."""
    before = _hash_fields({name: value for name, value in first.items() if name != "record_sha256"})
    number = 0
    for item in list_folder(join_uri(out_uri, EXTENSIONS_FOLDER)):
        name = item.uri.rpartition("/")[2]
        if not EXTENSION_NAME.fullmatch(name):
            yield _Link(faults=(f"{name} is not the name of an extension",))
            continue
        if int(name[:6]) != number + 1:
            yield _Link(faults=(f"{name} follows number {number}",))
        number = int(name[:6])
        try:
            fields = json.loads(
                read_bytes(item.uri), object_pairs_hook=refuse_repeated, parse_constant=_refuse_constant
            )
            stated = fields["record_sha256"]
            shards = tuple(_parse_input(entry) for entry in fields["inputs"])
            faults = tuple(f"{name}: {fault}" for fault in _find_extension_faults(fields, first, before))
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
            yield _Link(faults=(f"{name} cannot be read: {error or type(error).__name__}",))
            continue
        before = stated
        yield _Link(shards=shards, faults=faults)


def _find_extension_faults(fields: Mapping[str, Any], first: Mapping[str, Any], before: str) -> Iterator[str]:
    has_manifests = isinstance(first.get("source"), dict)
    if (names := sorted(fields)) != sorted([*EXTENSION_FIELDS, *(["manifests"] if has_manifests else [])]):
        yield f"it has the fields {names}"
    digest = _hash_fields({name: value for name, value in fields.items() if name != "record_sha256"})
    if fields["record_sha256"] != digest:
        yield f"its record_sha256 is {fields['record_sha256']!r}, that of its content {digest}"
    if fields["fingerprint"] != first["fingerprint"]:
        yield f"its fingerprint is {fields['fingerprint']!r}, that of the run {first['fingerprint']!r}"
    if fields["previous_sha256"] != before:
        yield f"its previous_sha256 is {fields['previous_sha256']!r}, the digest of the record before it {before!r}"
    if not isinstance(fields["library_version"], str):
        yield f"its library_version is {fields['library_version']!r}"
    if not fields["inputs"]:
        yield "it adds no shard"
    if has_manifests and len(manifests := fields["manifests"]) != len(fields["inputs"]):
        yield f"it adds {len(fields['inputs'])} shards and {len(manifests)} manifests"


def _find_repeated(shards: Sequence[InputShard]) -> Iterator[str]:
    """Find shards of equal URIs or names; a record without extensions is covered by its fingerprint."""
    for kind, values in (("URI", [s.uri for s in shards]), ("name", [s.name.casefold() for s in shards])):
        if len(set(values)) < len(values):
            value, times = Counter(values).most_common(1)[0]
            yield f"{times} shards have the {kind} {value!r}"


def _hash_fields(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no JSON")
