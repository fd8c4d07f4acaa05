"""COCO: images, and annotations/instances_SPLIT.json with compressed RLE."""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from pipeline.export.sample_list import identify, write_sample_list
from pipeline.export.samples import ExportContext, ExportFiles, ExportSample
from pipeline.run.config import IGNORE_LABEL


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
        """Write the photo of each sample; yield its image entry and annotations without ids."""
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
            yield identify(sample) | {"image": image, "annotations": list(self._annotate(sample))}

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

    def _annotate(self, sample: ExportSample) -> Iterator[dict[str, Any]]:
        from pycocotools import mask as rle

        for value in np.unique(sample.mask).tolist():
            if value in (0, IGNORE_LABEL):
                continue
            for region in self._divide(sample.mask == value):
                encoded = rle.encode(np.asfortranarray(region, np.uint8))
                height, width = region.shape
                yield {
                    "image_id": sample.number,
                    "category_id": value,
                    "segmentation": {"size": [height, width], "counts": encoded["counts"].decode()},
                    "area": int(rle.area(encoded)),
                    "bbox": rle.toBbox(encoded).tolist(),
                    "iscrowd": 0,
                }

    def _divide(self, region: Bool[np.ndarray, "h w"]) -> Iterator[Bool[np.ndarray, "h w"]]:
        if self.objects == "classes":
            yield region
            return
        import cv2

        count, numbers = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
        for number in range(1, count):
            yield numbers == number


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
        # Ids count from 1: evaluators take 0 for none.
        listed = (one for entry in entries for one in entry["annotations"])
        items = ({"id": number, **one} for number, one in enumerate(listed, 1))
    for place, item in enumerate(items):
        write(f"{',' if place else ''}\n{json.dumps(item)}".encode())
    if part == "annotations":
        write(b"\n]}\n")
