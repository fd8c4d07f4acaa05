"""Names of manifests and parts in an output folder, written a second time for the audit."""

import re

from pipeline.storage.storage import join_uri

MANIFESTS_FOLDER, PARTS_FOLDER = "labels", "parts"
_PART_NAME = re.compile(r"(\d+)-(\d+)\.parquet")


def locate_manifest(out_uri: str, shard_name: str) -> str:
    """URI of the manifest of a shard."""
    return join_uri(out_uri, MANIFESTS_FOLDER, f"{shard_name}.parquet")


def parse_chunk_index(file_name: str) -> int | None:
    """Index of the chunk of a part; None if this is not the name of a part.

    >>> parse_chunk_index("000003-00000000001024.parquet"), parse_chunk_index("notes.txt")
    (3, None)
    """
    match = _PART_NAME.fullmatch(file_name)
    return int(match[1]) if match else None
