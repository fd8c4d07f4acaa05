"""Photos of rows, read from their input shard."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.commit.manifests import Manifest
from pipeline.errors import ShardError
from pipeline.images.decode import DecodedImage, decode_image
from pipeline.inputs.chunks import read_chunks
from pipeline.reports.pictures import MAX_SIDE_PX
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, InputShard, Reason, Sample, Status

NEVER_DECODED = frozenset({Reason.CRASHED, Reason.OUT_OF_MEMORY, Reason.TOO_LARGE, Reason.UNDECODABLE})
"""Reasons of images that a page does not try to decode: they may end its process, or take minutes."""


def read_photos(manifest: Manifest, rows: Sequence[Mapping[str, Any]], inputs: InputConfig) -> dict[int, DecodedImage]:
    """Read photos by their index in the shard, without those that are gone, have changed or cannot be decoded.

    Args:
        manifest: Of the shard.
        rows: With `index`, `key`, `status`, `reason` and `image_sha256`.
        inputs: How the run read its shards.
    """
    wanted = {row["index"]: row for row in rows if row["reason"] not in NEVER_DECODED}
    photos: dict[int, DecodedImage] = {}
    index = 0
    try:
        for piece in read_chunks(InputShard(**manifest.footer["shard"]), inputs) if wanted else ():
            for sample in piece.samples if isinstance(piece, Chunk) else ():
                row = wanted.pop(index, None)
                index += 1
                photo = None if row is None else _decode(sample, row, inputs)
                if photo is not None:
                    photos[index - 1] = photo
            if not wanted:
                break
    except (ShardError, FileNotFoundError):
        return photos
    return photos


def _decode(sample: Sample, row: Mapping[str, Any], inputs: InputConfig) -> DecodedImage | None:
    """Decode the photo of a row; None if the sample is another one than when the row was made."""
    if sample.image is None or sample.key != row["key"]:
        return None
    if hashlib.sha256(sample.image).hexdigest() != row["image_sha256"]:
        return None
    # A labelled image passed the limit of the run; a rejected one may not have been held to it.
    max_pixels = 2**31 if row["status"] == Status.LABELLED else inputs.max_image_pixels
    photo = decode_image(sample.image, max_pixels=max_pixels, min_short_side_px=MAX_SIDE_PX)
    return photo if isinstance(photo, DecodedImage) else None
