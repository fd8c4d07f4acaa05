"""COCO files: the category names of an image's annotations are its tags."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.collections.rows import Findings, NamedImage
from pipeline.collections.tables import read_records
from pipeline.errors import ShardError
from pipeline.inputs.allowed_places import is_web_uri
from pipeline.inputs.patterns.file_kinds import HEAD_BYTES
from pipeline.inputs.tables.kinds import GZIP_SUFFIX
from pipeline.inputs.tables.text import find_encoding, require_table_text
from pipeline.run.config import InputConfig
from pipeline.storage.listing import exists
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri

PARTS = ("images", "annotations", "categories")
KEPT = frozenset({"image_id", "category_id"})
"""Fields of an annotation that are kept while a file is parsed: outlines take most of its memory."""


def read_document(uri: str) -> Any:
    """Parse a JSON file; annotations lose their outlines.

    Raises:
        ShardError: It is not JSON.
    """
    if uri.lower().endswith(GZIP_SUFFIX):
        raise ShardError(f"'{uri}' is compressed; decompress it, or write its records as JSON lines (*.jsonl.gz)")
    try:
        payload = read_bytes(uri)
        require_table_text(uri, payload[:HEAD_BYTES])
        return json.loads(payload.decode(find_encoding(payload[:HEAD_BYTES])), object_hook=_shorten)
    except FileNotFoundError as error:
        raise ShardError(f"'{uri}' does not exist; check the path") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            raise ShardError(
                f"'{uri}' holds more than one JSON document; if each of its lines is one, name it *.jsonl"
            ) from error
        raise ShardError(f"'{uri}' is not JSON: {error}; correct it, or name JSON lines *.jsonl") from error


def _shorten(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in KEPT} if fields.keys() >= KEPT else fields


def is_coco(document: Any) -> bool:
    """Check whether a JSON document is a COCO file."""
    return isinstance(document, dict) and isinstance(document.get("images"), list)


def read_coco(uri: str, document: Mapping[str, Any], config: InputConfig, findings: Findings) -> Iterator[NamedImage]:
    """Read the images of a COCO file, in order, with the names of their categories in order of their annotations.

    Raises:
        ShardError: A part of the file is missing, or an annotation names an unknown category.
    """
    if missing := [part for part in PARTS if not isinstance(document.get(part), list)]:
        raise ShardError(f"'{uri}' has images, but no list of {' and '.join(missing)}; name a COCO file of instances")
    try:
        names = _index_by_id(uri, "category", ((item["id"], str(item["name"])) for item in document["categories"]))
        _index_by_id(uri, "image", ((item["id"], item.get("file_name")) for item in document["images"]))
        found = _list_tags(document["annotations"], names, uri)
        identifiers = [image["id"] for image in document["images"]]
        unlisted = found.keys() - set(identifiers)
    except (AttributeError, KeyError, TypeError) as error:
        raise ShardError(
            f"'{uri}' is no COCO file of instances: {type(error).__name__} {error} in its images, annotations or "
            "categories; name one whose annotations have image_id and category_id"
        ) from error
    for identifier in unlisted:
        findings.passed_over.add("annotations of images that are not listed", f"image_id {identifier}")
    for number, (image, identifier) in enumerate(zip(document["images"], identifiers, strict=True)):
        path = image.get(config.image_column or "file_name")
        key = image.get(config.key_column) if config.key_column else None
        if path is not None and not isinstance(path, str):
            raise ShardError(f"'{uri}', image {number}: its path is a {type(path).__name__}, need text")
        tags = list(found[identifier]) if identifier in found else []
        yield NamedImage(f"{uri}, image {number}", path, None if key is None else str(key), tags)


def _index_by_id(uri: str, what: str, pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Names by number.

    Raises:
        ShardError: A number stands for two names, so that its annotations may mean either.
    """
    names: dict[Any, Any] = {}
    for number, name in pairs:
        if names.setdefault(number, name) != name:
            raise ShardError(
                f"'{uri}': {what} id {number} stands for '{names[number]}' and for '{name}'; give each its own"
            )
    return names


def _list_tags(annotations: list[Any], names: Mapping[Any, str], uri: str) -> dict[Any, dict[str, None]]:
    found: dict[Any, dict[str, None]] = defaultdict(dict)
    for annotation in annotations:
        segments = annotation.get("segments_info", [annotation])
        for segment in segments:
            number = segment["category_id"]
            if number not in names:
                raise ShardError(f"'{uri}': an annotation has category_id {number}, which its categories do not have")
            found[annotation["image_id"]][names[number]] = None
    return found


def read_json_records(uri: str, document: Any, config: InputConfig) -> Iterator[NamedImage]:
    """Read the records of a JSON file that is one list of objects.

    Raises:
        ShardError: It is something else.
    """
    if not isinstance(document, list) or not all(isinstance(record, dict) for record in document):
        raise ShardError(
            f"'{uri}' is neither a COCO file nor a list of records with fields; write its records as JSON lines in a "
            "*.jsonl file, in pandas by to_json(orient='records', lines=True)"
        )
    return read_records(uri, ((f"record {number}", record) for number, record in enumerate(document)), config)


def find_root(uri: str, document: Mapping[str, Any], findings: Findings) -> str:
    """Folder of the images of a COCO file: beside it, or where COCO's own layout has them if that is clear.

    Raises:
        ShardError: Several folders have the first image.
    """
    folder = uri.rpartition("/")[0]
    paths = [image.get("file_name") for image in document["images"][:1] if isinstance(image, dict)]
    if is_web_uri(uri) or not paths or not isinstance(paths[0], str) or paths[0].startswith("/") or "://" in paths[0]:
        return folder
    parent = folder.rpartition("/")[0]
    split = uri.rpartition("/")[2].rpartition(".")[0].rpartition("_")[2]
    tails = [(), ("images",), (split,), ("images", split)] if split else [(), ("images",)]
    places = [join_uri(base, *tail) if tail else base for base in (folder, parent) for tail in tails if base]
    found = [place for place in dict.fromkeys(places) if exists(join_uri(place, paths[0]))]
    if len(found) > 1:
        raise ShardError(
            f"'{uri}': image '{paths[0]}' is in '{found[0]}' and in '{found[1]}'; name one by --inputs.image-root"
        )
    if found and found[0] != folder:
        findings.notes.append(f"the images of '{uri}' are in '{found[0]}'")
    return found[0] if found else folder
