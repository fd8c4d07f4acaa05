"""Manifests: the commit of a shard. Published in one atomic put, read row by row.

There is no marker beside a manifest: a shard with a manifest is done.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit.encoding import FOOTER_KEY, encode_parquet, parse_footer
from pipeline.commit.names import locate_manifest
from pipeline.errors import ManifestError
from pipeline.run.records import MANIFEST_SCHEMA, MemberCounts
from pipeline.storage.listing import list_folder
from pipeline.storage.reading import ByteStream, open_random, open_stream, read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One published shard."""

    uri: str
    footer: dict[str, Any]
    """Run fingerprint, identity of the shard, counts, library version."""
    file: pq.ParquetFile

    @property
    def class_texts(self) -> dict[bytes, bytes]:
        """Texts in the metadata of the schema beside the footer: class names and colours; none before version 5."""
        return {key: text for key, text in (self.file.schema_arrow.metadata or {}).items() if key != FOOTER_KEY}

    def iterate_rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Read the rows; one chunk is in memory at a time."""
        for batch in self.file.iter_batches(columns=columns):
            yield from batch.to_pylist()


def list_manifests(out_uri: str) -> list[str]:
    """List the manifests of a run, by name.

    Raises:
        ManifestError: Nothing is published.
    """
    uris = [item.uri for item in list_folder(join_uri(out_uri, "labels")) if item.uri.endswith(".parquet")]
    if not uris:
        raise ManifestError(
            f"'{out_uri}' has no manifests (labels/*.parquet); pass the output folder of a labelling run"
        )
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
        # pyarrow raises OSError for damaged bytes in memory.
        raise ManifestError(f"'{uri}' is not a manifest of this project: {error}; label the shard again") from error


@contextmanager
def stream_manifest(uri: str) -> Iterator[Manifest]:
    """Open a manifest without reading all of it: the footer now, rows on demand.

    Raises:
        FileNotFoundError: There is none.
        ManifestError: It is not a file of this project.
    """
    with closing(open_stream(uri)) as stream:
        yield _parse_manifest(uri, stream)


@contextmanager
def browse_manifest(uri: str) -> Iterator[Manifest]:
    """Open a manifest for reads of some columns of some row groups: only those bytes are read, and the footer.

    Raises:
        FileNotFoundError: There is none.
        ManifestError: It is not a file of this project.
    """
    with closing(open_random(uri)) as stream:
        yield _parse_manifest(uri, stream, pre_buffer=True)


def _parse_manifest(uri: str, source: ByteStream, *, pre_buffer: bool = False) -> Manifest:
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=pre_buffer)
        footer = parse_footer(file)
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise ManifestError(f"'{uri}' is not a manifest of this project: {error}; label the shard again") from error
    return Manifest(uri=uri, footer=footer, file=file)


def read_members(manifest: Manifest) -> MemberCounts | None:
    """The counts of the members of an archive; None for Parquet inputs and in manifests of older versions.

    Raises:
        ManifestError: The footer holds something else.
    """
    if "members" not in manifest.footer:
        return None
    try:
        return MemberCounts.parse(manifest.footer["members"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"'{manifest.uri}' holds no counts of members: {error!r}; label the shard again") from error


DIGEST_ROWS = 64
"""Rows that are converted to Python values at a time while their digest is computed."""


def publish_manifest(
    out_uri: str,
    shard_name: str,
    tables: Sequence[pa.Table],
    footer: dict[str, Any],
    class_texts: Mapping[bytes, bytes],
) -> None:
    """Publish a manifest in one atomic put. It replaces an older one.

    Args:
        out_uri: Output folder of the run.
        shard_name: Name of the shard.
        tables: One per chunk, with the schema `MANIFEST_SCHEMA`; each becomes a row group.
        footer: Description of the manifest. The digest of its rows is added.
        class_texts: Texts in the metadata of the schema, from `images.class_texts`.
    """
    footer = footer | {"rows_sha256": compute_rows_digest(tables)}
    put_atomic(locate_manifest(out_uri, shard_name), encode_parquet(tables, MANIFEST_SCHEMA, footer, class_texts))


def compute_rows_digest(tables: Iterable[pa.Table]) -> str:
    """Compute the digest of the rows of a manifest: sha256 over one line of JSON per row, as 64 hex digits.

    Columns have the order of the schema, bytes are hex digits, numbers have Python's format. The digest does not
    depend on how Parquet stores the rows.
    """
    digest = hashlib.sha256()
    for table in tables:
        for batch in table.select(MANIFEST_SCHEMA.names).to_batches(max_chunksize=DIGEST_ROWS):
            for row in batch.to_pylist():
                digest.update(json.dumps(row, default=bytes.hex).encode() + b"\n")
    return digest.hexdigest()
