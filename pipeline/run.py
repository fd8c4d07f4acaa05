"""The identity of a labelling run: `run.json`, created once and never changed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.config import FORMAT_VERSION, LabelConfig, compute_fingerprint, describe_config, to_canonical_json
from pipeline.errors import ManifestError, RunConflictError
from pipeline.records import RUN_FILE, InputShard
from pipeline.storage import create_if_absent, exists, join_uri, read_bytes
from pipeline.vocabulary import Vocabulary


def get_library_version() -> str:
    """Return the version of this library, `unknown` when it runs from a checkout that is not installed."""
    try:
        return version("tagmask")
    except PackageNotFoundError:
        return "unknown"


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


def describe_identity(
    config: LabelConfig, vocabulary: Vocabulary, model_digest: str, shards: Sequence[InputShard]
) -> dict[str, Any]:
    """Collect everything that decides the bytes of a run, as plain values."""
    return {
        "format_version": FORMAT_VERSION,
        "model_digest": model_digest,
        "vocabulary": vocabulary.describe(),
        "config": describe_config(config),
        "inputs": [[shard.uri, shard.name, shard.size_bytes, shard.etag] for shard in shards],
    }


def open_run(
    *,
    out_uri: str,
    model_uri: str,
    model_digest: str,
    vocabulary: Vocabulary,
    config: LabelConfig,
    shards: Sequence[InputShard],
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
        writes: False to look only: a run that is not there is not started.

    Raises:
        RunConflictError: The folder belongs to another run; the message names what differs.
    """
    identity = describe_identity(config, vocabulary, model_digest, shards)
    fingerprint = compute_fingerprint(identity)
    record = identity | {
        "fingerprint": fingerprint,
        "model_uri": model_uri,
        "library_version": get_library_version(),
    }
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
    )


def read_run(out_uri: str) -> dict[str, Any]:
    """Read what an output folder says of its run.

    Raises:
        ManifestError: There is none, or it cannot be read.
    """
    uri = join_uri(out_uri, RUN_FILE)
    try:
        record = json.loads(read_bytes(uri))
        missing = {"fingerprint", "inputs", "vocabulary"} - record.keys()
    except FileNotFoundError as error:
        raise ManifestError(f"'{out_uri}' holds no labelling run: {RUN_FILE} is missing; check the folder") from error
    except (ValueError, AttributeError) as error:
        raise ManifestError(f"'{uri}' is not the record of a run: {error}; was it edited?") from error
    if missing:
        raise ManifestError(f"'{uri}' is not the record of a run: {sorted(missing)} are missing; was it edited?")
    return record


def list_differences(existing: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Name what two runs do not share, most telling first, in words."""
    differences = []
    for name in ("format_version", "model_digest"):
        if existing.get(name) != wanted[name]:
            differences.append(f"{name} was {existing.get(name)!r}, is {wanted[name]!r}")
    for name in ("vocabulary", "config"):
        before, after = _flatten(existing.get(name)), _flatten(wanted[name])
        differences += [
            f"{name}.{key} was {before.get(key)!r}, is {after.get(key)!r}"
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key)
        ]
    return differences + _list_input_differences(existing["inputs"], wanted["inputs"])


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flatten(inner, f"{prefix}{name}.").items()}


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
