"""Names and colours of mask values, as texts in the metadata of a manifest's schema."""

import json
from collections.abc import Sequence

from pipeline.images.masks import build_palette
from pipeline.run.vocabulary import BACKGROUND, Vocabulary

CLASSES_KEY = b"tagmask_classes"
"""Key of names and colours by mask value; 255 is ignored and not among them."""
HUGGINGFACE_KEY = b"huggingface"
"""Key of the features with which the library `datasets` reads columns."""
CLASS_ID_COLUMNS = ("class_ids", "suggested_class_ids", "doubtful_class_ids")


def name_mask_values(classes: Sequence[str]) -> tuple[str, ...]:
    """Name the values of masks from 0; distinct names, also if a class is called background.

    >>> name_mask_values(["cat"]), name_mask_values(["cat", "background"])
    (('background', 'cat'), ('background_', 'cat', 'background'))
    """
    background = BACKGROUND
    while background in classes:
        background += "_"
    return (background, *classes)


def describe_classes(vocabulary: Vocabulary) -> dict[bytes, bytes]:
    """Describe mask values for readers that know no run: JSON by key."""
    names = name_mask_values(vocabulary.classes)
    palette = build_palette(vocabulary.colours, vocabulary.classes)
    classes = {"names": names, "colours": palette[: len(names)].tolist()}
    of_classes = {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": names}}
    features = {"mask": {"_type": "Image"}} | dict.fromkeys(CLASS_ID_COLUMNS, of_classes)
    return {
        CLASSES_KEY: json.dumps(classes, sort_keys=True).encode(),
        HUGGINGFACE_KEY: json.dumps({"info": {"features": features}}, sort_keys=True).encode(),
    }
