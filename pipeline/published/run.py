"""A published run: its record, its classes, and the manifests that are there."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import UInt8

from pipeline.commit.manifests import list_manifests
from pipeline.commit.names import locate_manifest
from pipeline.errors import ManifestError
from pipeline.images.masks import build_palette
from pipeline.run.config import LabelConfig
from pipeline.run.records import RUN_FILE, InputShard
from pipeline.run.run_file import RunRecord, parse_inputs, read_config, read_run
from pipeline.run.vocabulary import BACKGROUND, Vocabulary, parse_vocabulary
from pipeline.storage.uris import join_uri


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """A labelling run of which shards are published."""

    uri: str
    """Output folder of the run."""
    record: RunRecord
    vocabulary: Vocabulary
    config: LabelConfig
    shards: tuple[InputShard, ...]
    """The published input shards, in the order of the run."""

    @property
    def manifest_uris(self) -> tuple[str, ...]:
        """One manifest for each of `shards`, in their order."""
        return tuple(map(self.locate, self.shards))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Name of each mask value; the first is the background."""
        return (BACKGROUND, *self.vocabulary.classes)

    @cached_property
    def palette(self) -> UInt8[np.ndarray, "256 3"]:
        """RGB of each mask value."""
        return build_palette(self.vocabulary.colours, self.vocabulary.classes)

    @cached_property
    def _shard_by_name(self) -> Mapping[str, InputShard]:
        return {shard.name: shard for shard in self.shards}

    def locate(self, shard: InputShard) -> str:
        """URI of the manifest of one of `shards`."""
        return locate_manifest(self.uri, shard.name)

    def get_shard(self, name: str) -> InputShard:
        """The published shard of a name.

        Raises:
            ManifestError: There is none.
        """
        try:
            return self._shard_by_name[name]
        except KeyError:
            some = ", ".join(f"'{shard.name}'" for shard in self.shards[:5])
            raise ManifestError(f"'{self.uri}' has no published shard '{name}'; it has {some}") from None


def open_published(uri: str) -> PublishedRun:
    """Open the published shards of a run.

    Raises:
        ManifestError: The folder holds no run, another version wrote it, or nothing is published.
    """
    record = read_run(uri)
    config = read_config(uri, record)
    try:
        shards = parse_inputs(record["inputs"])
    except (KeyError, TypeError, ValueError) as error:
        said = f"'{join_uri(uri, RUN_FILE)}' cannot be understood: {error}"
        raise ManifestError(f"{said}; use the version of tagmask that wrote it") from error
    there = set(list_manifests(uri))
    published = tuple(shard for shard in shards if locate_manifest(uri, shard.name) in there)
    if not published:
        raise ManifestError(f"'{uri}' has manifests, but of no shard of its {RUN_FILE}; put the right {RUN_FILE} back")
    return PublishedRun(
        uri=uri,
        record=record,  # type: ignore[arg-type]
        vocabulary=parse_vocabulary(record["vocabulary"]),
        config=config,
        shards=published,
    )
