"""CVAT: for each shard and split a zip of images, which makes a task, and one of "segmentation mask 1.1" for it."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.export.formats.voc import VocFormat, describe_labels
from pipeline.export.sample_list import identify, write_sample_list
from pipeline.export.samples import ExportContext, ExportFiles, ExportSample
from pipeline.run.config import IGNORE_LABEL


@dataclass(frozen=True, kw_only=True)
class CvatFormat:
    """Format cvat has no options. CVAT knows no ignored pixels: they become background."""

    def check(self, context: ExportContext) -> None:
        """Check that labelmap.txt can hold names and colours of the classes.

        Raises:
            ValueError: It cannot.
        """
        VocFormat().check(context)

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write the two zips of each split that the shard has samples of; yield the identity of each sample."""
        # Decoders bring Arrow, for which the help of the command does not wait.
        from pipeline.images.masks import encode_mask

        with ExitStack() as stack:
            tasks: dict[str, _Task] = {}
            for sample in samples:
                if sample.split not in tasks:
                    folder = f"{sample.split}/{shard_number:06d}"
                    tasks[sample.split] = _Task(
                        images=_open_zip(f"{folder}/images.zip", files, stack),
                        annotations=_open_zip(f"{folder}/annotations.zip", files, stack),
                    )
                task = tasks[sample.split]
                _add(task.images, f"{sample.name}{sample.image_suffix}", sample.image)
                # labelmap.txt has no line for ignored pixels.
                mask = np.where(sample.mask == IGNORE_LABEL, 0, sample.mask).astype(np.uint8)
                payload = encode_mask(mask, context.palette)
                _add(task.annotations, f"SegmentationClass/{sample.name}.png", payload)
                task.names.append(sample.name)
                yield identify(sample)
            for split, task in tasks.items():
                _add(task.annotations, "labelmap.txt", describe_labels(context, has_ignored=False))
                listed = "".join(f"{name}\n" for name in task.names)
                _add(task.annotations, f"ImageSets/Segmentation/{split}.txt", listed.encode())

    def finish(
        self, entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles, context: ExportContext
    ) -> None:
        """Write labels.json, which the raw editor of a project's labels takes, and the list of samples."""
        labels = [
            {"name": name, "color": "#{:02x}{:02x}{:02x}".format(*context.palette[value].tolist()), "attributes": []}
            for value, name in enumerate(context.class_names)
        ]
        files.put("labels.json", json.dumps(labels, indent=2).encode())
        write_sample_list(entries, files)


@dataclass(frozen=True, kw_only=True)
class _Task:
    images: zipfile.ZipFile
    annotations: zipfile.ZipFile
    names: list[str] = field(default_factory=list)


class _Sequential:
    """A file that only grows: zips of files that can be searched have other headers, and stores differ in that."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, payload: bytes) -> int:
        num_bytes: int = self._file.write(payload)
        return num_bytes

    def flush(self) -> None:
        self._file.flush()


def _open_zip(path: str, files: ExportFiles, stack: ExitStack) -> zipfile.ZipFile:
    file: Any = _Sequential(stack.enter_context(files.open(path)))
    return stack.enter_context(zipfile.ZipFile(file, "w"))


def _add(archive: zipfile.ZipFile, name: str, payload: bytes) -> None:
    # A member of this form has no time, so that the same samples give the same file. Images are compressed already.
    archive.writestr(zipfile.ZipInfo(name), payload, zipfile.ZIP_STORED)
