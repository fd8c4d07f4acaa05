"""What an export is: run, format, options and filters, written once into its folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from typing import Any

from pipeline.errors import ManifestError, RunConflictError
from pipeline.export.job.selection import Selection
from pipeline.export.samples import ExportContext, ExportFormat
from pipeline.images.class_texts import name_mask_values
from pipeline.published.run import PublishedRun
from pipeline.run.fingerprint import compute_fingerprint, get_library_version, list_changes
from pipeline.run.records import RUN_FILE
from pipeline.storage.listing import exists
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import create_if_absent

EXPORT_FILE = "export.json"
EXPORT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Export:
    """An export of a published run."""

    run: PublishedRun
    out_uri: str
    format_name: str
    format: ExportFormat
    selection: Selection
    skip_missing: bool = False
    """Leave out rows whose image is gone or changed, instead of an error."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All inputs that determine the files, as plain values; not the published shards, which may become more."""
        return {
            "export_version": EXPORT_VERSION,
            "run_fingerprint": self.run.record["fingerprint"],
            "format": self.format_name,
            "options": asdict(self.format) if is_dataclass(self.format) else {},
            "filters": self.selection.describe(),
            "skip_missing": self.skip_missing,
        }

    @cached_property
    def context(self) -> ExportContext:
        """What all samples share."""
        return ExportContext(
            class_names=name_mask_values(self.run.vocabulary.classes),
            palette=self.run.palette,
            splits=self.selection.splits.names,
            fingerprint=compute_fingerprint(self.identity),
        )

    def for_workers(self) -> "Export":
        """The same export without its lists of shards, of which each task would get a copy."""
        record: Any = {**self.run.record, "inputs": []}
        return replace(self, run=replace(self.run, shards=(), record=record))


def claim_folder(export: Export, *, writes: bool = True) -> None:
    """Write the identity of an export into its folder, or check that the folder holds the same export.

    Args:
        export: The export; its format has checked its options.
        writes: False to check only.

    Raises:
        RunConflictError: The folder holds another export, or a labelling run.
        ManifestError: Its record is damaged.
    """
    uri = join_uri(export.out_uri, EXPORT_FILE)
    if exists(join_uri(export.out_uri, RUN_FILE)):
        raise RunConflictError(f"'{export.out_uri}' is the folder of a labelling run; give the export another --out")
    if writes:
        record = {
            "identity": export.identity,
            "run_uri": export.run.uri,
            "classes": list(export.context.class_names),
            "library_version": get_library_version(),
        }
        if create_if_absent(uri, json.dumps(record, indent=2, sort_keys=True).encode()):
            return
    try:
        payload = read_bytes(uri)
    except FileNotFoundError:
        return
    there = _parse_identity(payload, uri)
    if changes := list_changes(there, export.identity):
        raise RunConflictError(
            f"'{export.out_uri}' holds another export: {'; '.join(changes[:5])}; give this one another --out"
        )


def _parse_identity(payload: bytes, uri: str) -> Mapping[str, Any]:
    try:
        identity = json.loads(payload)["identity"]
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"'{uri}' is not the record of an export; move it away, or choose another --out") from error
    if not isinstance(identity, dict):
        raise ManifestError(f"'{uri}' is not the record of an export; move it away, or choose another --out")
    return identity
