"""Names and URIs of parts and manifests: functions of the chunk and the shard."""

import re
from collections import defaultdict
from dataclasses import dataclass

from pipeline.errors import ManifestError
from pipeline.storage.listing import list_objects
from pipeline.storage.uris import join_uri

PARTS_FOLDER = "parts"


_PART_NAME = re.compile(r"(\d+)-(\d+)\.parquet")


@dataclass(frozen=True, kw_only=True, order=True)
class PartName:
    """Name of a part: the number of its chunk, and the offset at which the next chunk starts."""

    chunk_index: int
    end_offset: int

    def __str__(self) -> str:
        return f"{self.chunk_index:06d}-{self.end_offset:014d}.parquet"


def parse_part_name(file_name: str) -> PartName:
    """Parse the name of a part file.

    >>> parse_part_name(str(PartName(chunk_index=3, end_offset=1024)))
    PartName(chunk_index=3, end_offset=1024)

    Raises:
        ManifestError: It is not the name of a part.
    """
    match = _PART_NAME.fullmatch(file_name)
    if not match:
        raise ManifestError(f"'{file_name}' is not the name of a part; move it out of this run")
    return PartName(chunk_index=int(match[1]), end_offset=int(match[2]))


def locate_part(out_uri: str, shard_name: str, part: PartName, folder: str = PARTS_FOLDER) -> str:
    """URI of a part."""
    return join_uri(out_uri, folder, shard_name, str(part))


def locate_manifest(out_uri: str, shard_name: str) -> str:
    """URI of the manifest of a shard."""
    return join_uri(out_uri, "labels", f"{shard_name}.parquet")


def list_part_names(out_uri: str, folder: str = PARTS_FOLDER) -> dict[str, list[PartName]]:
    """List the parts of all shards, by the name of the shard.

    Raises:
        ManifestError: A file in the folder is not a part.
    """
    parts: dict[str, list[PartName]] = defaultdict(list)
    for item in list_objects(join_uri(out_uri, folder)):
        shard_name, file_name = item.uri.rsplit("/", 2)[-2:]
        parts[shard_name].append(parse_part_name(file_name))
    return parts
