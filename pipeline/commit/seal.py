"""Sealing: the parts of a shard become its manifest. Checked, numbered, published in one atomic put."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from pipeline.commit.manifests import open_manifest, publish_manifest
from pipeline.commit.names import PartName, locate_manifest, locate_part
from pipeline.commit.outcome import Outcome, describe_outcome, read_outcome, shorten
from pipeline.commit.parts import PartContent, count_rows, read_part
from pipeline.commit.repeated_keys import SampleCounts, count_samples, reject_repeated_keys
from pipeline.errors import LabellingError, ManifestError, RejectionLimitError, describe_exception, is_store_failure
from pipeline.run.advice import FOR_REJECTED
from pipeline.run.counts import LabelCounts
from pipeline.run.fingerprint import get_library_version
from pipeline.run.records import MANIFEST_SCHEMA, InputShard, MemberCounts, Reason, merge_members
from pipeline.run.run_file import describe_shard
from pipeline.storage.writing import delete
from pipeline.workers.pulse import Reporting

SEAL_TIMEOUT_S = 1800.0
"""Seconds to seal a shard, without waits for the store, after which the process is ended. The shard is sealed later."""


@dataclass(frozen=True, kw_only=True)
class CompleteShard:
    """A shard whose chunks are all committed."""

    shard: InputShard
    parts: tuple[PartName, ...]
    truncated_at: int | None = None
    """Byte at which the archive is truncated; None: it is complete."""
    members_after: MemberCounts | None = None
    """Members of the archive behind the last chunk; None if they are not counted."""


Publish = Callable[[CompleteShard], Outcome]
"""Publishes a complete shard. A second call writes the same bytes."""


def seal_shard(
    complete: CompleteShard,
    *,
    out_uri: str,
    fingerprint: str,
    max_rejected_fraction: float,
    class_texts: Mapping[bytes, bytes],
) -> Outcome:
    """Turn all parts of a shard into its manifest, then delete them.

    A second seal writes the same bytes. A crash between the put and the deletion leaves parts behind, which the next
    plan removes. It is no error if another driver has sealed the shard and deleted the parts.

    Args:
        complete: The shard.
        out_uri: Output folder of the run.
        fingerprint: Of the run.
        max_rejected_fraction: Largest share of damaged samples.
        class_texts: From `images.class_texts`, for the metadata of the manifest.

    Raises:
        ManifestError: The parts are not those of this shard and run, or the counts do not add up.
        RejectionLimitError: Too large a share of the rows is rejected; the parts stay.
    """
    shard, parts = complete.shard, sorted(complete.parts)
    try:
        contents = _read_parts(out_uri, fingerprint, shard.name, parts)
    except FileNotFoundError as error:
        sealed = _find_sealed(out_uri, fingerprint, shard)
        if sealed is None:
            raise ManifestError(
                f"shard '{shard.name}': {error}, and it is not sealed; run the same command again"
            ) from error
        delete([locate_part(out_uri, shard.name, part) for part in parts])
        return sealed
    tables = [content.rows for content in contents]
    members = merge_members([*(content.members for content in contents), complete.members_after])
    chunks = [[table.num_rows, part.end_offset] for table, part in zip(tables, parts, strict=True)]
    tables = _number_rows(reject_repeated_keys(tables), shard.uri)
    counts = count_rows(tables, num_bytes=shard.size_bytes)
    _require_balance(shard.name, counts, expected=sum(table.num_rows for table in tables))
    samples = count_samples(tables)
    _require_few_rejections(shard.name, samples, tables, max_rejected_fraction)
    footer = {
        "fingerprint": fingerprint,
        "shard": describe_shard(shard),
        "truncated_at": complete.truncated_at,
        "counts": counts.to_dict(),
        "chunks": chunks,
        "library_version": get_library_version(),
    } | ({} if members is None else {"members": members.describe()})
    publish_manifest(out_uri, shard.name, tables, footer, class_texts)
    delete([locate_part(out_uri, shard.name, part) for part in parts])
    return describe_outcome(shard.name, tables, counts, members, samples.rejected_by_reason)


class Refusal(NamedTuple):
    """Why a shard was not published."""

    error: str
    is_store_error: bool
    """Whether a store failed, so that another try may succeed."""


def publish_shard(publish: Publish, complete: CompleteShard, reporting: Reporting) -> Outcome | Refusal:
    """Publish a shard in a task. A refusal is a return value and does not fail the task.

    Waits out an outage of the store.
    """
    name = complete.shard.name
    with closing(reporting.open()) as pulse, pulse.busy(f"sealing '{name}'", SEAL_TIMEOUT_S) as patience:
        try:
            outcome = patience.call(partial(publish, complete))
        except (LabellingError, OSError) as error:
            return Refusal(str(error), is_store_failure(error))
        except Exception as error:  # noqa: BLE001 (of any type: it concerns this shard, and no other may wait for it)
            return Refusal(f"shard '{name}' cannot be sealed: {describe_exception(error)}", False)
    return outcome


def _find_sealed(out_uri: str, fingerprint: str, shard: InputShard) -> Outcome | None:
    """What the manifest of a shard holds; None if this run has not published it."""
    try:
        manifest = open_manifest(locate_manifest(out_uri, shard.name))
    except FileNotFoundError:
        return None
    footer = manifest.footer
    is_ours = footer.get("fingerprint") == fingerprint and footer.get("shard") == describe_shard(shard)
    return read_outcome(manifest, shard.name) if is_ours else None


def _read_parts(out_uri: str, fingerprint: str, shard_name: str, parts: Sequence[PartName]) -> list[PartContent]:
    if [part.chunk_index for part in parts] != list(range(len(parts))):
        raise ManifestError(
            f"shard '{shard_name}': chunks {[part.chunk_index for part in parts]} are not 0 to {len(parts) - 1}, "
            "each once; run the same command again"
        )
    return [read_part(out_uri, fingerprint, shard_name, part) for part in parts]


def _number_rows(tables: Sequence[pa.Table], shard_uri: str) -> list[pa.Table]:
    numbered = []
    start = 0
    # One array, of which each table has a slice.
    uris = pa.array([shard_uri] * max((table.num_rows for table in tables), default=0), pa.string())
    for table in tables:
        stop = start + table.num_rows
        numbered.append(add_places(table, pa.array(range(start, stop), pa.int64()), uris.slice(0, table.num_rows)))
        start = stop
    return numbered


def add_places(rows: pa.Table, indices: pa.Array | pa.ChunkedArray, shard_uris: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Turn rows of parts into rows of a manifest.

    Args:
        rows: With the schema `PART_SCHEMA`.
        indices: Place of each row in its shard.
        shard_uris: URI of the shard, for each row.
    """
    for name, values in (("index", indices), ("shard", shard_uris)):
        rows = rows.add_column(MANIFEST_SCHEMA.get_field_index(name), MANIFEST_SCHEMA.field(name), values)
    return rows


def _require_balance(shard_name: str, counts: LabelCounts, expected: int) -> None:
    if counts.num_labelled + counts.num_rejected != expected:
        raise ManifestError(
            f"shard '{shard_name}': {counts.num_labelled} labelled and {counts.num_rejected} rejected rows "
            f"do not add up to {expected} read; this is a defect, please report it"
        )


def _require_few_rejections(
    shard_name: str, samples: SampleCounts, tables: Sequence[pa.Table], max_rejected_fraction: float
) -> None:
    # Missing tags and dead links are properties of a collection, not damage.
    harmless = (Reason.NO_KNOWN_TAG, Reason.DOWNLOAD_FAILED, Reason.NOT_FOUND, Reason.NOT_IN_TAGS_TABLE)
    damaged = {reason: num for reason, num in samples.rejected_by_reason.items() if reason not in harmless}
    num_damaged = sum(damaged.values())
    if num_damaged <= max_rejected_fraction * samples.num:
        return
    most = max(damaged, key=lambda reason: damaged[reason])
    key, error = next(
        (key, error)
        for table in tables
        for key, reason, error in zip(*(table[name].to_pylist() for name in ("key", "reason", "error")), strict=True)
        if reason == most
    )
    raise RejectionLimitError(
        f"shard '{shard_name}': rejected {num_damaged} of {samples.num} rows, limit {max_rejected_fraction:.0%}, "
        f"mostly {most}, first '{shorten(key)}'; {FOR_REJECTED.get(Reason(most), 'look at its parts')}, or raise "
        f"--max-rejected-fraction; the error of '{shorten(key)}': {shorten(error or 'none')}"
    )
