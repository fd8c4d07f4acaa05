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
from pipeline.storage.storage import create_if_absent, exists, join_uri, read_bytes

MAX_RUN_BYTES = 2**31
"""Of a run.json: 10 million shards have fewer."""
_Size = Annotated[int, Field(ge=0)]
_FolderName = Annotated[str, Field(pattern=r"^[^/\x00]+$")]
_Input = tuple[str, _FolderName, _Size, str]
"""As `_describe_inputs` gives it."""


class _Source(TypedDict):
    fingerprint: str
    manifests: list[_Input]


class _Config(TypedDict):
    inputs: dict[str, Any]
    views: dict[str, Any]
    maps: dict[str, Any]


class RunRecord(TypedDict):
    """What a run.json holds, as far as all versions of it agree."""

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
    """The published run whose kept maps another run makes masks of."""

    labels_uri: str
    """Its output folder."""
    fingerprint: str
    manifests: tuple[InputShard, ...]
    """Its manifests as they were when they were listed, each under the name of its shard."""
    patch_size: int | None = None
    """Of the model that made the maps, in pixels; None where the masks need no images."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is labelled, with what, to where."""

    out_uri: str
    model_uri: str
    model_digest: str
    vocabulary: Vocabulary
    config: LabelConfig
    shards: tuple[InputShard, ...]
    fingerprint: str
    parts_folder: str = "parts"
    """Where chunks are committed, below the output folder."""
    source: MapSource | None = None
    """Where the class maps come from; None: from the model and the images of the shards."""


def describe_identity(
    config: LabelConfig,
    vocabulary: Vocabulary,
    model_digest: str,
    shards: Sequence[InputShard],
    source: MapSource | None = None,
) -> dict[str, Any]:
    """Collect everything that decides the bytes of a run, as plain values."""
    identity = {
        "format_version": FORMAT_VERSION,
        "model_digest": model_digest,
        "vocabulary": vocabulary.describe(),
        "config": describe_config(config),
        "inputs": _describe_inputs(shards),
    }
    if source is not None:
        # By name and not by place: a run that was moved as it is still gives the same masks.
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
    """Start a run in an empty output folder, or take up the same run again.

    Args:
        out_uri: Output folder.
        model_uri: Where workers find the model.
        model_digest: What the model is.
        vocabulary: Tags and classes.
        config: What decides the rows.
        shards: The inputs.
        source: Where the class maps come from; None: from the model and the inputs.
        writes: False to look only: a run that is not there is not started.

    Raises:
        ValueError: There are scales for another number of classes.
        RunConflictError: The folder belongs to another run; the message names what differs.
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
    # Over what the fingerprint does not cover, too: an audit sees any change of the record.
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
    """Read what an output folder says of its run.

    Raises:
        ManifestError: There is none, or it cannot be read.
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
        ManifestError: It is that of another version, or was edited.
    """
    try:
        return parse_config(record.get("config", {}))
    except DocumentError as error:
        uri = join_uri(out_uri, RUN_FILE)
        raise ManifestError(
            f"'{uri}' cannot be understood: {error}; use the version of tagmask that wrote it"
        ) from error


def list_differences(existing: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Name what two runs do not share, most telling first, in words."""
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
    """Turn a shard's identity into plain values for a footer."""
    return asdict(shard)
