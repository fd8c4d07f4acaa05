"""Retries: label rejected rows again, for example after a limit was raised, or rows whose tags reviewers corrected.

    manifests -> rows that are wanted -> their chunks -> labelling actors -> parts -> manifests replaced

A manifest is replaced in one atomic put; its other rows do not change. It records the retry, so the same command
resumes after a crash and does nothing once the retry is done. Corrections of tags are written down before the work
starts, in `OUT/retries/orders/`, and stay in the footer: every later retry applies them, too.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import Enum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.commit.manifests import Manifest, open_manifest, publish_manifest, stream_manifest
from pipeline.commit.names import PartName, list_part_names, locate_manifest, locate_part
from pipeline.commit.outcome import Outcome, read_outcome
from pipeline.commit.parts import count_rows, read_part
from pipeline.commit.plan import (
    ORDERS_FOLDER,
    Edits,
    Plan,
    RetryOrder,
    ShardWork,
    describe_edits,
    parse_edits,
    read_order,
)
from pipeline.commit.seal import CompleteShard, add_places
from pipeline.errors import ManifestError, RunConflictError
from pipeline.run.fingerprint import compute_fingerprint, to_canonical_json
from pipeline.run.records import InputShard, Reason, Status, TagEdit
from pipeline.run.run_file import Run, describe_identity, list_differences, parse_inputs, read_run
from pipeline.storage.listing import list_folder
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import create_if_absent, delete

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
    run, settings = _settle(run)
    order = RetryOrder(
        reasons=tuple(reasons), id=compute_fingerprint({"identity": settings, "reasons": list(reasons)})[:16]
    )
    return _use_folder(run, order), order


def open_correction(
    run: Run, reasons: Sequence[str], find_edits: Callable[[], Edits], *, writes: bool = True
) -> tuple[Run, RetryOrder, bool]:
    """Open a run to label rows again whose tags reviewers corrected.

    A retry that was killed goes on with the corrections that it began with, also if others are wanted by now.

    Args:
        run: The run as the command line describes it, with the limits of the output folder.
        reasons: Kinds of the decisions, for the record.
        find_edits: Finds the corrections; called unless a retry is unfinished.
        writes: False to check only: no order is written.

    Returns:
        The run, the order, and whether it is that of an unfinished retry.

    Raises:
        RunConflictError: The command line describes another run or other limits than the unfinished retry has.
        ManifestError: The output folder holds no run, or an order or a manifest cannot be read.
    """
    run, settings = _settle(run)
    for item in list_folder(join_uri(run.out_uri, ORDERS_FOLDER)):
        order, its_settings = read_order(item.uri)
        plan = plan_retry(_use_folder(run, order), order)
        if plan.work or plan.leftover_parts:
            if its_settings != compute_fingerprint(settings):
                raise RunConflictError(
                    f"'{run.out_uri}' holds an unfinished retry of {', '.join(order.reasons)} under other limits or "
                    "aliases; finish it by the same command as before"
                )
            return _use_folder(run, order), order, True
    edits = {name: dict(some) for name, some in find_edits().items() if some}
    record = {
        "settings": compute_fingerprint(settings),
        "reasons": list(reasons),
        "edits": {name: describe_edits(some) for name, some in edits.items()},
    }
    order = RetryOrder(reasons=tuple(reasons), id=compute_fingerprint(record)[:16], edits=edits)
    if edits and writes:
        create_if_absent(join_uri(run.out_uri, ORDERS_FOLDER, f"{order.id}.json"), to_canonical_json(record).encode())
    return _use_folder(run, order), order, False


def _settle(run: Run) -> tuple[Run, dict[str, Any]]:
    """Take shards and fingerprint from the record of a run; in addition all settings that decide the rows of a retry.

    Raises:
        RunConflictError: The command line describes another run, beyond what a retry may change.
        ManifestError: The output folder holds no run.
    """
    existing = read_run(run.out_uri)
    wanted = describe_identity(run.config, run.vocabulary, run.model_digest, run.shards)
    # Of the first inputs alone: a retry stays the same one when the run is extended.
    settings = copy.deepcopy(wanted | {"inputs": existing["inputs"][: existing["num_first_inputs"]]})
    for path in CHANGEABLE:
        _copy(path, existing, wanted)
    if differences := list_differences(existing, wanted):
        raise RunConflictError(
            f"'{run.out_uri}' holds another run: {'; '.join(differences)}; a retry may only change {CHANGEABLE_TEXT}"
        )
    shards, fingerprint = parse_inputs(existing["inputs"]), existing["fingerprint"]
    return replace(run, shards=shards, fingerprint=fingerprint, num_before=len(shards)), settings


def _use_folder(run: Run, order: RetryOrder) -> Run:
    return replace(run, parts_folder=f"retries/{order.id}")


def read_edits(manifest: Manifest) -> dict[int, TagEdit]:
    """Read the corrections of tags that the rows of a manifest have, by index of the row.

    Raises:
        ManifestError: The footer holds something else.
    """
    edits: dict[int, TagEdit] = {}
    try:
        for entry in manifest.footer.get("retries", []):
            for index, edit in parse_edits(entry.get("edits", {})).items():
                edits[index] = edit.follow(edits.get(index, TagEdit()))
    except (AttributeError, TypeError, ValueError) as error:
        raise ManifestError(f"'{manifest.uri}' holds no corrections of tags: {error}; label the shard again") from error
    return edits


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
            wanted = order.find_wanted(shard.name, rows)
            if wanted:
                part = by_chunk[chunk_index]
                redone.append(part)
                fresh = read_part(out_uri, fingerprint, shard.name, part, folder).rows
                rows = _replace_rows(rows, wanted, fresh, locate_part(out_uri, shard.name, part, folder))
            tables.append(rows)
        counts = count_rows(tables, num_bytes=shard.size_bytes)
        retries = [*manifest.footer.get("retries", []), order.record(shard.name)]
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
    concerns = shard.name in order.edits or any(rejected.get(reason) for reason in order.reasons)
    if _records_retry(manifest, order) or not concerns:
        return NoWork.DONE
    before, edited = read_edits(manifest), order.edits.get(shard.name, {})
    edits: dict[tuple[int, int], TagEdit] = {}
    wanted: dict[int, tuple[int, ...]] = {}
    committed = list(parts)
    for chunk_index, (_, end_offset) in enumerate(manifest.footer["chunks"]):
        rows = manifest.file.read_row_group(chunk_index, columns=["index", "reason"])
        if places := order.find_wanted(shard.name, rows):
            wanted[chunk_index] = places
            for place in places:
                index = rows["index"][place].as_py()
                if index in before or index in edited:
                    edit = edited.get(index, TagEdit()).follow(before.get(index, TagEdit()))
                    edits[chunk_index, place] = edit
        else:
            # No work there: readers skip it like a committed chunk.
            committed.append(PartName(chunk_index=chunk_index, end_offset=end_offset))
    return ShardWork(shard=shard, committed=tuple(sorted(committed)), wanted=wanted, edits=edits)


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
