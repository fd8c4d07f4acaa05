"""The Parquet encoding of parts and manifests, and the footer that each carries."""

import io
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.documents import parse_json, show_value

FOOTER_KEY = b"tagmask"
"""Name of the footer among the key-value metadata of the file."""
DICTIONARY_COLUMNS = ("shard", "status", "reason")
"""Columns with few distinct values in a row group."""


def encode_parquet(
    tables: Sequence[pa.Table],
    schema: pa.Schema,
    footer: dict[str, Any],
    class_texts: Mapping[bytes, bytes] = MappingProxyType({}),
) -> bytes:
    """Encode tables as one Parquet file: one row group per table, one checksum per page, texts as metadata.

    Args:
        tables: Rows.
        schema: Of the tables, without metadata.
        footer: Written as JSON.
        class_texts: Further texts, by key.
    """
    sink = io.BytesIO()
    metadata = {FOOTER_KEY: json.dumps(footer, sort_keys=True).encode(), **class_texts}
    # Masks are already compressed, and a dictionary of unique values saves nothing: plain zstd for the rest.
    # Row groups are chunks: a retry replaces rows chunk by chunk.
    with pq.ParquetWriter(
        sink,
        schema.with_metadata(metadata),
        compression="zstd",
        use_dictionary=[name for name in DICTIONARY_COLUMNS if name in schema.names],
        write_page_checksum=True,
    ) as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(metadata), row_group_size=max(table.num_rows, 1))
    return sink.getvalue()


def parse_footer(file: pq.ParquetFile) -> dict[str, Any]:
    """The footer of a part or manifest.

    Raises:
        KeyError: The file has none.
        ValueError: It is not a JSON object.
    """
    footer = parse_json((file.schema_arrow.metadata or {})[FOOTER_KEY])
    if not isinstance(footer, dict):
        raise ValueError(f"its footer is {show_value(footer)}")
    return footer
