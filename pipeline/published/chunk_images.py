"""Images of published rows whose place in the shard is not recorded, read again with the reader of the run.

manifest -> chunks wanted -> samples of the shard, each compared with its row -> encoded images
"""

import hashlib
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipeline.commit.manifests import Manifest
from pipeline.errors import ShardError
from pipeline.inputs.chunks import read_missing_chunks, require_unchanged
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard, Sample, Status

COLUMNS = ("key", "status", "image_sha256")


def read_chunk_images(
    shard: InputShard,
    config: InputConfig,
    manifest: Manifest,
    wanted: Collection[int],
    statuses: Collection[Status] = tuple(Status),
) -> Iterator[tuple[int, list[bytes | None]]]:
    """Read the images of some chunks again, and nothing of the others.

    Args:
        shard: As it was when it was labelled.
        config: Reader settings of the labelling run.
        manifest: Manifest of the shard.
        wanted: Indices of the chunks.
        statuses: Rows of another status get None.

    Yields:
        The index of each chunk, in order, and one encoded image per row; None for a row without one.

    Raises:
        ShardError: The shard is gone or changed, or holds other samples than the manifest.
    """
    if not wanted:
        return
    require_unchanged(shard)
    chunks = manifest.footer["chunks"]
    passed = {index: end for index, (_, end) in enumerate(chunks) if index not in wanted}
    num_left = len(wanted)
    # A labelled image was within the limit of its run, which may differ from this one.
    config = replace(config, max_image_bytes=sys.maxsize)
    for piece in read_missing_chunks(shard, config, passed):
        if not isinstance(piece, Chunk) or piece.index not in wanted:
            break
        rows = manifest.file.read_row_group(piece.index, columns=list(COLUMNS)).to_pylist()
        yield piece.index, _take_images(shard, piece, rows, statuses)
        num_left -= 1
        if not num_left:
            return
    raise ShardError(f"shard '{shard.uri}' ends before all {len(chunks)} chunks that were labelled of it")


def _take_images(
    shard: InputShard, chunk: Chunk, rows: Sequence[dict[str, Any]], statuses: Collection[Status]
) -> list[bytes | None]:
    """Take the images of a chunk's rows.

    Raises:
        ShardError: A sample does not match the row at its position.
    """
    keys, found = [row["key"] for row in rows], [sample.key for sample in chunk.samples]
    if keys != found:
        missing = [key for key in keys if key not in found]
        said = f"lacks key '{missing[0]}'" if missing else "has its samples in another order or number"
        raise ShardError(f"shard '{shard.uri}' {said} in chunk {chunk.index}, where it was labelled")
    return [
        _take_image(shard, sample, row) if row["status"] in statuses else None
        for sample, row in zip(chunk.samples, rows, strict=True)
    ]


def _take_image(shard: InputShard, sample: Sample, row: dict[str, Any]) -> bytes | None:
    if row["image_sha256"] is None and row["status"] != Status.LABELLED:
        return None
    if sample.image is None or hashlib.sha256(sample.image).hexdigest() != row["image_sha256"]:
        raise ShardError(f"shard '{shard.uri}': the image of key '{sample.key}' is not the one that was labelled")
    return bytes(sample.image)
