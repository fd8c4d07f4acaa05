"""Format of a manifest: its name, its columns and their types, and its metadata.

Each file repeats its schema for different readers: in Parquet's format, in Arrow's, and as text in both.
"""

import base64
import binascii
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audit.parquet.layout import Layout, read_layout
from pipeline.errors import ManifestError
from pipeline.run.records import MANIFEST_SCHEMA
from pipeline.storage.uris import join_uri

MANIFESTS_FOLDER, PARTS_FOLDER = "labels", "parts"
_PART_NAME = re.compile(r"(\d+)-(\d+)\.parquet")
FOOTER_KEY = b"tagmask"
ARROW_KEY = b"ARROW:schema"
CREATED_BY = re.compile(rb"parquet-cpp-arrow version \d+\.\d+\.\d+(-SNAPSHOT)?")
"""The version number is not checked: no known reader depends on it."""

FOOTER_FIELDS = ("fingerprint", "shard", "truncated_at", "counts", "chunks", "library_version")
OPTIONAL_FOOTER_FIELDS = ("retries", "rows_sha256")

CLASSES_KEY, FEATURES_KEY = b"tagmask_classes", b"huggingface"
"""Texts about the classes of masks, from format version 5 on."""
CLASS_ID_COLUMNS = ("class_ids", "suggested_class_ids", "doubtful_class_ids")
NEW_COLUMNS = ("shard", "image_offset", "image_bytes", "image_uri")
"""Columns that format version 5 added."""


@dataclass(frozen=True, kw_only=True)
class ManifestFormat:
    """Columns and texts of the manifests of one run."""

    is_old: bool
    """True up to format version 4: without `NEW_COLUMNS`, class ids of 16 bits, no text but the footer."""
    class_texts: tuple[tuple[bytes, bytes], ...] = ()
    """Keys and texts in their order."""

    @property
    def schema(self) -> pa.Schema:
        """Columns, without texts."""
        if not self.is_old:
            return MANIFEST_SCHEMA
        old_ids = pa.list_(pa.int16())
        kept = [field for field in MANIFEST_SCHEMA if field.name not in NEW_COLUMNS]
        return pa.schema([field.with_type(old_ids) if field.name in CLASS_ID_COLUMNS else field for field in kept])


def make_format(class_names: Sequence[str], palette: bytes, *, is_old: bool) -> ManifestFormat:
    """Make the format of a run from the names of its classes and the colours of its masks."""
    if is_old:
        return ManifestFormat(is_old=True)
    first = "background"
    while first in class_names:
        first = f"{first}_"
    names = [first, *class_names]
    colours = [list(palette[3 * index : 3 * index + 3]) for index in range(len(names))]
    ids = {"_type": "Sequence", "feature": {"_type": "ClassLabel", "names": names}}
    features = {"mask": {"_type": "Image"}, **dict.fromkeys(CLASS_ID_COLUMNS, ids)}
    texts = ((CLASSES_KEY, {"names": names, "colours": colours}), (FEATURES_KEY, {"info": {"features": features}}))
    return ManifestFormat(
        is_old=False, class_texts=tuple((key, json.dumps(text, sort_keys=True).encode()) for key, text in texts)
    )


def locate_manifest(out_uri: str, shard_name: str) -> str:
    """URI of the manifest of a shard."""
    return join_uri(out_uri, MANIFESTS_FOLDER, f"{shard_name}.parquet")


def parse_chunk_index(file_name: str) -> int | None:
    """Index of the chunk of a part; None if this is not the name of a part.

    >>> parse_chunk_index("000003-00000000001024.parquet"), parse_chunk_index("notes.txt")
    (3, None)
    """
    match = _PART_NAME.fullmatch(file_name)
    return int(match[1]) if match else None


def parse_footer(layout: Layout, uri: str) -> dict[str, Any]:
    """Footer of a manifest.

    Raises:
        ManifestError: There is no footer, or it is not the JSON of a footer.
    """
    try:
        text = layout.metadata[FOOTER_KEY]
        footer = json.loads(text, object_pairs_hook=refuse_repeated)
        if not isinstance(footer, dict):
            raise ValueError(f"its footer is {footer!r}")
    except (KeyError, ValueError, RecursionError) as error:
        raise ManifestError(f"'{uri}' is no manifest of this project: {error!r}; label the shard again") from error
    return footer


def refuse_repeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Mapping of a JSON object with distinct keys; readers differ in which of two equal keys they take.

    Raises:
        ValueError: Two keys are equal.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"it repeats one of the keys {sorted(found)[:10]}")
    return found


def require_format(layout: Layout, uri: str, wanted: ManifestFormat) -> None:
    """Check columns, types and metadata.

    Raises:
        ManifestError: Some of it differs from what our writer writes.
    """
    for fault in _find_format_faults(layout, wanted):
        raise ManifestError(f"'{uri}' {fault}; label the shard again")


def _find_format_faults(layout: Layout, manifest_format: ManifestFormat) -> Iterator[str]:
    footer = layout.footer
    wanted = _expect_schema(manifest_format)
    if missing := sorted(set(manifest_format.schema.names) - set(_list_names(footer["schema"]))):
        yield f"lacks the columns {missing}"
    for element, expected in zip(footer["schema"], wanted, strict=False):
        if element != expected:
            name = expected["name"].decode()
            yield f"has another column than '{name}' where that should be, or another type: {element}"
    if len(footer["schema"]) != len(wanted):
        yield f"has {len(footer['schema'])} elements in its schema instead of {len(wanted)}"
    paths = [[part.encode() for part in path] for path in _list_paths(manifest_format)]
    for index, group in enumerate(layout.groups):
        if [chunk["meta_data"]["path_in_schema"] for chunk in group["columns"]] != paths:
            yield f"names its columns in row group {index} otherwise than in its schema"
    if not CREATED_BY.fullmatch(footer.get("created_by", b"")):
        yield f"was written by {footer.get('created_by', b'')!r}"
    keys = [entry["key"] for entry in footer.get("key_value_metadata", [])]
    needed = [FOOTER_KEY, *(key for key, _ in manifest_format.class_texts), ARROW_KEY]
    if keys != needed:
        yield f"carries the texts {keys} instead of {needed}"
        return
    for key, text in manifest_format.class_texts:
        if layout.metadata[key] != text:
            yield f"carries another text '{key.decode()}' than that of its vocabulary"
            return
    yield from _check_arrow_schema(layout.metadata, manifest_format)


def _list_names(elements: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Names of the columns. The schema is a tree, written depth first, so children follow their column."""
    num_within = 0
    for element in elements[1:]:
        if num_within == 0:
            yield element["name"].decode(errors="backslashreplace")
        num_within = max(num_within - 1, 0) + max(element.get("num_children", 0), 0)


def _check_arrow_schema(metadata: Mapping[bytes, bytes], manifest_format: ManifestFormat) -> Iterator[str]:
    """Check the schema of Arrow, with the texts that it repeats."""
    texts = {FOOTER_KEY: metadata[FOOTER_KEY], **dict(manifest_format.class_texts)}
    wanted = manifest_format.schema.with_metadata(texts)
    # Readers differ in their checks of this text, so its bytes are compared.
    if metadata[ARROW_KEY] == base64.b64encode(wanted.serialize().to_pybytes()):
        return
    try:
        found = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(metadata[ARROW_KEY], validate=True)))
        differs = not found.equals(wanted, check_metadata=True)
    except (binascii.Error, pa.ArrowException, OSError, ValueError) as error:
        yield f"has an Arrow schema that cannot be read: {error}"
        return
    yield "has an Arrow schema that " + (
        "is not that of a manifest with its text" if differs else "is written otherwise"
    )


@lru_cache(maxsize=2)
def _expect_schema(manifest_format: ManifestFormat) -> Sequence[Mapping[str, Any]]:
    """Schema of a manifest without rows, as Arrow writes it."""
    sink = io.BytesIO()
    pq.write_table(manifest_format.schema.empty_table(), sink)
    return read_layout(sink, "an empty manifest").footer["schema"]


@lru_cache(maxsize=2)
def _list_paths(manifest_format: ManifestFormat) -> tuple[tuple[str, ...], ...]:
    return tuple(path for field in manifest_format.schema for path in _list_paths_of(field, (field.name,)))


def _list_paths_of(field: pa.Field, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if pa.types.is_list(field.type):
        yield from _list_paths_of(field.type.value_field, (*path, "list", "element"))
    elif pa.types.is_struct(field.type):
        for child in field.type:
            yield from _list_paths_of(child, (*path, child.name))
    else:
        yield path
