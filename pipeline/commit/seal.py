"""Sealing: the parts of a shard become its manifest. Checked, numbered, published in one atomic put."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from pipeline.commit.manifests import publish_manifest
from pipeline.commit.names import PartName, locate_manifest, locate_part
from pipeline.commit.parts import count_rows, read_footer, read_part
from pipeline.errors import LabellingError, ManifestError, RejectionLimitError, describe_exception, is_store_failure
from pipeline.run.counts import LabelCounts
from pipeline.run.fingerprint import get_library_version
from pipeline.run.records import MANIFEST_SCHEMA, PART_SCHEMA, InputShard, Reason, Status
from pipeline.run.run_file import describe_shard
from pipeline.storage.reading import read_bytes
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


Publish = Callable[[CompleteShard], object]
"""Publishes a complete shard. A second call writes the same bytes."""


def seal_shard(complete: CompleteShard, *, out_uri: str, fingerprint: str, max_rejected_fraction: float) -> LabelCounts:
    """Turn all parts of a shard into its manifest, then delete them.

    A second seal writes the same bytes. A crash between the put and the deletion leaves parts behind, which the next
    plan removes. It is no error if another driver has sealed the shard and deleted the parts.

    Raises:
        ManifestError: The parts are not those of this shard and run, or the counts do not add up.
        RejectionLimitError: Too large a share of the rows is rejected; the parts stay.
    """
    shard, parts = complete.shard, sorted(complete.parts)
    try:
        tables = _read_parts(out_uri, fingerprint, shard.name, parts)
    except FileNotFoundError as error:
        sealed = _find_sealed(out_uri, fingerprint, shard)
        if sealed is None:
            raise ManifestError(
                f"shard '{shard.name}': {error}, and it is not sealed; run the same command again"
            ) from error
        delete([locate_part(out_uri, shard.name, part) for part in parts])
        return sealed
    chunks = [[table.num_rows, part.end_offset] for table, part in zip(tables, parts, strict=True)]
    tables = _number_rows(_reject_repeated_keys(tables))
    counts = count_rows(tables, num_bytes=shard.size_bytes)
    _require_balance(shard.name, counts, expected=sum(table.num_rows for table in tables))
    _require_few_rejections(shard.name, counts, tables, max_rejected_fraction)
    footer = {
        "fingerprint": fingerprint,
        "shard": describe_shard(shard),
        "truncated_at": complete.truncated_at,
        "counts": counts.to_dict(),
        "chunks": chunks,
        "library_version": get_library_version(),
    }
    publish_manifest(out_uri, shard.name, tables, footer)
    delete([locate_part(out_uri, shard.name, part) for part in parts])
    return counts


class Refusal(NamedTuple):
    """Why a shard was not published."""

    error: str
    is_store_error: bool
    """Whether a store failed, so that another try may succeed."""


def publish_shard(publish: Publish, complete: CompleteShard, reporting: Reporting) -> Refusal | None:
    """Publish a shard in a task; None if it is published. A refusal is a return value and does not fail the task.

    Waits out an outage of the store.
    """
    name = complete.shard.name
    with closing(reporting.open()) as pulse, pulse.busy(f"sealing '{name}'", SEAL_TIMEOUT_S) as patience:
        try:
            patience.call(partial(publish, complete))
        except (LabellingError, OSError) as error:
            return Refusal(str(error), is_store_failure(error))
        except Exception as error:  # noqa: BLE001 (of any type: it concerns this shard, and no other may wait for it)
            return Refusal(f"shard '{name}' cannot be sealed: {describe_exception(error)}", False)
    return None


def _find_sealed(out_uri: str, fingerprint: str, shard: InputShard) -> LabelCounts | None:
    """The counts in the manifest of a shard; None if this run has not published it."""
    uri = locate_manifest(out_uri, shard.name)
    try:
        footer = read_footer(read_bytes(uri), uri)
    except FileNotFoundError:
        return None
    is_ours = footer.get("fingerprint") == fingerprint and footer.get("shard") == describe_shard(shard)
    return LabelCounts.from_dict(footer["counts"]) if is_ours else None


def _read_parts(out_uri: str, fingerprint: str, shard_name: str, parts: Sequence[PartName]) -> list[pa.Table]:
    if [part.chunk_index for part in parts] != list(range(len(parts))):
        raise ManifestError(
            f"shard '{shard_name}': chunks {[part.chunk_index for part in parts]} are not 0 to {len(parts) - 1}, "
            "each once; run the same command again"
        )
    return [read_part(out_uri, fingerprint, shard_name, part) for part in parts]


def _reject_repeated_keys(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Reject every row whose key an earlier row of the shard has.

    Done here and not by the reader: a resumed reader has not seen the earlier keys, and a part must be a function of
    its chunk alone.
    """
    seen: set[str] = set()
    checked = []
    for table in tables:
        keys = table["key"].to_pylist()
        repeated = []
        for row, key in enumerate(keys):
            if key in seen:
                repeated.append(row)
            seen.add(key)
        checked.append(_replace_rows(table, repeated) if repeated else table)
    return checked


def _replace_rows(table: pa.Table, repeated: Sequence[int]) -> pa.Table:
    rows = table.to_pylist()
    for index in repeated:
        row = rows[index]
        # A remasked row comes from a manifest and has passed this check before.
        is_fragment = row["reason"] in (Reason.NO_IMAGE, Reason.SPLIT_SAMPLE)
        kept = {name: row[name] for name in ("key", "width", "height", "exif_orientation", "image_sha256")}
        rows[index] = kept | {
            "status": str(Status.REJECTED),
            "reason": str(Reason.SPLIT_SAMPLE if is_fragment else Reason.DUPLICATE_KEY),
            "error": "members of this key stand apart in the shard; sort its members by name"
            if is_fragment
            else "an earlier sample of this shard has the same key; only that one is labelled",
        }
    return pa.Table.from_pylist(rows, schema=PART_SCHEMA)


def _number_rows(tables: Sequence[pa.Table]) -> list[pa.Table]:
    numbered = []
    start = 0
    for table in tables:
        stop = start + table.num_rows
        numbered.append(table.add_column(1, MANIFEST_SCHEMA.field("index"), pa.array(range(start, stop), pa.int64())))
        start = stop
    return numbered


def _require_balance(shard_name: str, counts: LabelCounts, expected: int) -> None:
    if counts.num_labelled + counts.num_rejected != expected:
        raise ManifestError(
            f"shard '{shard_name}': {counts.num_labelled} labelled and {counts.num_rejected} rejected rows "
            f"do not add up to {expected} read; this is a defect, please report it"
        )


def _require_few_rejections(
    shard_name: str, counts: LabelCounts, tables: Sequence[pa.Table], max_rejected_fraction: float
) -> None:
    # Missing tags and dead links are properties of a collection, not damage.
    harmless = (Reason.NO_KNOWN_TAG, Reason.DOWNLOAD_FAILED, Reason.NOT_IN_TAGS_TABLE)
    damaged = {reason: num for reason, num in counts.rejected_by_reason.items() if reason not in harmless}
    num_damaged = sum(damaged.values())
    if num_damaged <= max_rejected_fraction * counts.num_read:
        return
    most = max(damaged, key=lambda reason: damaged[reason])
    first = next(
        key
        for table in tables
        for key, reason in zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True)
        if reason == most
    )
    raise RejectionLimitError(
        f"shard '{shard_name}': rejected {num_damaged} of {counts.num_read} rows, limit {max_rejected_fraction:.0%}, "
        f"mostly {most}, first '{first}'; look at its parts, then repair the shard or raise --max-rejected-fraction"
    )
