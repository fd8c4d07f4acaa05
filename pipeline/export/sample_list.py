"""samples.jsonl: which sample of which shard each exported name is, for formats whose tools drop all but names."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.export.samples import PROVENANCE, ExportFiles, ExportSample

PATH = "samples.jsonl"
"""Path in the folder of the export."""
_FIELDS = ("name", "split", "key", "shard", "index")


def identify(sample: ExportSample) -> dict[str, Any]:
    """Say which sample a name is, and where its mask comes from if it was corrected, as a JSON object."""
    values = (sample.name, sample.split, sample.key, sample.shard_name, sample.index)
    return dict(zip(_FIELDS, values, strict=True)) | sample.provenance


def write_sample_list(entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles) -> None:
    """Write a line a sample, from entries that hold what `identify` returns."""
    with files.open(PATH) as file:
        for entry in entries():
            listed = {field: entry[field] for field in (*_FIELDS, *PROVENANCE) if field in entry}
            file.write(f"{json.dumps(listed)}\n".encode())
