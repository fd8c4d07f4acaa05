"""WebDataset: tars of bounded size with photo, mask and a JSON object of each sample."""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pipeline.export.samples import ExportContext, ExportFiles, ExportSample

MASK_SUFFIX = ".mask.png"


@dataclass(frozen=True, kw_only=True)
class WebDatasetFormat:
    """Options of format webdataset."""

    max_tar_mib: int = 1024
    """Largest tar, in MiB; only a single sample may exceed it. A tar holds samples of one input shard."""

    def check(self, context: ExportContext) -> None:
        """Check the options.

        Raises:
            ValueError: One is out of range.
        """
        if self.max_tar_mib < 1:
            raise ValueError(f"need --webdataset.max-tar-mib >= 1, got {self.max_tar_mib}")

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write the tars of each split; yield tar and split of each sample."""
        tars: dict[str, _Tars] = {}
        with ExitStack() as stack:
            for sample in samples:
                if sample.split not in tars:
                    made = _Tars(f"{sample.split}-{shard_number:06d}", files, self.max_tar_mib * 2**20)
                    tars[sample.split] = stack.enter_context(made)
                yield {"split": sample.split, "tar": tars[sample.split].add(_list_members(sample, context))}

    def finish(
        self, entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles, context: ExportContext
    ) -> None:
        """Write the names of classes, and for each split the list of its tars, which `wids` reads."""
        counts: dict[str, dict[str, int]] = {split: {} for split in context.splits}
        for entry in entries():
            tars = counts[entry["split"]]
            tars[entry["tar"]] = tars.get(entry["tar"], 0) + 1
        for split, tars in counts.items():
            listed = [{"url": name, "nsamples": num} for name, num in tars.items()]
            index = {"wids_version": 1, "name": split, "shardlist": listed}
            files.put(f"{split}.json", json.dumps(index, indent=2).encode())
        files.put("classes.json", json.dumps(list(context.class_names), ensure_ascii=False).encode())


@dataclass
class _Tars:
    """Tars of one split of a shard, one open at a time."""

    start: str
    files: ExportFiles
    max_bytes: int
    number: int = -1
    num_bytes: int = 0
    tar: tarfile.TarFile | None = None
    opened: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "_Tars":
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self.opened.__exit__(*error)

    @property
    def name(self) -> str:
        """Name of the open tar."""
        return f"{self.start}-{self.number:03d}.tar"

    def add(self, members: Mapping[str, bytes]) -> str:
        """Add a sample; return the name of its tar."""
        size = sum(tarfile.BLOCKSIZE * (1 - -len(content) // tarfile.BLOCKSIZE) for content in members.values())
        if self.tar is None or self.num_bytes + size > self.max_bytes - tarfile.RECORDSIZE:
            self._open_next()
        for name, content in members.items():
            # Time and owner stay 0, so that the same samples give the same bytes.
            header = tarfile.TarInfo(name)
            header.size = len(content)
            assert self.tar is not None
            self.tar.addfile(header, io.BytesIO(content))
            # It keeps the header of each member, for readers.
            self.tar.members.clear()  # type: ignore[attr-defined]
        self.num_bytes += size
        return self.name

    def _open_next(self) -> None:
        self.opened.close()
        self.number += 1
        self.num_bytes = 0
        file = self.opened.enter_context(self.files.open(self.name))
        made = tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 (the stack closes it)
        self.tar = self.opened.enter_context(made)


def _list_members(sample: ExportSample, context: ExportContext) -> dict[str, bytes]:
    # Decoders bring Arrow, for which the help of the command does not wait.
    from pipeline.images.masks import encode_mask

    described = {
        "key": sample.key,
        "tags": list(sample.tags),
        "classes": [context.class_names[number] for number in sample.class_ids],
        "class_ids": list(sample.class_ids),
        "quality": sample.quality,
    } | sample.provenance
    return {
        sample.name + sample.image_suffix: sample.image,
        sample.name + MASK_SUFFIX: encode_mask(sample.mask, context.palette),
        f"{sample.name}.json": json.dumps(described, ensure_ascii=False).encode("utf-8", "backslashreplace"),
    }
