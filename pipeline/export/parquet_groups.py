"""Row groups of a Hugging Face data set, of bounded size."""

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.samples import PROVENANCE, ExportContext

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FIELDS = (
    ("image", _IMAGE),
    ("mask", _IMAGE),
    ("key", pa.string()),
    ("tags", pa.list_(pa.string())),
    ("classes", pa.list_(pa.int64())),
    ("quality", pa.float32()),
    *((name, pa.string()) for name in PROVENANCE),
)


@dataclass
class GroupWriter:
    """Rows that wait for their row group."""

    parquet: pq.ParquetWriter
    schema: pa.Schema
    max_bytes: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add a row; write the group if it is full."""
        self.rows.append(row)
        self.num_bytes += len(row["image"]["bytes"]) + len(row["mask"]["bytes"])
        if self.num_bytes >= self.max_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        if self.rows:
            self.parquet.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.num_bytes = [], 0


def open_parquet(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a Parquet file for writing. Images are compressed already."""
    return pq.ParquetWriter(file, schema, compression="none")


def make_schema(context: ExportContext) -> pa.Schema:
    """Make the schema, with the features in its metadata."""
    text = {"_type": "Value", "dtype": "string"}
    features = {
        "image": {"_type": "Image"},
        "mask": {"_type": "Image"},
        "key": text,
        "tags": {"_type": "Sequence", "feature": text},
        "classes": {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": list(context.class_names)}},
        "quality": {"_type": "Value", "dtype": "float32"},
    } | dict.fromkeys(PROVENANCE, text)
    described = json.dumps({"info": {"features": features}}, sort_keys=True)
    return pa.schema(_FIELDS, metadata={b"huggingface": described.encode()})
