"""Corrections from COCO: every listed image, by its file name; run lengths and polygons."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from pipeline.corrections.drawing import Correction, Region, draw_polygons, find_class, parse_name, require_size
from pipeline.errors import CorrectionError
from pipeline.run.vocabulary import Vocabulary


def read_coco(document: Mapping[str, Any], source: str, vocabulary: Vocabulary) -> Iterator[Correction]:
    """Read the corrections of a COCO file; an image without annotations is background.

    Raises:
        CorrectionError: The file is no COCO, or has labels or images that the run lacks.
    """
    try:
        names = {one["id"]: str(one["name"]) for one in document["categories"]}
        images = {one["id"]: one for one in document["images"]}
        if len(images) != len(document["images"]):
            raise ValueError("two images have one id")
        regions: dict[Any, list[Region]] = {image_id: [] for image_id in images}
        for one in document["annotations"]:
            image = images[one["image_id"]]
            size = require_size(int(image["height"]), int(image["width"]))
            class_id = find_class(vocabulary, names[one["category_id"]], source)
            regions[one["image_id"]].append(
                Region(class_id, lambda shape=one["segmentation"], size=size: _draw(shape, size))  # type: ignore[misc]
            )
        for image_id, image in images.items():
            title = str(image["file_name"])
            yield Correction(
                source=source,
                title=title,
                row=parse_name(title, source),
                size=require_size(int(image["height"]), int(image["width"])),
                regions=regions[image_id],
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorrectionError(f"'{source}' is no whole COCO file: {error!r}; export it from the tool again") from error


def _draw(segmentation: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    from pycocotools import mask as rle

    if isinstance(segmentation, list):
        if not segmentation:
            raise ValueError("an annotation without pixels: boxes alone are no masks")
        return draw_polygons([list(map(float, polygon)) for polygon in segmentation], size)
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if (height, width) != size:
        raise ValueError(f"run lengths of {width} x {height} pixels in an image of {size[1]} x {size[0]}")
    if isinstance(counts, list):
        if sum(counts) != height * width or min(counts) < 0:
            raise ValueError("run lengths that do not fill the image")
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    encoded = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    pixels: np.ndarray = rle.decode(encoded).astype(bool)
    return pixels
