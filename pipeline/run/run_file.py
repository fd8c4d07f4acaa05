"""The identity of a labelling run: `run.json`, created once and never changed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from models.documents import DocumentError, check_fields, parse_json
from pipeline.errors import ManifestError, RunConflictError, VocabularyError
from pipeline.run.config import FORMAT_VERSION, LabelConfig, describe_config, name_unset, parse_config
from pipeline.run.fingerprint import compute_fingerprint, get_library_version, list_changes, to_canonical_json
from pipeline.run.records import RUN_FILE, InputShard
from pipeline.run.vocabulary import Vocabulary, parse_vocabulary
from pipeline.storage.listing import exists
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import create_if_absent

MAX_RUN_BYTES = 2**31
"""Maximum size of a run.json; 10 million shards take less."""
_Size = Annotated[int, Field(ge=0)]
_FolderName = Annotated[str, Field(pattern=r"^[^/\x00]+$")]
_Input = tuple[str, _FolderName, _Size, str]
"""URI, name, size in bytes and etag, as of `_describe_inputs`."""


class _Source(TypedDict):
    fingerprint: str
    manifests: list[_Input]


class _Config(TypedDict):
    inputs: dict[str, Any]
    views: dict[str, Any]
    maps: dict[str, Any]


class RunRecord(TypedDict):
    """Fields of a run.json that all versions share."""

    fingerprint: str
    inputs: list[_Input]
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


def describe_identity(
    config: LabelConfig,
    vocabulary: Vocabulary,
    model_digest: str,
    shards: Sequence[InputShard],
    source: MapSource | None = None,
) -> dict[str, Any]:
    """Collect all inputs that determine the bytes of a run, as plain values."""
    identity = {
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
) -> Run:
    """Start a run in an empty output folder, or resume the same run.

    Args:
        out_uri: Output folder.
        model_uri: Bundle that the workers load.
        model_digest: Digest of the bundle.
        vocabulary: Tags and classes.
        config: Settings of the run.
        shards: The inputs.
        source: Source of the class maps; None: the model and the inputs.
        writes: False to check only; no run is started.

    Raises:
        ValueError: The number of class scales is not the number of classes.
        RunConflictError: The folder belongs to another run; the message contains the differences.
    """
    scales = config.maps.class_scales
    if scales is not None and len(scales) != len(vocabulary.classes):
        raise ValueError(f"need one of class_scales for each of {len(vocabulary.classes)} classes, got {len(scales)}")
    identity = describe_identity(config, vocabulary, model_digest, shards, source)
    fingerprint = compute_fingerprint(identity)
    record = identity | {
        "fingerprint": fingerprint,
        "model_uri": model_uri,
        "library_version": get_library_version(),
    }
    # Also covers the fields outside the fingerprint: an audit detects any change of the record.
    record["record_sha256"] = compute_fingerprint(record)
    uri = join_uri(out_uri, RUN_FILE)
    is_new = create_if_absent(uri, to_canonical_json(record).encode()) if writes else not exists(uri)
    if not is_new:
        existing = read_run(out_uri)
        if existing["fingerprint"] != fingerprint:
            differences = "; ".join(list_differences(existing, identity))
            raise RunConflictError(
                f"'{out_uri}' holds another run: {differences}; give the same command as before, or another --out"
            )
    return Run(
        out_uri=out_uri,
        model_uri=model_uri,
        model_digest=model_digest,
        vocabulary=vocabulary,
        config=config,
        shards=tuple(shards),
        fingerprint=fingerprint,
        source=source,
    )


def read_run(out_uri: str) -> dict[str, Any]:
    """Read the run record of an output folder.

    Raises:
        ManifestError: It is missing or cannot be read.
    """
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
    return differences + _list_input_differences(existing["inputs"], wanted["inputs"])


def _list_source_differences(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    if before is None or after is None:
        was, now = ("images" if source is None else "kept maps" for source in (before, after))
        return [] if was == now else [f"its masks are made of {was}, these of {now}"]
    if before["fingerprint"] != after["fingerprint"]:
        return ["the kept maps are those of another run"]
    return _list_input_differences(before["manifests"], after["manifests"])


def _name_unset_fields(entry: Any) -> Any:
    return name_unset(entry) if isinstance(entry, dict) else entry


def _list_input_differences(before: list[list[Any]], after: list[list[Any]], most: int = 5) -> list[str]:
    old, new = ({entry[0]: entry[1:] for entry in entries} for entries in (before, after))
    changed = [
        f"shard '{uri}' changed (was {old[uri][1]} bytes, etag {old[uri][2]}; "
        f"is {new[uri][1]} bytes, etag {new[uri][2]})"
        for uri in old
        if uri in new and old[uri] != new[uri]
    ]
    gone = [f"shard '{uri}' is no longer among the inputs" for uri in old if uri not in new]
    added = [f"shard '{uri}' was not among the inputs" for uri in new if uri not in old]
    differences = changed + gone + added
    if not differences and before != after:
        differences = ["the inputs stand in another order"]
    if len(differences) > most:
        differences = [*differences[:most], f"and {len(differences) - most} more shards"]
    return differences


def describe_shard(shard: InputShard) -> dict[str, Any]:
    """Convert a shard's identity to plain values for a footer."""
    return asdict(shard)
