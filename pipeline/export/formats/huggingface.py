"""Hugging Face data sets: Parquet files with images, masks and names of classes, and a card."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.export.samples import ExportContext, ExportFiles, ExportSample

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
        # Arrow takes half a second, for which the help of the command does not wait.
        from pipeline.export.parquet_groups import GroupWriter, make_schema, open_parquet

        schema = make_schema(context)
        writers: dict[str, GroupWriter] = {}
        with ExitStack() as stack:
            for sample in samples:
                if sample.split not in writers:
                    file = stack.enter_context(files.open(f"data/{sample.split}-{shard_number:06d}.parquet"))
                    parquet = stack.enter_context(open_parquet(file, schema))
                    writers[sample.split] = GroupWriter(parquet, schema, self.group_mib * 2**20)
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


def _to_row(sample: ExportSample, context: ExportContext) -> dict[str, Any]:
    # Decoders bring Arrow, for which the help of the command does not wait.
    from pipeline.images.masks import encode_mask

    return {
        "image": {"bytes": sample.image, "path": sample.name + sample.image_suffix},
        "mask": {"bytes": encode_mask(sample.mask, context.palette), "path": f"{sample.name}.png"},
        "key": sample.key,
        "tags": list(sample.tags),
        "classes": list(sample.class_ids),
        "quality": sample.quality,
    } | sample.provenance
