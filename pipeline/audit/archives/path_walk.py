"""Rows of an index shard as an audit counts them: keys in order, and digests of the images that they name."""

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from pipeline.audit.archives.samples import ImagePlace, WalkedImage, WalkedSample
from pipeline.audit.archives.tar_walk import WalkEnd
from pipeline.errors import PathError
from pipeline.storage.bulk.web import OversizedFileError, WebFileError, read_web_file
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import holds_secret

COLUMNS = ("key", "uri", "problem")


def walk_index(
    index_uri: str, max_image_bytes: int, wants_image: Callable[[str], bool] | None
) -> Iterator[WalkedSample | WalkEnd]:
    """Walk through the rows of an index shard.

    Args:
        index_uri: The index shard.
        max_image_bytes: Limit of the run; an image of the web above it counts as missing.
        wants_image: True for the keys of rows whose images are read; None: no image is read.

    Raises:
        KeyError: It lacks a column. For a damaged file Arrow raises its own exceptions.
        OSError: A store failed.
    """
    table = pq.read_table(io.BytesIO(read_bytes(index_uri)), columns=list(COLUMNS))
    row: dict[str, Any]
    for number, row in enumerate(table.to_pylist()):
        sample = WalkedSample(key=row["key"], offset=number, has_image=True)
        if wants_image is not None and wants_image(sample.key):
            sample.image = _fetch(row["uri"], max_image_bytes) if row["uri"] else None
            sample.has_image = sample.image is not None
        if row["uri"]:
            # A manifest repeats no secret of an index.
            uri = None if holds_secret(row["uri"]) else row["uri"]
            sample.place = ImagePlace(uri=uri, num_bytes=len(sample.image.head) if sample.image else None)
        yield sample
    yield WalkEnd(offset=table.num_rows, truncated_at=None)


def _fetch(uri: str, max_image_bytes: int) -> WalkedImage | None:
    """Read an image again; None if it is not there."""
    try:
        if urlsplit(uri).scheme in ("http", "https"):
            host = urlsplit(uri).netloc
            payload = read_web_file(uri, max_image_bytes, lambda url: urlsplit(url).netloc == host)
        else:
            payload = read_bytes(uri)
    except (FileNotFoundError, PathError, WebFileError, OversizedFileError):
        return None
    return WalkedImage(sha256=hashlib.sha256(payload).hexdigest(), head=payload, is_whole=True)
