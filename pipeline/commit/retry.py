"""Retries: label rejected rows again, for example after a limit was raised.

    manifests -> rows rejected for the wanted reasons -> their chunks -> labelling actors -> parts -> manifests replaced

A manifest is replaced in one atomic put; its other rows do not change. It records the retry, so the same command
resumes after a crash and does nothing once the retry is done.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.commit.manifests import Manifest, open_manifest, publish_manifest, stream_manifest
from pipeline.commit.names import PartName, list_part_names, locate_manifest, locate_part
from pipeline.commit.outcome import Outcome, read_outcome
from pipeline.commit.parts import count_rows, read_part
from pipeline.commit.plan import Plan, ShardWork
from pipeline.commit.seal import CompleteShard, add_places
from pipeline.errors import ManifestError, RunConflictError
from pipeline.run.fingerprint import compute_fingerprint
from pipeline.run.records import InputShard, Reason, Status
from pipeline.run.run_file import Run, describe_identity, list_differences, parse_inputs, read_run
from pipeline.storage.writing import delete

CHANGEABLE = (
    ("config", "inputs", "max_image_pixels"),
    ("config", "inputs", "max_image_bytes"),
    ("config", "inputs", "tags_field"),
    ("vocabulary", "aliases"),
)
CHANGEABLE_TEXT = (
    "--inputs.max-image-pixels, --inputs.max-image-bytes, --inputs.tags-field, and the aliases of the vocabulary"
)
PERMANENT = frozenset(
    {Reason.DUPLICATE_KEY, Reason.NOT_IN_TAGS_TABLE, Reason.SPLIT_SAMPLE, Reason.NO_IMAGE, Reason.DOTTED_NAME}
)
"""Reasons that lie in the shard: labelling again cannot change them, and a changed shard needs another run."""
ONLY_BY_NAME = frozenset({Reason.DOWNLOAD_FAILED})
"""Reasons of which a retry has to be asked: a URL may be delivered now, but what img2dataset lacked stays lacking."""
NUM_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class RetryOrder:
    """Which rejected rows are labelled again."""

    reasons: tuple[str, ...]
    id: str
    """Identifies the retry: hash of the reasons and of all settings that decide its rows."""


def parse_reasons(text: str) -> tuple[str, ...]:
    """Parse `rejected` or `rejected:reason,reason`.

    >>> parse_reasons("rejected:too_large,crashed")
    ('crashed', 'too_large')

    Raises:
        ValueError: It is neither, or a reason is unknown or permanent.
    """
    status, _, listed = text.partition(":")
    known = sorted(str(reason) for reason in set(Reason) - PERMANENT)
    if status != Status.REJECTED:
        raise ValueError(f"--retry takes 'rejected' or 'rejected:reason', got '{text}'")
    reasons = sorted({reason.strip() for reason in listed.split(",")} if listed else set(known) - ONLY_BY_NAME)
    for reason in reasons:
        if reason not in known:
            raise ValueError(f"--retry does not apply to rows rejected as '{reason}'; it applies to {', '.join(known)}")
    return tuple(reasons)


def open_retry(run: Run, reasons: Sequence[str]) -> tuple[Run, RetryOrder]:
    """Open a run to label its rejected rows again, under limits that may have changed.

    Args:
        run: The run as the command line describes it. Its fingerprint is not yet that of the output folder.
        reasons: From `parse_reasons`.

    Raises:
        RunConflictError: The command line describes another run, beyond what a retry may change.
        ManifestError: The output folder holds no run.
    """
    existing = read_run(run.out_uri)
    wanted = describe_identity(run.config, run.vocabulary, run.model_digest, run.shards)
    first_inputs = existing["inputs"][: existing["num_first_inputs"]]
    # Of the first inputs alone: a retry stays the same one when the run is extended.
    ordered = {"identity": wanted | {"inputs": first_inputs}, "reasons": list(reasons)}
    order = RetryOrder(reasons=tuple(reasons), id=compute_fingerprint(ordered)[:16])
    for path in CHANGEABLE:
        _copy(path, existing, wanted)
    if differences := list_differences(existing, wanted):
        raise RunConflictError(
            f"'{run.out_uri}' holds another run: {'; '.join(differences)}; a retry may only change {CHANGEABLE_TEXT}"
        )
    return replace(
        run,
        shards=parse_inputs(existing["inputs"]),
        fingerprint=existing["fingerprint"],
        parts_folder=f"retries/{order.id}",
        num_before=len(existing["inputs"]),
    ), order


def plan_retry(run: Run, order: RetryOrder, limit: int | None = None) -> Plan:
    """Find the chunks with rejected rows that the retry labels again. Shards that are not published are left out.

    Raises:
        ManifestError: A manifest cannot be read or is of another run.
    """
    shards = run.shards[:limit]
    parts = list_part_names(run.out_uri, run.parts_folder)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        found = list(threads.map(lambda shard: _plan_shard(run, order, shard, parts.get(shard.name, [])), shards))
    work = tuple(item for item in found if isinstance(item, ShardWork))
    sealed = tuple(shard for shard, item in zip(shards, found, strict=True) if item is NoWork.DONE)
    done = {shard.name for shard in shards} - {item.shard.name for item in work}
    return Plan(
        work=work,
        sealed=sealed,
        num_bytes=sum(item.shard.size_bytes for item in work),
        num_bytes_done=0,
        leftover_parts=tuple(
            locate_part(run.out_uri, name, part, run.parts_folder)
            for name, names in parts.items()
            if name in done
            for part in names
        ),
    )


def replace_manifest(complete: CompleteShard, *, out_uri: str, fingerprint: str, order: RetryOrder) -> Outcome:
    """Put the rows of a retry into the manifest of their shard, then delete their parts.

    A second call changes nothing. It is no error if another driver of the same retry has deleted the parts.

    Raises:
        ManifestError: The manifest or a part is not that of this shard and run.
    """
    shard = complete.shard
    try:
        _replace_manifest(out_uri, fingerprint, shard, complete.parts, order)
    except FileNotFoundError as error:
        if not _records_retry(open_manifest(locate_manifest(out_uri, shard.name)), order):
            raise ManifestError(f"shard '{shard.name}': {error}; run the same command again") from error
    with stream_manifest(locate_manifest(out_uri, shard.name)) as manifest:
        return read_outcome(manifest, shard.name)


def _replace_manifest(
    out_uri: str, fingerprint: str, shard: InputShard, parts: Sequence[PartName], order: RetryOrder
) -> None:
    folder = f"retries/{order.id}"
    manifest = open_manifest(locate_manifest(out_uri, shard.name))
    _require_run(manifest, fingerprint, shard)
    by_chunk = {part.chunk_index: part for part in parts}
    redone: list[PartName] = []
    if not _records_retry(manifest, order):
        tables = []
        for chunk_index in range(manifest.file.num_row_groups):
            rows = manifest.file.read_row_group(chunk_index)
            wanted = _find_wanted(rows, order)
            if wanted:
                part = by_chunk[chunk_index]
                redone.append(part)
                fresh = read_part(out_uri, fingerprint, shard.name, part, folder).rows
                rows = _replace_rows(rows, wanted, fresh, locate_part(out_uri, shard.name, part, folder))
            tables.append(rows)
        counts = count_rows(tables, num_bytes=shard.size_bytes)
        retries = [*manifest.footer.get("retries", []), {"id": order.id, "reasons": list(order.reasons)}]
        footer = manifest.footer | {"counts": counts.to_dict(), "retries": retries}
        publish_manifest(out_uri, shard.name, tables, footer, manifest.class_texts)
    delete([locate_part(out_uri, shard.name, part, folder) for part in redone])


class NoWork(Enum):
    """Why a retry has no work in a shard."""

    DONE = "done"
    UNPUBLISHED = "unpublished"


def _plan_shard(run: Run, order: RetryOrder, shard: InputShard, parts: Sequence[PartName]) -> ShardWork | NoWork:
    """The remaining work of a retry in a shard."""
    try:
        with stream_manifest(locate_manifest(run.out_uri, shard.name)) as manifest:
            return _plan_published(run, order, shard, manifest, parts)
    except FileNotFoundError:
        return NoWork.UNPUBLISHED


def _plan_published(
    run: Run, order: RetryOrder, shard: InputShard, manifest: Manifest, parts: Sequence[PartName]
) -> ShardWork | NoWork:
    _require_run(manifest, run.fingerprint, shard)
    rejected = manifest.footer["counts"]["rejected_by_reason"]
    if _records_retry(manifest, order) or not any(rejected.get(reason) for reason in order.reasons):
        return NoWork.DONE
    wanted: dict[int, tuple[int, ...]] = {}
    committed = list(parts)
    for chunk_index, (_, end_offset) in enumerate(manifest.footer["chunks"]):
        rows = manifest.file.read_row_group(chunk_index, columns=["status", "reason"])
        if places := _find_wanted(rows, order):
            wanted[chunk_index] = places
        else:
            # No work there: readers skip it like a committed chunk.
            committed.append(PartName(chunk_index=chunk_index, end_offset=end_offset))
    return ShardWork(shard=shard, committed=tuple(sorted(committed)), wanted=wanted)


def _find_wanted(rows: pa.Table, order: RetryOrder) -> tuple[int, ...]:
    return tuple(place for place, reason in enumerate(rows["reason"].to_pylist()) if reason in order.reasons)


def _replace_rows(rows: pa.Table, wanted: Sequence[int], fresh: pa.Table, part_uri: str) -> pa.Table:
    """Replace rows at some positions."""
    keys = rows["key"].take(pa.array(wanted)).to_pylist()
    if fresh["key"].to_pylist() != keys:
        raise ManifestError(f"'{part_uri}' holds other samples than its manifest; delete it and run again")
    numbered = add_places(fresh, *(rows[name].take(pa.array(wanted)) for name in ("index", "shard")))
    kept = rows.filter(pc.invert(pc.is_in(pa.array(range(rows.num_rows)), pa.array(wanted))))
    return pa.concat_tables([kept, numbered.cast(kept.schema)]).sort_by("index")


def _records_retry(manifest: Manifest, order: RetryOrder) -> bool:
    return any(entry["id"] == order.id for entry in manifest.footer.get("retries", []))


def _require_run(manifest: Manifest, fingerprint: str, shard: InputShard) -> None:
    if manifest.footer["fingerprint"] != fingerprint or "chunks" not in manifest.footer:
        raise ManifestError(
            f"'{manifest.uri}' is of another run or of an older version; label shard '{shard.name}' under a new --out"
        )


def _copy(path: Sequence[str], source: dict[str, Any], target: dict[str, Any]) -> None:
    """Copy a field of a description; a field that the source lacks is removed from the target."""
    *folders, name = path
    for folder in folders:
        source, target = source[folder], target[folder]
    target.pop(name, None)
    if name in source:
        target[name] = source[name]
