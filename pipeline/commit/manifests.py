"""Reading what a run published: its manifests, row by row."""

import io
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.documents import parse_json
from pipeline.commit.parts import FOOTER_KEY
from pipeline.errors import ManifestError
from pipeline.storage.storage import ByteStream, join_uri, list_folder, open_stream, read_bytes


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One published shard."""

    uri: str
    footer: dict[str, Any]
    """Run fingerprint, identity of the shard, counts, library version."""
    file: pq.ParquetFile

    def iterate_rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Read the rows, a chunk in memory at a time."""
        for batch in self.file.iter_batches(columns=columns):
            yield from batch.to_pylist()


def list_manifests(out_uri: str) -> list[str]:
    """List the manifests of a run, by name.

    Raises:
        ManifestError: Nothing is published.
    """
    uris = [item.uri for item in list_folder(join_uri(out_uri, "labels")) if item.uri.endswith(".parquet")]
    if not uris:
        raise ManifestError(f"'{out_uri}' has no manifests (labels/*.parquet); give the --out of jobs.label")
    return uris


def open_manifest(uri: str) -> Manifest:
    """Open a manifest.

    Raises:
        ManifestError: It is not a file of this project.
    """
    payload = read_bytes(uri)
    try:
        return _parse_manifest(uri, io.BytesIO(payload))
    except OSError as error:
        # Of bytes in memory this is how pyarrow calls damage.
        raise ManifestError(f"'{uri}' is no manifest of this project: {error}; label the shard again") from error


@contextmanager
def stream_manifest(uri: str) -> Iterator[Manifest]:
    """Open a manifest without reading it whole: the footer now, rows as they are asked for.

    Raises:
        FileNotFoundError: There is none.
        ManifestError: It is not a file of this project.
    """
    with closing(open_stream(uri)) as stream:
        yield _parse_manifest(uri, stream)


def _parse_manifest(uri: str, source: ByteStream) -> Manifest:
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        footer = parse_json((file.schema_arrow.metadata or {})[FOOTER_KEY])
        if not isinstance(footer, dict):
            raise ValueError(f"its footer is {footer!r}")
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise ManifestError(f"'{uri}' is no manifest of this project: {error}; label the shard again") from error
    return Manifest(uri=uri, footer=footer, file=file)
