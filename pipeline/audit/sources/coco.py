"""Images of a COCO file as an audit reads them, with the names of their categories."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.audit.sources.tables import Entry, TableOptions, find_encoding, read_records
from pipeline.storage.reading import read_bytes

LARGE_FIELDS = ("segmentation", "bbox", "keypoints", "counts")
"""Fields that are dropped while a file is parsed: they take most of its memory."""


class JsonTable:
    """A JSON file: COCO's, or a list of records."""

    def __init__(self, uri: str) -> None:
        """Read it.

        Raises:
            ValueError: It is not JSON.
            OSError: The store failed.
        """
        self._uri = uri
        payload = read_bytes(uri)
        self._document = json.loads(payload.decode(find_encoding(payload)), object_hook=_drop_large)

    @property
    def is_coco(self) -> bool:
        """True if it is a COCO file."""
        return isinstance(self._document, dict)

    def read_entries(self, options: TableOptions) -> Iterator[Entry]:
        """Read the images or records in order.

        Raises:
            LookupError, TypeError, ValueError: It is another file.
        """
        if not self.is_coco:
            yield from read_records(self._uri, self._document, options)
            return
        names = self._name_categories()
        for number, image in enumerate(self._document["images"]):
            key = image.get(options.key_column) if options.key_column else None
            yield Entry(
                f"'{self._uri}', image {number}",
                image.get(options.image_column or "file_name"),
                None if key is None else str(key),
                names.get(image["id"], []),
                is_text=False,
            )

    def list_strangers(self) -> list[Any]:
        """Numbers of images that have annotations and are not listed."""
        if not self.is_coco:
            return []
        listed = {image["id"] for image in self._document["images"]}
        return [number for number in self._name_categories() if number not in listed]

    def _name_categories(self) -> dict[Any, list[str]]:
        """Names of the categories of each annotated image, each once."""
        names = {category["id"]: str(category["name"]) for category in self._document["categories"]}
        found: dict[Any, list[str]] = {}
        for annotation in self._document["annotations"]:
            of_image = found.setdefault(annotation["image_id"], [])
            for segment in annotation.get("segments_info") or [annotation]:
                if (name := names[segment["category_id"]]) not in of_image:
                    of_image.append(name)
        return found


def _drop_large(fields: dict[str, Any]) -> Mapping[str, Any]:
    for name in LARGE_FIELDS:
        fields.pop(name, None)
    return fields
