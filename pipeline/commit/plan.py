"""The plan: which chunks remain. Made once from two listings, then frozen.

Ray replays the outputs of a lost read task by position. So a read task must return the same rows at every
execution, even if more was committed in between. It carries its share of the plan as plain values.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipeline.commit.names import PartName, list_part_names, locate_part
from pipeline.errors import ManifestError
from pipeline.run.records import InputShard, TagEdit
from pipeline.run.run_file import Run
from pipeline.storage.listing import list_folder
from pipeline.storage.uris import join_uri


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """What remains of a shard."""

    shard: InputShard
    committed: tuple[PartName, ...] = ()
    """Parts that exist, in order. There may be gaps."""
    wanted: Mapping[int, tuple[int, ...]] | None = None
    """Positions of the samples to label, by chunk; None: all."""
    edits: Mapping[tuple[int, int], TagEdit] = field(default_factory=dict)
    """Corrections of the tags of wanted samples, by chunk and position."""

    @property
    def end_offsets(self) -> dict[int, int]:
        """Where each committed chunk ends, by its number."""
        return {part.chunk_index: part.end_offset for part in self.committed}

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
    """What a run has done and what remains."""

    work: tuple[ShardWork, ...]
    """Shards that are not sealed, in the order of the inputs."""
    sealed: tuple[InputShard, ...]
    """Shards that are done, in the order of the inputs."""
    num_bytes: int
    """Size of all shards."""
    num_bytes_done: int
    """Size of the sealed shards, and of the committed chunks of the others."""
    leftover_parts: tuple[str, ...]
    """URIs of parts whose shard is sealed: a crash between seal and deletion left them."""

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self.work) + len(self.sealed)

    @property
    def num_sealed(self) -> int:
        """Number of sealed shards."""
        return len(self.sealed)


def plan_run(run: Run, limit: int | None = None) -> Plan:
    """List the output once and find what remains of the first `limit` shards (None: of all).

    Raises:
        ManifestError: The output folder holds files that are not of this run.
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
