"""The end of an export: files of shards that changed since are deleted, joint files are written."""

import json
from dataclasses import dataclass

from pipeline.errors import LabellingError
from pipeline.export.job.identity import Export
from pipeline.export.job.records import (
    FILES,
    RECORDS_FOLDER,
    ShardCounts,
    ShardItem,
    list_records,
    read_entries,
    read_paths,
    sum_counts,
)
from pipeline.export.job.selection import LeftOut
from pipeline.export.store_files import StoreFiles
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import delete

SUMMARY_FILE = "summary.json"
FEW_LEFT = 0.2
"""Share of the labelled rows of a class below which a warning names it."""
ADVICE = {
    LeftOut.REJECTED: "tagmask report shows why rows were rejected",
    LeftOut.KEYS: "compare the file of --keys with column key",
    LeftOut.CLASSES: "correct --classes",
    LeftOut.MIN_QUALITY: "lower --min-quality, or give --best-fraction instead",
    LeftOut.BEST_FRACTION: "raise --best-fraction",
    LeftOut.REVIEWED: "accept rows in tagmask review",
    LeftOut.WITHOUT_REFUSED: "leave out --without-refused",
    LeftOut.SKIP_MISSING: "put the images back to where they were labelled",
}


class NothingExportedError(LabellingError):
    """An export that no row is part of."""


@dataclass(frozen=True, kw_only=True)
class RareClass:
    """A class of which the filters leave little."""

    name: str
    num_labelled: int
    num_exported: int


def finish_export(export: Export, items: list[ShardItem]) -> ShardCounts:
    """Write the joint files of shards that are all exported. A second call writes the same bytes.

    Args:
        export: The export.
        items: Its shards, in the order of the run.

    Raises:
        NothingExportedError: No row was exported; the message says which filter took them.
        ManifestError: A record is damaged.
    """
    _delete_stale(export.out_uri, items)
    counts = sum_counts(export.out_uri, items)
    if not counts.num_exported:
        raise NothingExportedError(_describe_nothing(export, counts))
    files = StoreFiles(export.out_uri)
    export.format.finish(lambda: read_entries(export.out_uri, items), files, export.context)
    summary = counts.describe() | {"classes": list(export.context.class_names), "num_shards": len(items)}
    files.put(f"{RECORDS_FOLDER}/{SUMMARY_FILE}", json.dumps(summary, indent=2).encode())
    return counts


def find_rare_classes(export: Export, counts: ShardCounts) -> list[RareClass]:
    """Find the classes of which the filters left less than `FEW_LEFT` of the labelled rows."""
    return [
        RareClass(
            name=export.context.class_names[value], num_labelled=num, num_exported=counts.exported_of_class[value]
        )
        for value, num in sorted(counts.labelled_of_class.items())
        if counts.exported_of_class[value] < FEW_LEFT * num
        and (export.selection.class_ids is None or value in export.selection.class_ids)
    ]


def _describe_nothing(export: Export, counts: ShardCounts) -> str:
    taken = sorted(counts.left_out.items(), key=lambda item: -item[1])
    if not taken:
        return f"'{export.run.uri}' has no rows in its published shards, so nothing is exported"
    parts = ", ".join(f"{reason} {num}" for reason, num in taken)
    advice = ADVICE[LeftOut(taken[0][0])]
    return f"no row of '{export.run.uri}' is exported; left out of {counts.num_read}: {parts}; {advice}"


def _delete_stale(out_uri: str, items: list[ShardItem]) -> None:
    """Delete records of manifests that were replaced since, and the files that only those have."""
    current = {item.stem: item for item in items}
    by_shard = {item.shard.name: item for item in items}
    stale: dict[str, list[str]] = {}
    for name in list_records(out_uri) - {SUMMARY_FILE}:
        stem = name.rsplit(".", 1)[0]
        shard_name = stem.rsplit(".", 1)[0]
        if stem not in current and shard_name in by_shard:
            stale.setdefault(stem, []).append(name)
    for stem, names in sorted(stale.items()):
        kept = set(read_paths(out_uri, by_shard[stem.rsplit(".", 1)[0]].stem))
        gone = [path for path in read_paths(out_uri, stem) if path not in kept]
        delete(join_uri(out_uri, path) for path in gone)
        # The list of the files goes last: until then a driver that is killed finds them again.
        ordered = sorted(names, key=lambda name: name.endswith(FILES))
        delete(join_uri(out_uri, RECORDS_FOLDER, name) for name in ordered)
