"""Prints the pixels of each class of each sample as JSON. Runs in .venv/readers; arguments: folder, format."""

import json
import sys
from collections import Counter

from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset


def main() -> None:
    """Read a data set and print its counts."""
    dataset = Dataset.import_from(sys.argv[1], sys.argv[2])
    labels = dataset.categories()[AnnotationType.label]
    counts = {}
    for item in dataset:
        found = Counter()
        for annotation in item.annotations:
            if annotation.type == AnnotationType.mask:
                found[labels[annotation.label].name] += int(annotation.image.sum())
        counts[item.id] = dict(found)
    sys.stdout.write(f"{json.dumps(counts)}\n")


if __name__ == "__main__":
    main()
