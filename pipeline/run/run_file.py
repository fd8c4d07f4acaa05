"""The identity of a labelling run: `run.json`, created once and never changed, and the shards added later."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NotRequired

from typing_extensions import TypedDict

from models.documents import DocumentError, check_fields, parse_json
from pipeline.errors import ManifestError, RunConflictError, VocabularyError
from pipeline.run.config import FORMAT_VERSION, LabelConfig, describe_config, name_unset, parse_config
from pipeline.run.extensions import (
    MAX_RUN_BYTES,
    Growth,
    RecordedInput,
    create_extension,
    list_input_differences,
    merge_inputs,
    name_added,
    read_growth,
    require_allowed,
)
from pipeline.run.fingerprint import compute_fingerprint, get_library_version, list_changes, to_canonical_json
from pipeline.run.records import RUN_FILE, InputShard
from pipeline.run.vocabulary import Vocabulary, parse_vocabulary
from pipeline.storage.listing import exists
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import create_if_absent

MAX_RIVALS = 20
"""Extensions of other drivers that may appear while one is made."""


class _Source(TypedDict):
    fingerprint: str
    manifests: list[RecordedInput]
    format_version: NotRequired[int]


class _Config(TypedDict):
    inputs: dict[str, Any]
    views: dict[str, Any]
    maps: dict[str, Any]


class RunRecord(TypedDict):
    """Fields of a run.json that all versions share."""

    fingerprint: str
    inputs: list[RecordedInput]
    vocabulary: dict[str, Any]
    format_version: NotRequired[int]
    config: NotRequired[_Config]
    model_digest: NotRequired[str]
    model_uri: NotRequired[str]
    library_version: NotRequired[str]
    source: NotRequired[_Source]


@dataclass(frozen=True, kw_only=True)
class MapSource:
    """The published run whose kept maps are the source of another run's masks."""

    labels_uri: str
    """Its output folder."""
    fingerprint: str
    manifests: tuple[InputShard, ...]
    """Its manifests as listed, each under the name of its shard."""
    patch_size: int | None = None
    """Patch size of the model that made the maps, in pixels; None if the masks need no images."""
    format_version: int = FORMAT_VERSION
    """Version of its manifests. Of older ones the rows follow older rules, and the footers lack fields."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A labelling run: inputs, model, configuration, output folder."""

    out_uri: str
    model_uri: str
    model_digest: str
    vocabulary: Vocabulary
    config: LabelConfig
    shards: tuple[InputShard, ...]
    fingerprint: str
    parts_folder: str = "parts"
    """Folder of the committed parts, below the output folder."""
    source: MapSource | None = None
    """Source of the class maps; None: the model and the images of the shards."""
    num_before: int = field(default=0, compare=False)
    """Number of shards that the run had before it was opened; 0 for a new run."""


def describe_identity(
    config: LabelConfig,
    vocabulary: Vocabulary,
    model_digest: str,
    shards: Sequence[InputShard],
    source: MapSource | None = None,
) -> dict[str, Any]:
    """Collect all inputs that determine the bytes of a run, as plain values."""
    identity: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model_digest": model_digest,
        "vocabulary": vocabulary.describe(),
        "config": describe_config(config),
        "inputs": _describe_inputs(shards),
    }
    if source is not None:
        # By name and not by location: a moved run still has the same masks.
        named = [replace(manifest, uri=f"labels/{manifest.name}.parquet") for manifest in source.manifests]
        identity["source"] = {"fingerprint": source.fingerprint, "manifests": _describe_inputs(named)}
        if source.format_version != FORMAT_VERSION:
            identity["source"]["format_version"] = source.format_version
    return identity


def _describe_inputs(shards: Sequence[InputShard]) -> list[list[Any]]:
    return [[shard.uri, shard.name, shard.size_bytes, shard.etag] for shard in shards]


def open_run(
    *,
    out_uri: str,
    model_uri: str,
    model_digest: str,
    vocabulary: Vocabulary,
    config: LabelConfig,
    shards: Sequence[InputShard],
    source: MapSource | None = None,
    writes: bool = True,
    extend: bool = False,
) -> Run:
    """Start a run in an empty output folder, or resume the same run.

    A run is the same if its settings and its set of shards are. It keeps the order and the names of its record.

    Args:
        out_uri: Output folder.
        model_uri: Bundle that the workers load.
        model_digest: Digest of the bundle.
        vocabulary: Tags and classes.
        config: Settings of the run.
        shards: The inputs.
        source: Source of the class maps; None: the model and the inputs.
        writes: False to check only; no run is started, and none extended.
        extend: True to add the shards that a run does not have yet. Those that it has and `shards` lacks stay.

    Raises:
        ValueError: The number of class scales is not the number of classes.
        RunConflictError: The folder belongs to another run; the message contains the differences.
        GrowthConflictError: Another driver added rows of the same collection; list it again.
        ManifestError: The record of the run or of an extension cannot be read.
    """
    scales = config.maps.class_scales
    if scales is not None and len(scales) != len(vocabulary.classes):
        raise ValueError(f"need one of class_scales for each of {len(vocabulary.classes)} classes, got {len(scales)}")
    identity = describe_identity(config, vocabulary, model_digest, shards, source)
    run = Run(
        out_uri=out_uri,
        model_uri=model_uri,
        model_digest=model_digest,
        vocabulary=vocabulary,
        config=config,
        shards=tuple(shards),
        fingerprint=compute_fingerprint(identity),
        source=source,
    )
    record = identity | {
        "fingerprint": run.fingerprint,
        "model_uri": model_uri,
        "library_version": get_library_version(),
    }
    # Also covers the fields outside the fingerprint: an audit detects any change of the record.
    record["record_sha256"] = compute_fingerprint(record)
    uri = join_uri(out_uri, RUN_FILE)
    is_new = create_if_absent(uri, to_canonical_json(record).encode()) if writes else not exists(uri)
    return run if is_new else _resume(run, identity, extend=extend, writes=writes)


def _resume(run: Run, identity: dict[str, Any], *, extend: bool, writes: bool) -> Run:
    """Take the shards of a run from its record, and add the new ones to it if it may be extended.

    Raises:
        RunConflictError: The record is that of another run, or has other shards and may not be extended.
        ManifestError: The record cannot be read.
    """
    first = _read_run_file(run.out_uri)
    num_before = None
    for _ in range(MAX_RIVALS):
        growth = read_growth(run.out_uri, first)
        existing = _add_growth(first, growth)
        added = _compare(run, first, existing, identity, extend=extend)
        num_before = len(existing["inputs"]) if num_before is None else num_before
        if not added.inputs or not writes or create_extension(run.out_uri, first, growth, added):
            inputs = [*existing["inputs"], *added.inputs]
            return replace(run, shards=parse_inputs(inputs), fingerprint=first["fingerprint"], num_before=num_before)
    raise RunConflictError(f"other drivers keep adding shards to '{run.out_uri}'; run the same command again")


def _compare(
    run: Run, first: dict[str, Any], existing: dict[str, Any], identity: dict[str, Any], *, extend: bool
) -> Growth:
    """Compare a run with its run.json (`first`) and with its whole record (`existing`).

    Returns:
        Inputs to add; none unless it may be extended.

    Raises:
        RunConflictError: It is another run, or has other shards and may not be extended.
    """
    present, unknown = merge_inputs(existing["inputs"], identity["inputs"])
    kept = identity | {"inputs": present}
    manifests: list[Any] = []
    if identity.get("source") and existing.get("source"):
        of_source, manifests = merge_inputs(existing["source"]["manifests"], identity["source"]["manifests"])
        kept["source"] = identity["source"] | {"manifests": of_source}
    differences = list_differences(existing, kept)
    if not differences:
        require_allowed(
            run.out_uri, present, unknown, identity["inputs"], extend=extend, is_remask=run.source is not None
        )
    elif not extend:
        differences = list_differences(existing, identity)
    expected = identity | {name: first[name] for name in ("inputs", "source") if name in first}
    is_same = run.fingerprint == first["fingerprint"] or compute_fingerprint(expected) == first["fingerprint"]
    if not differences and not is_same:
        differences = ["the fingerprint of run.json is not that of its content, so it was edited"]
    if differences:
        raise RunConflictError(
            f"'{run.out_uri}' holds another run: {'; '.join(differences)}; give the same command as before, or "
            "another --out"
        )
    return Growth(inputs=name_added(present, unknown), manifests=manifests)


def read_run(out_uri: str) -> dict[str, Any]:
    """Read the run record of an output folder.

    Returns:
        Content of run.json, its `inputs` (and the manifests of its source) with those of all extensions. In addition
        `num_first_inputs`, the number of inputs that run.json itself lists.

    Raises:
        ManifestError: It or an extension is missing or cannot be read.
    """
    first = _read_run_file(out_uri)
    return _add_growth(first, read_growth(out_uri, first)) | {"num_first_inputs": len(first["inputs"])}


def _read_run_file(out_uri: str) -> dict[str, Any]:
    uri = join_uri(out_uri, RUN_FILE)
    try:
        record: dict[str, Any] = parse_json(read_bytes(uri), max_bytes=MAX_RUN_BYTES)
        check_fields(RunRecord, record)
        parse_vocabulary(record["vocabulary"])
    except FileNotFoundError as error:
        raise ManifestError(f"'{out_uri}' holds no labelling run: {RUN_FILE} is missing; check the folder") from error
    except (DocumentError, VocabularyError) as error:
        raise ManifestError(f"'{uri}' is not the record of a run: {error}; was it edited?") from error
    return record


def _add_growth(record: dict[str, Any], growth: Growth) -> dict[str, Any]:
    if not growth.inputs:
        return record
    grown = record | {"inputs": record["inputs"] + growth.inputs}
    if growth.manifests:
        grown["source"] = record["source"] | {"manifests": record["source"]["manifests"] + growth.manifests}
    return grown


def parse_inputs(inputs: Sequence[Sequence[Any]]) -> tuple[InputShard, ...]:
    """Convert the recorded inputs of a run to shards."""
    return tuple(InputShard(uri=uri, name=name, size_bytes=size, etag=etag) for uri, name, size, etag in inputs)


def read_config(out_uri: str, record: Mapping[str, Any]) -> LabelConfig:
    """Read the configuration of a run from its record.

    Raises:
        ManifestError: Another version wrote it, or it was edited.
    """
    try:
        return parse_config(record.get("config", {}))
    except DocumentError as error:
        uri = join_uri(out_uri, RUN_FILE)
        raise ManifestError(
            f"'{uri}' cannot be understood: {error}; use the version of tagmask that wrote it"
        ) from error


def list_differences(existing: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """List the differences of two runs as text, most important first."""
    differences = []
    for name in ("format_version", "model_digest"):
        if existing.get(name) != wanted[name]:
            differences.append(f"{name} was {existing.get(name)!r}, is {wanted[name]!r}")
    for name in ("vocabulary", "config"):
        before, after = (_name_unset_fields(record.get(name)) for record in (existing, wanted))
        differences += list_changes(before, after, f"{name}.")
    differences += _list_source_differences(existing.get("source"), wanted.get("source"))
    return differences + list_input_differences(existing["inputs"], wanted["inputs"])


def _list_source_differences(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    if before is None or after is None:
        was, now = ("images" if source is None else "kept maps" for source in (before, after))
        return [] if was == now else [f"its masks are made of {was}, these of {now}"]
    if before["fingerprint"] != after["fingerprint"]:
        return ["the kept maps are those of another run"]
    return list_input_differences(before["manifests"], after["manifests"])


def _name_unset_fields(entry: Any) -> Any:
    return name_unset(entry) if isinstance(entry, dict) else entry


def describe_shard(shard: InputShard) -> dict[str, Any]:
    """Convert a shard's identity to plain values for a footer."""
    return asdict(shard)
