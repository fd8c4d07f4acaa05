"""Checks of the footer of a manifest against its run, its input and its row groups."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.audit.archives.member_checks import MEMBERS_FIELD, find_form_faults
from pipeline.audit.manifest_format import FOOTER_FIELDS, OPTIONAL_FOOTER_FIELDS
from pipeline.audit.parquet.layout import Layout
from pipeline.audit.rows import SHA256
from pipeline.audit.verdict import Check, Problem
from pipeline.run.counts import LabelCounts
from pipeline.run.records import InputShard


def check_identity(shard: InputShard, fingerprint: str, footer: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that a manifest belongs to this run and shard; else nothing else of it is comparable."""
    if footer.get("fingerprint") != fingerprint:
        yield Problem(Check.OTHER_RUN, 0, f"{shard.name}: fingerprint {str(footer.get('fingerprint'))[:12]}")
    elif json.dumps(footer.get("shard"), sort_keys=True) != json.dumps(asdict(shard), sort_keys=True):
        yield Problem(Check.OTHER_INPUT, 0, f"{shard.name}: made from {footer.get('shard')}")


def check_footer(
    shard: InputShard, footer: Mapping[str, Any], layout: Layout, *, has_members: bool
) -> Iterator[Problem]:
    """Check that a footer is consistent with itself and with its row groups.

    Args:
        shard: The input.
        footer: Of the manifest.
        layout: Of the manifest.
        has_members: True if footers of this run and kind of input count the members of the archive.
    """
    name, counts, num_rows = shard.name, parse_counts(footer), layout.footer["num_rows"]
    if counts is None:
        yield Problem(Check.WRONG_COUNTS, 0, f"{name}: its footer has the counts {footer.get('counts')}")
    elif not counts.num_labelled + counts.num_rejected == counts.num_read == num_rows:
        yield Problem(Check.WRONG_COUNTS, 0, f"{name}: its footer counts {footer['counts']}, it has {num_rows} rows")
    elif counts.num_bytes != shard.size_bytes:
        text = f"{name}: its footer states {counts.num_bytes} bytes, its input has {shard.size_bytes}"
        yield Problem(Check.WRONG_COUNTS, 0, text)
    faults = _find_footer_faults(footer, layout, (MEMBERS_FIELD,) if has_members else ())
    yield from (Problem(Check.WRONG_FOOTER, 0, f"{name}: {fault}") for fault in faults)
    if footer.get("truncated_at") is not None:
        yield Problem(Check.TRUNCATED_INPUT, 0, f"{name}: at byte {footer['truncated_at']}")


def parse_counts(footer: Mapping[str, Any]) -> LabelCounts | None:
    """Counts of a footer; None if they are malformed or do not balance."""
    try:
        counts = LabelCounts(**footer["counts"])
        numbers = (counts.num_read, counts.num_labelled, counts.num_rejected, counts.num_bytes)
        is_whole = all(type(number) is int for number in (*numbers, *counts.rejected_by_reason.values()))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return counts if is_whole else None


def _find_footer_faults(footer: Mapping[str, Any], layout: Layout, also_needed: Sequence[str]) -> Iterator[str]:
    needed = (*FOOTER_FIELDS, *also_needed)
    if missing := [field for field in needed if field not in footer]:
        yield f"it lacks {missing}"
    if unknown := sorted(footer.keys() - {*needed, *OPTIONAL_FOOTER_FIELDS}):
        yield f"it has the fields {unknown}"
    elif MEMBERS_FIELD in footer:
        yield from find_form_faults(footer)
    truncated_at = footer.get("truncated_at")
    if not isinstance(truncated_at, int | None) or isinstance(truncated_at, bool):
        yield f"it states truncated_at {truncated_at!r}"
    if not isinstance(footer.get("library_version", ""), str):
        yield f"it states library_version {footer['library_version']!r}"
    if "rows_sha256" in footer and not SHA256.fullmatch(str(footer["rows_sha256"])):
        yield f"it states rows_sha256 {footer['rows_sha256']!r}"
    if "retries" in footer and not _are_retries(footer["retries"]):
        yield f"it states retries {footer['retries']!r}"
    if "chunks" in footer:
        yield from _check_chunks(footer["chunks"], [group["num_rows"] for group in layout.groups])


def _are_retries(retries: Any) -> bool:
    return isinstance(retries, list) and all(
        isinstance(entry, dict)
        and sorted(entry.keys() - {"edits"}) == ["id", "reasons"]
        and isinstance(entry["id"], str)
        and isinstance(entry["reasons"], list)
        and all(isinstance(reason, str) for reason in entry["reasons"])
        and _are_edits(entry.get("edits", {}))
        for entry in retries
    )


def _are_edits(edits: Any) -> bool:
    """Whether these are removed and added class ids, by the index of the row."""
    return isinstance(edits, dict) and all(
        index.isdecimal()
        and isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(ids, list) and all(type(one) is int and one > 0 for one in ids) for ids in pair)
        and not set(pair[0]) & set(pair[1])
        for index, pair in edits.items()
    )


def _check_chunks(chunks: Any, num_rows: list[int]) -> Iterator[str]:
    is_list = isinstance(chunks, list) and all(
        isinstance(chunk, list) and [type(number) for number in chunk] == [int, int] for chunk in chunks
    )
    if not is_list or [chunk[0] for chunk in chunks] != num_rows:
        yield f"it names the chunks {str(chunks)[:100]}, its row groups have {str(num_rows)[:100]} rows"
        return
    ends = [chunk[1] for chunk in chunks]
    if ends != sorted(set(ends)) or (ends and ends[0] < 0):
        yield f"its chunks end at {str(ends)[:100]}"
