"""An estimate of the rows and chunks that remain, from a few manifests or inputs."""

from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.commit.manifests import stream_manifest
from pipeline.commit.names import locate_manifest
from pipeline.commit.plan import Plan
from pipeline.errors import ShardError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.parquet_reader import count_parquet_rows
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard
from pipeline.run.run_file import Run

MAX_SAMPLED = 20
"""Manifests whose footers an estimate reads."""


MAX_SAMPLED_INPUTS = 3
"""Shards whose first chunk an estimate reads while nothing is published."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated rest of a run, from the density of samples in a few shards."""

    num_rows: int
    num_chunks: int
    num_sampled: int
    """Number of sampled shards."""
    basis: str
    """Kind of the sampled shards, for messages."""


def estimate_rest(run: Run, plan: Plan) -> Estimate | None:
    """Estimate the remaining rows and chunks; None if there is nothing to estimate from.

    The number of samples of a shard is unknown before it is read. So the estimate reads the footers of a few manifests,
    or else the first chunks of a few inputs.
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
    """Rows and chunks in some bytes of a shard."""

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
    """Read the first chunk of a few shards. Shards that cannot be read are skipped."""
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
