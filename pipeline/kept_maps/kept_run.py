"""A published run with kept maps, and the parts of it that a run of new masks needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.commit.names import locate_manifest
from pipeline.commit.plan import ShardWork
from pipeline.errors import ManifestError
from pipeline.run.config import InputConfig, LabelConfig, PixelRefinement
from pipeline.run.records import RUN_FILE, InputShard
from pipeline.run.run_file import MapSource, Run, parse_inputs, read_config, read_run
from pipeline.run.vocabulary import Vocabulary, parse_vocabulary
from pipeline.storage.listing import list_folder
from pipeline.storage.uris import join_uri


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """A published run with kept maps."""

    model_uri: str
    model_digest: str
    vocabulary: Vocabulary
    config: LabelConfig
    """With the thresholds of its masks."""
    shards: tuple[InputShard, ...]
    """The published inputs."""
    num_unpublished: int
    source: MapSource


def open_kept_run(labels_uri: str) -> KeptRun:
    """Open the published shards of a labelling run.

    Raises:
        ManifestError: The folder holds no run, nothing is published, or the run kept no maps.
    """
    record = read_run(labels_uri)
    require_maps(labels_uri, record)
    config = read_config(labels_uri, record)
    try:
        shards = parse_inputs(record["inputs"])
        model_uri, model_digest = record["model_uri"], record["model_digest"]
    except (KeyError, TypeError, ValueError) as error:
        uri = join_uri(labels_uri, RUN_FILE)
        raise ManifestError(
            f"'{uri}' cannot be understood: {error}; use the version of tagmask that wrote it"
        ) from error
    listed = {item.uri: item for item in list_folder(join_uri(labels_uri, "labels"))}
    published = [shard for shard in shards if locate_manifest(labels_uri, shard.name) in listed]
    if not published:
        raise ManifestError(f"'{labels_uri}' has published no shard yet (labels/*.parquet); finish labelling first")
    found = {shard.name: listed[locate_manifest(labels_uri, shard.name)] for shard in published}
    return KeptRun(
        model_uri=model_uri,
        model_digest=model_digest,
        vocabulary=parse_vocabulary(record["vocabulary"]),
        config=config,
        shards=tuple(published),
        num_unpublished=len(shards) - len(published),
        source=MapSource(
            labels_uri=labels_uri,
            fingerprint=record["fingerprint"],
            manifests=tuple(
                InputShard(uri=item.uri, name=name, size_bytes=item.size_bytes, etag=item.etag)
                for name, item in found.items()
            ),
        ),
    )


def require_maps(labels_uri: str, record: Mapping[str, Any]) -> None:
    """Check that a run kept its maps.

    Raises:
        ManifestError: It did not.
    """
    if not record.get("config", {}).get("maps", {}).get("keep_maps"):
        raise ManifestError(
            f"'{labels_uri}' was labelled without keeping its maps; label with --maps.keep-maps, then its thresholds "
            "can be changed without a model"
        )


def require_source(run: Run) -> MapSource:
    """The source of the maps of a run.

    Raises:
        ValueError: The run makes its masks from images.
    """
    if run.source is None:
        raise ValueError(f"run '{run.out_uri}' makes its masks from images and not from kept maps")
    return run.source


def choose_inputs(config: LabelConfig) -> InputConfig | None:
    """Reader settings for images; None if pixels do not refine the maps."""
    return None if config.maps.pixel_refinement == PixelRefinement.NONE else config.inputs


def pair_with_manifests(source: MapSource, work: Sequence[ShardWork]) -> list[tuple[ShardWork, InputShard]]:
    """Pair the work of each shard with the manifest that holds its maps."""
    manifests = {manifest.name: manifest for manifest in source.manifests}
    return [(item, manifests[item.shard.name]) for item in work]
