"""Hugging Face data sets: Parquet files with images, masks and names of classes, and a card."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.export.samples import ExportContext, ExportFiles, ExportSample
from pipeline.images.masks import encode_mask

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FIELDS = (
    ("image", _IMAGE),
    ("mask", _IMAGE),
    ("key", pa.string()),
    ("tags", pa.list_(pa.string())),
    ("classes", pa.list_(pa.int64())),
    ("quality", pa.float32()),
)
RESERVED_SPLIT = "all"


@dataclass(frozen=True, kw_only=True)
class HuggingFaceFormat:
    """Options of format hf."""

    group_mib: int = 32
    """Images and masks in a row group, in MiB. Readers hold one in memory."""

    def check(self, context: ExportContext) -> None:
        """Check the options, and the names of splits.

        Raises:
            ValueError: An option is out of range, or a split has the name of all splits.
        """
        if self.group_mib < 1:
            raise ValueError(f"need --hf.group-mib >= 1, got {self.group_mib}")
        if RESERVED_SPLIT in context.splits:
            raise ValueError("a split of format hf cannot be called 'all', which means all splits; use another name")

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write a Parquet file for each split that has a row; yield the split of each sample."""
        schema = _make_schema(context)
        writers: dict[str, _GroupWriter] = {}
        with ExitStack() as stack:
            for sample in samples:
                if sample.split not in writers:
                    file = stack.enter_context(files.open(f"data/{sample.split}-{shard_number:06d}.parquet"))
                    parquet = stack.enter_context(pq.ParquetWriter(file, schema, compression="none"))
                    writers[sample.split] = _GroupWriter(parquet, schema, self.group_mib * 2**20)
                writers[sample.split].add(_to_row(sample, context))
                yield {"split": sample.split}
            for writer in writers.values():
                writer.flush()

    def finish(
        self, entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles, context: ExportContext
    ) -> None:
        """Write the card, which names the files of each split."""
        counts = Counter(str(entry["split"]) for entry in entries())
        filled = [split for split in context.splits if counts[split]]
        data_files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in filled]
        header = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": data_files}]}, sort_keys=False)
        names = "".join(f"    {value} {json.dumps(name)}\n" for value, name in enumerate(context.class_names))
        rows = "".join(f"    {split}: {counts[split]}\n" for split in filled)
        card = (
            f"---\n{header}---\n\n# Images and segmentation masks\n\nMasks were made from image tags by tagmask.\n"
            f"Pixels of `mask` hold class ids; 255 is ignored:\n\n{names}\nRows:\n\n{rows}"
        )
        files.put("README.md", card.encode())


@dataclass
class _GroupWriter:
    """Rows that wait for their row group."""

    parquet: pq.ParquetWriter
    schema: pa.Schema
    max_bytes: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.num_bytes += len(row["image"]["bytes"]) + len(row["mask"]["bytes"])
        if self.num_bytes >= self.max_bytes:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.parquet.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.num_bytes = [], 0


def _to_row(sample: ExportSample, context: ExportContext) -> dict[str, Any]:
    return {
        "image": {"bytes": sample.image, "path": sample.name + sample.image_suffix},
        "mask": {"bytes": encode_mask(sample.mask, context.palette), "path": f"{sample.name}.png"},
        "key": sample.key,
        "tags": list(sample.tags),
        "classes": list(sample.class_ids),
        "quality": sample.quality,
    }


def _make_schema(context: ExportContext) -> pa.Schema:
    text = {"_type": "Value", "dtype": "string"}
    features = {
        "image": {"_type": "Image"},
        "mask": {"_type": "Image"},
        "key": text,
        "tags": {"_type": "Sequence", "feature": text},
        "classes": {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": list(context.class_names)}},
        "quality": {"_type": "Value", "dtype": "float32"},
    }
    described = json.dumps({"info": {"features": features}}, sort_keys=True)
    return pa.schema(_FIELDS, metadata={b"huggingface": described.encode()})
