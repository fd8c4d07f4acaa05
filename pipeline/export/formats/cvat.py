"""CVAT: for each shard and split zips of images, which make a task each, and one of "segmentation mask 1.1" for it."""

import json
import zipfile
from collections import Counter
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
    """Options of format cvat. CVAT knows no ignored pixels: they become background."""

    max_images: int = 5000
    """Most images of a task, which is a zip of images and one of annotations. A task holds samples of one input
    shard."""

    def check(self, context: ExportContext) -> None:
        """Check the options, and that labelmap.txt can hold names and colours of the classes.

        Raises:
            ValueError: An option is out of range, or it cannot.
        """
        if self.max_images < 1:
            raise ValueError(f"need --cvat.max-images >= 1, got {self.max_images}")
        VocFormat().check(context)

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write the zips of each split that the shard has samples of; yield the identity of each sample."""
        # Decoders bring Arrow, for which the help of the command does not wait.
        from pipeline.images.masks import encode_mask

        with ExitStack() as stack:
            tasks: dict[str, _Task] = {}
            numbers: Counter[str] = Counter()
            for sample in samples:
                task = tasks.get(sample.split)
                if task is None:
                    folder = f"{sample.split}/{shard_number:06d}-{numbers[sample.split]:03d}"
                    numbers[sample.split] += 1
                    task = tasks[sample.split] = _open_task(folder, files, stack.enter_context(ExitStack()))
                _add(task.images, f"{sample.name}{sample.image_suffix}", sample.image)
                # labelmap.txt has no line for ignored pixels.
                mask = np.where(sample.mask == IGNORE_LABEL, 0, sample.mask).astype(np.uint8)
                payload = encode_mask(mask, context.palette)
                _add(task.annotations, f"SegmentationClass/{sample.name}.png", payload)
                task.names.append(sample.name)
                if len(task.names) == self.max_images:
                    tasks.pop(sample.split).finish(sample.split, context)
                yield identify(sample)
            for split, task in tasks.items():
                task.finish(split, context)

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
    opened: ExitStack
    """Ends both files."""
    names: list[str] = field(default_factory=list)

    def finish(self, split: str, context: ExportContext) -> None:
        """Write what follows the masks, and end both files."""
        _add(self.annotations, "labelmap.txt", describe_labels(context, has_ignored=False))
        listed = "".join(f"{name}\n" for name in self.names)
        _add(self.annotations, f"ImageSets/Segmentation/{split}.txt", listed.encode())
        self.opened.close()


class _Sequential:
    """A file that only grows: zips of files that can be searched have other headers, and stores differ in that."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, payload: bytes) -> int:
        num_bytes: int = self._file.write(payload)
        return num_bytes

    def flush(self) -> None:
        self._file.flush()


def _open_task(folder: str, files: ExportFiles, opened: ExitStack) -> _Task:
    return _Task(
        images=_open_zip(f"{folder}/images.zip", files, opened),
        annotations=_open_zip(f"{folder}/annotations.zip", files, opened),
        opened=opened,
    )


def _open_zip(path: str, files: ExportFiles, stack: ExitStack) -> zipfile.ZipFile:
    file: Any = _Sequential(stack.enter_context(files.open(path)))
    return stack.enter_context(zipfile.ZipFile(file, "w"))


def _add(archive: zipfile.ZipFile, name: str, payload: bytes) -> None:
    # A member of this form has no time, so that the same samples give the same file. Images are compressed already.
    archive.writestr(zipfile.ZipInfo(name), payload, zipfile.ZIP_STORED)
