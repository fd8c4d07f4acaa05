"""Columns that can hold tags: their types, and the classes that the metadata of Hugging Face name."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.inputs.tag_values.forms import (
    CLASS_NUMBERS_ADVICE,
    MIN_SCORE_ADVICE,
    MULTI_HOT_ADVICE,
    NAME_KEYS,
    SCORE_KEYS,
    VECTOR_ADVICE,
)
from pipeline.run.config import InputConfig

METADATA_KEY = b"huggingface"
MAX_DEPTH = 8
"""Depth to which features are searched for a ClassLabel."""

TAGS_NEED = "text, numbers or lists of them, scores by name, or records with a name"


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text; so does one of nulls only."""
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)


def holds_keys(kind: pa.DataType) -> bool:
    """Whether a column holds keys: text or whole numbers, of which each has one spelling."""
    kind = _strip_dictionary(kind)
    is_whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0)
    return is_text(kind) or is_whole


def holds_tags(kind: pa.DataType) -> bool:
    """Whether values of a type can be read as tags, with the options that they need."""
    inner = _get_entry_type(kind)
    if inner is not None:
        return _is_single(inner) or pa.types.is_boolean(inner) or _is_record(inner)
    return _is_single(kind) or _is_record(kind) or _holds_scores(kind)


def find_needed_option(kind: pa.DataType, config: InputConfig, labels: tuple[str, ...] | None) -> str:
    """Find why no value of a type can be read with this configuration, and the option that helps; empty if it can."""
    inner = _get_entry_type(kind)
    single = _strip_dictionary(inner or kind)
    if inner is not None and pa.types.is_boolean(single):
        return "" if config.multi_hot else f"lists of true and false; {MULTI_HOT_ADVICE}"
    if _is_number(single):
        if config.class_numbers is not None or labels is not None:
            return ""
        if inner is None:
            return f"numbers; {CLASS_NUMBERS_ADVICE}"
        return f"lists of numbers; {CLASS_NUMBERS_ADVICE}; {VECTOR_ADVICE}"
    if config.min_score is not None:
        return ""
    if inner is None and _holds_scores(kind) and not _is_record(kind):
        is_flags = pa.types.is_struct(kind) and any(pa.types.is_boolean(item.type) for item in kind)
        is_flags = is_flags or (pa.types.is_map(kind) and pa.types.is_boolean(kind.item_type))
        return "" if is_flags else f"scores by name; {MIN_SCORE_ADVICE}"
    if pa.types.is_struct(single) and any(item.name.casefold() in SCORE_KEYS for item in single):
        return f"records with scores; {MIN_SCORE_ADVICE}"
    return ""


def find_labels(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Names of the class numbers of a column by Hugging Face's metadata; None if they name none."""
    features = _read_features(schema)
    found = list(_list_class_labels(features.get(column), ()))
    # Of records, the one that is read as their name.
    found.sort(key=lambda pair: NAME_KEYS.index(pair[0]) if pair[0] in NAME_KEYS else len(NAME_KEYS))
    return found[0][1] if found else None


def list_label_columns(schema: pa.Schema) -> list[str]:
    """Columns of class numbers or lists of them that Hugging Face's metadata name."""
    return [
        name
        for name in _read_features(schema)
        if schema.names.count(name) == 1
        and find_labels(schema, name) is not None
        and _is_number(_strip_dictionary(_get_entry_type(schema.field(name).type) or schema.field(name).type))
    ]


def _read_features(schema: pa.Schema) -> Mapping[str, Any]:
    """Features by column, as the library datasets writes them into the footer; empty if there are none."""
    try:
        described = json.loads((schema.metadata or {}).get(METADATA_KEY, b"null"))
        features = described["info"]["features"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _list_class_labels(feature: Any, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """List the ClassLabels within a feature: the key that they are under, and their names.

    Versions of datasets write a list as `{"_type": "List", "feature": ..}`, as `Sequence`, or as a JSON list.
    """
    if len(path) > MAX_DEPTH:
        return
    if isinstance(feature, list):
        for inner in feature:
            yield from _list_class_labels(inner, (*path, ""))
    elif isinstance(feature, dict):
        names = feature.get("names")
        if feature.get("_type") == "ClassLabel":
            if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
                key = next((part for part in reversed(path) if part not in ("", "feature")), "")
                yield key.casefold(), tuple(names)
            return
        for key, inner in feature.items():
            yield from _list_class_labels(inner, (*path, key))


def _get_entry_type(kind: pa.DataType) -> pa.DataType | None:
    """Type of the entries of lists; None for other types."""
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    is_view = types.is_list_view(kind) or types.is_large_list_view(kind)
    return _strip_dictionary(kind.value_type) if is_list or is_view else None


def _strip_dictionary(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_single(kind: pa.DataType) -> bool:
    return is_text(kind) or _is_number(_strip_dictionary(kind))


def _is_record(kind: pa.DataType) -> bool:
    """Whether a type is a record with a name, or with a list of names."""
    if not pa.types.is_struct(kind):
        return False
    names = [item for item in kind if item.name.casefold() in NAME_KEYS]
    return any(_is_single(_get_entry_type(item.type) or item.type) for item in names)


def _holds_scores(kind: pa.DataType) -> bool:
    """Whether a type maps names to scores, or to true and false."""

    def is_score(inner: pa.DataType) -> bool:
        return _is_number(inner) or pa.types.is_boolean(inner) or pa.types.is_null(inner)

    if pa.types.is_map(kind):
        return is_text(kind.key_type) and is_score(kind.item_type)
    return pa.types.is_struct(kind) and kind.num_fields > 0 and all(is_score(item.type) for item in kind)
