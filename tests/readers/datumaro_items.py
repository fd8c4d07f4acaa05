"""Print what datumaro reads of a data set: of each item its split, size and pixels by class name."""

import json
import sys
from typing import Any

import numpy as np
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from pycocotools import mask as rle


def main() -> None:
    """Read the arguments from standard input, print the items."""
    arguments = json.load(sys.stdin)
    dataset = Dataset.import_from(arguments["folder"], arguments["form"])
    labels = [label.name for label in dataset.categories()[AnnotationType.label]]
    sys.stdout.write(json.dumps({f"{item.subset}/{item.id}": describe(item, labels) for item in dataset}))


def describe(item: Any, labels: list[str]) -> dict[str, Any]:
    """Count the pixels of an item. Those of two polygons of a class that overlap count once."""
    height, width = item.media.size
    painted: dict[str, Any] = {}
    for annotation in item.annotations:
        if annotation.type == AnnotationType.mask:
            pixels = np.asarray(annotation.image).astype(bool)
        elif annotation.type == AnnotationType.polygon:
            pixels = rle.decode(rle.merge(rle.frPyObjects([annotation.points], height, width))).astype(bool)
        else:
            continue
        name = labels[annotation.label]
        painted[name] = painted.get(name, False) | pixels
    counts = {name: int(pixels.sum()) for name, pixels in painted.items()}
    return {"split": item.subset, "size": [height, width], "pixels": counts}


if __name__ == "__main__":
    main()
