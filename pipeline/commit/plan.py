"""Which chunks remain: the plan, made once from two listings and then frozen.

Ray replays the outputs of a lost read task by position. A read task must therefore give the same rows
whenever it runs, whatever was committed meanwhile: it gets its part of the plan as plain values.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.commit.manifests import stream_manifest
from pipeline.commit.parts import PartName, list_part_names, locate_manifest, locate_part
from pipeline.errors import ManifestError, ShardError
from pipeline.inputs.parquet_reader import count_parquet_rows
from pipeline.inputs.shards import read_chunks
from pipeline.run.config import InputConfig
from pipeline.run.identity import Run
from pipeline.run.records import Chunk, InputShard
from pipeline.storage.storage import join_uri, list_folder

MAX_SAMPLED = 20
"""Manifests of which an estimate reads the footers."""
MAX_SAMPLED_INPUTS = 3
"""Shards of which an estimate reads the first chunk, while nothing is published."""


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """What remains of a shard."""

    shard: InputShard
    committed: tuple[PartName, ...] = ()
    """Parts that are there, in order; there may be gaps."""
    wanted: Mapping[int, tuple[int, ...]] | None = None
    """Places of the samples to label, by chunk; None: all."""

    @property
    def num_bytes_done(self) -> int:
        """Bytes of the archive up to the first chunk that is missing; 0 for Parquet, whose offsets are rows."""
        if self.shard.is_parquet:
            return 0
        end_offset = 0
        for index, part in enumerate(self.committed):
            if part.chunk_index != index:
                break
            end_offset = part.end_offset
        return end_offset


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run has done and what it has to do."""

    work: tuple[ShardWork, ...]
    """Shards that are not sealed, in the order of the inputs."""
    sealed: tuple[InputShard, ...]
    """Shards of which nothing is left to do, in the order of the inputs."""
    num_bytes: int
    """Size of all shards."""
    num_bytes_done: int
    """Size of the sealed shards, and of what is committed of the others."""
    leftover_parts: tuple[str, ...]
    """URIs of parts whose shard is sealed: a crash came between sealing and cleaning up."""

    @property
    def num_shards(self) -> int:
        """Shards that the plan is about."""
        return len(self.work) + len(self.sealed)

    @property
    def num_sealed(self) -> int:
        """Shards of which nothing is left to do."""
        return len(self.sealed)


def plan_run(run: Run, limit: int | None = None) -> Plan:
    """List the output once and work out what remains of the first `limit` shards (None: of all).

    Raises:
        ManifestError: The output folder holds files that are not of this run's making.
    """
    shards = run.shards[:limit]
    names_sealed = _list_sealed(run.out_uri)
    sealed = tuple(shard for shard in shards if shard.name in names_sealed)
    parts = list_part_names(run.out_uri)
    work = tuple(
        ShardWork(shard=shard, committed=_order_parts(shard, parts.get(shard.name, [])))
        for shard in shards
        if shard.name not in names_sealed
    )
    leftovers = tuple(
        locate_part(run.out_uri, name, part) for name, names in parts.items() if name in names_sealed for part in names
    )
    return Plan(
        work=work,
        sealed=sealed,
        num_bytes=sum(shard.size_bytes for shard in shards),
        num_bytes_done=sum(shard.size_bytes for shard in sealed) + sum(item.num_bytes_done for item in work),
        leftover_parts=leftovers,
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """About how much is left, by what the published shards hold a byte."""

    num_rows: int
    num_chunks: int
    num_sampled: int
    """Of how many this was worked out."""
    basis: str
    """Of what, in words."""


def estimate_rest(run: Run, plan: Plan) -> Estimate | None:
    """Estimate what is left; None if nothing tells.

    Nobody knows how many samples a shard holds before it is read. So the footers of a few manifests are looked at, or
    else the first chunks of a few inputs.
    """
    samples = _sample_published(run, plan)
    basis = "published shards"
    if not samples:
        samples = _sample_inputs(run, plan)
        basis = "shards whose first chunk was read"
    num_bytes = sum(sample.num_bytes for sample in samples)
    if not num_bytes:
        return None
    share = (plan.num_bytes - plan.num_bytes_done) / num_bytes
    return Estimate(
        num_rows=round(share * sum(sample.num_rows for sample in samples)),
        num_chunks=round(share * sum(sample.num_chunks for sample in samples)),
        num_sampled=len(samples),
        basis=basis,
    )


class _Density(NamedTuple):
    """How much some bytes of a shard hold."""

    num_bytes: float
    num_rows: int
    num_chunks: float


def _sample_published(run: Run, plan: Plan) -> list[_Density]:
    samples = []
    for shard in plan.sealed[:MAX_SAMPLED]:
        with stream_manifest(locate_manifest(run.out_uri, shard.name)) as manifest:
            counts, chunks = manifest.footer["counts"], manifest.footer["chunks"]
            samples.append(_Density(shard.size_bytes, counts["num_read"], len(chunks)))
    return samples


def _sample_inputs(run: Run, plan: Plan) -> list[_Density]:
    """Read the first chunk of a few shards; those that cannot be read tell nothing."""
    samples = []
    for item in plan.work[:MAX_SAMPLED_INPUTS]:
        with suppress(ShardError):
            samples.append(_sample_input(item.shard, run.config.inputs))
    return samples


def _sample_input(shard: InputShard, config: InputConfig) -> _Density:
    piece = next(read_chunks(shard, config))
    if not isinstance(piece, Chunk):
        return _Density(shard.size_bytes, 0, 0)
    if not shard.is_parquet:
        return _Density(piece.end_offset, len(piece.samples), 1)
    num_rows = count_parquet_rows(shard)
    return _Density(shard.size_bytes, num_rows, num_rows / len(piece.samples))


def _list_sealed(out_uri: str) -> Collection[str]:
    objects = list_folder(join_uri(out_uri, "labels"))
    return {item.uri.rsplit("/", 1)[-1].removesuffix(".parquet") for item in objects}


def _order_parts(shard: InputShard, parts: Collection[PartName]) -> tuple[PartName, ...]:
    ordered = tuple(sorted(parts))
    indices = [part.chunk_index for part in ordered]
    if len(set(indices)) != len(indices):
        raise ManifestError(
            f"shard '{shard.name}': two parts claim one chunk ({', '.join(map(str, ordered))}); "
            "the shard changed while it was labelled, delete its parts and run again"
        )
    return ordered
