"""COCO: images, and annotations/instances_SPLIT.json with compressed RLE."""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from pipeline.errors import ManifestError
from pipeline.export.sample_list import identify, write_sample_list
from pipeline.export.samples import ExportContext, ExportFiles, ExportSample
from pipeline.run.config import IGNORE_LABEL

MAX_INSTANCES = 2**14
"""Annotations of an image."""
MAX_SHARD_ROWS = 2**22
MAX_ID = 2**53
"""Readers in JavaScript and those that take JSON numbers as doubles hold whole numbers below it."""


@dataclass(frozen=True, kw_only=True)
class CocoFormat:
    """Options of format coco. Annotations hold no ignored pixels: these become background."""

    objects: Literal["classes", "components"] = "classes"
    """What gets an annotation: each class of an image, or each connected component, which touches by sides or
    corners."""

    def check(self, context: ExportContext) -> None:
        """Check that the packages are there.

        Raises:
            ValueError: They are not.
        """
        if any(importlib.util.find_spec(package) is None for package in ("cv2", "pycocotools")):
            raise ValueError("format coco needs pycocotools and OpenCV; install them by: pip install 'tagmask[export]'")

    def write_shard(
        self, shard_number: int, samples: Iterable[ExportSample], files: ExportFiles, context: ExportContext
    ) -> Iterator[Mapping[str, Any]]:
        """Write the photo of each sample; yield its image entry and annotations.

        Raises:
            ManifestError: An image has more annotations than there are ids for.
        """
        for sample in samples:
            files.put(f"images/{sample.split}/{sample.name}{sample.image_suffix}", sample.image)
            height, width = sample.mask.shape
            image = {
                "id": sample.number,
                "file_name": f"{sample.name}{sample.image_suffix}",
                "width": width,
                "height": height,
                "quality": sample.quality,
            }
            yield identify(sample) | {"image": image, "annotations": list(self._annotate(shard_number, sample))}

    def finish(
        self, entries: Callable[[], Iterator[Mapping[str, Any]]], files: ExportFiles, context: ExportContext
    ) -> None:
        """Write the annotations of each split, and the list of samples."""
        for split in context.splits:
            with files.open(f"annotations/instances_{split}.json") as file:
                _write_split(file.write, (entry for entry in entries() if entry["split"] == split), "images", context)
                of_split = (entry for entry in entries() if entry["split"] == split)
                _write_split(file.write, of_split, "annotations", context)
        write_sample_list(entries, files)

    def _annotate(self, shard_number: int, sample: ExportSample) -> Iterator[dict[str, Any]]:
        from pycocotools import mask as rle

        place = 0
        for value in np.unique(sample.mask).tolist():
            if value in (0, IGNORE_LABEL):
                continue
            for region in self._divide(sample.mask == value):
                encoded = rle.encode(np.asfortranarray(region, np.uint8))
                height, width = region.shape
                yield {
                    "id": make_annotation_id(shard_number, sample, place),
                    "image_id": sample.number,
                    "category_id": value,
                    "segmentation": {"size": [height, width], "counts": encoded["counts"].decode()},
                    "area": int(rle.area(encoded)),
                    "bbox": rle.toBbox(encoded).tolist(),
                    "iscrowd": 0,
                }
                place += 1

    def _divide(self, region: Bool[np.ndarray, "h w"]) -> Iterator[Bool[np.ndarray, "h w"]]:
        if self.objects == "classes":
            yield region
            return
        import cv2

        count, numbers = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
        for number in range(1, count):
            yield numbers == number


def make_annotation_id(shard_number: int, sample: ExportSample, place: int) -> int:
    """Id of an annotation: the same in every export of a run, whatever its filters and splits.

    Args:
        shard_number: Place of the shard in the run, from 0.
        sample: Whose annotation it is.
        place: Of the annotation among those of the sample, from 0.

    Raises:
        ManifestError: There is no such id below `MAX_ID`.
    """
    # Ids count from 1: evaluators take 0 for none.
    number = (shard_number * MAX_SHARD_ROWS + sample.index) * MAX_INSTANCES + place + 1
    if place >= MAX_INSTANCES:
        raise ManifestError(
            f"row '{sample.key}' of shard '{sample.shard_name}' has more than {MAX_INSTANCES} annotations; leave out "
            "--coco.objects components, or the row by --keys"
        )
    if sample.index >= MAX_SHARD_ROWS or number >= MAX_ID:
        raise ManifestError(
            f"row {sample.index} of shard '{sample.shard_name}', number {shard_number} of the run, has no id in COCO: "
            f"a run has at most {MAX_ID // MAX_SHARD_ROWS // MAX_INSTANCES} shards of {MAX_SHARD_ROWS} rows there; "
            "export it in another format"
        )
    return number


def _write_split(
    write: Callable[[bytes], object],
    entries: Iterator[Mapping[str, Any]],
    part: Literal["images", "annotations"],
    context: ExportContext,
) -> None:
    """Write one of the two long lists of a file; the first brings what stands before, the second the end."""
    if part == "images":
        categories = [
            {"id": value, "name": name, "supercategory": ""} for value, name in enumerate(context.class_names) if value
        ]
        info = {"description": "tagmask export", "version": context.fingerprint}
        head = json.dumps({"info": info, "licenses": [], "categories": categories})
        write(f'{head[:-1]}, "images": ['.encode())
        items = (entry["image"] for entry in entries)
    else:
        write(b'\n], "annotations": [')
        items = (one for entry in entries for one in entry["annotations"])
    for place, item in enumerate(items):
        write(f"{',' if place else ''}\n{json.dumps(item)}".encode())
    if part == "annotations":
        write(b"\n]}\n")
