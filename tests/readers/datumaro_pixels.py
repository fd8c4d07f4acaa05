"""Print what datumaro reads of a data set: of each item, by split and id, the pixels by class name."""

import json
import sys
from typing import Any

import numpy as np
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset


def main() -> None:
    """Read the arguments from standard input, print the counts."""
    arguments = json.load(sys.stdin)
    dataset = Dataset.import_from(arguments["folder"], arguments["form"])
    labels = [label.name for label in dataset.categories()[AnnotationType.label]]
    counts = {f"{item.subset}/{item.id}": count(item, labels) for item in dataset}
    sys.stdout.write(json.dumps(counts))


def count(item: Any, labels: list[str]) -> dict[str, int]:
    """Count the pixels of an item. Those of two masks of a class that overlap count once."""
    painted: dict[str, Any] = {}
    for annotation in item.annotations:
        if annotation.type == AnnotationType.mask:
            name = labels[annotation.label]
            painted[name] = painted.get(name, False) | np.asarray(annotation.image).astype(bool)
    return {name: int(pixels.sum()) for name, pixels in painted.items()}


if __name__ == "__main__":
    main()
