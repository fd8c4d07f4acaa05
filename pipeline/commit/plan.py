"""The plan: which chunks remain. Made once from two listings, then frozen.

Ray replays the outputs of a lost read task by position. So a read task must return the same rows at every
execution, even if more was committed in between. It carries its share of the plan as plain values. The order of a
retry, which names the rows that are planned, is here, too.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from models.documents import DocumentError, parse_json
from pipeline.commit.names import PartName, list_part_names, locate_part
from pipeline.errors import ManifestError
from pipeline.run.fingerprint import compute_fingerprint
from pipeline.run.records import InputShard, TagEdit
from pipeline.run.run_file import Run
from pipeline.storage.listing import list_folder
from pipeline.storage.reading import read_bytes
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


ORDERS_FOLDER = "retries/orders"
MAX_ORDER_BYTES = 2**30

Edits = Mapping[str, Mapping[int, TagEdit]]
"""Corrections of tags, by name of the shard and index of the row."""


@dataclass(frozen=True, kw_only=True)
class RetryOrder:
    """Which rows are labelled again."""

    reasons: tuple[str, ...]
    """Rejected rows: their reasons. Reviewed rows: the kinds of decisions, such as `reviewed:wrong_tag`."""
    id: str
    """Identifies the retry: hash of the reasons, of the edits, and of all settings that decide its rows."""
    edits: Edits = field(default_factory=dict)
    """Reviewed rows, and the corrections of their tags; empty for rejected rows."""

    def find_wanted(self, shard_name: str, rows: pa.Table) -> tuple[int, ...]:
        """Positions of the wanted rows among some rows of a shard."""
        edited = self.edits.get(shard_name, {})
        pairs = zip(rows["index"].to_pylist(), rows["reason"].to_pylist(), strict=True)
        return tuple(place for place, (index, reason) in enumerate(pairs) if index in edited or reason in self.reasons)

    def record(self, shard_name: str) -> dict[str, Any]:
        """Entry of the footer of a shard."""
        edits = self.edits.get(shard_name, {})
        return {"id": self.id, "reasons": list(self.reasons)} | ({"edits": describe_edits(edits)} if edits else {})


def describe_edits(edits: Mapping[int, TagEdit]) -> dict[str, Any]:
    """Convert the corrections of a shard to plain values for JSON."""
    return {str(index): edits[index].describe() for index in sorted(edits)}


def parse_edits(fields: Mapping[str, Any]) -> dict[int, TagEdit]:
    """Parse the plain values of `describe_edits`.

    Raises:
        AttributeError, TypeError, ValueError: They are other values.
    """
    return {
        int(index): TagEdit(removed=frozenset(removed), added=frozenset(added))
        for index, (removed, added) in fields.items()
    }


def read_order(uri: str) -> tuple[RetryOrder, str]:
    """Read the order of a retry, and the fingerprint of its settings.

    Raises:
        ManifestError: It is damaged or was edited.
    """
    try:
        record = parse_json(read_bytes(uri), max_bytes=MAX_ORDER_BYTES)
        edits = {name: parse_edits(some) for name, some in record["edits"].items()}
        order = RetryOrder(reasons=tuple(record["reasons"]), id=compute_fingerprint(record)[:16], edits=edits)
    except (DocumentError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"'{uri}' is no order of a retry: {error}; move it out of the run") from error
    if uri.rsplit("/", 1)[-1] != f"{order.id}.json":
        raise ManifestError(f"'{uri}' was edited: its content belongs to '{order.id}.json'; move it out of the run")
    return order, str(record["settings"])
