"""The tags of a sample: from its `.json`, `.txt` or `.cls` member, or from its cell in a column."""

import json
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

MAX_CLASS_DIGITS = 9
"""Longer numbers are tags: no vocabulary has so many classes."""

MAX_TAGS_BYTES = 4 * 2**20
"""Larger members are not read: with all that crawlers write into them they take some kilobytes."""
MAX_TAGS = 10_000
"""More are no tags of one image. They would all be matched, and kept in its row."""
MAX_TAG_LETTERS = 2**18
"""Of all tags of a sample: a chunk holds those of hundreds of samples in memory."""
MAX_ERROR_LETTERS = 1000
"""Of what others say of an image that they could not load."""


class SampleTags(NamedTuple):
    """What the members or the cell of a sample say about its tags."""

    tags: tuple[str, ...] = ()
    class_numbers: tuple[int, ...] = ()
    error: str = ""


def read_tags(
    key: str, payloads: Mapping[str, bytes], tags_field: str, oversized: Mapping[str, int] = MappingProxyType({})
) -> SampleTags:
    """Read a sample's tags: `.json` before `.txt` before `.cls`.

    A `.json` without the field gives way to the others, as it often holds other things.

    Args:
        key: Key of the sample, for messages.
        payloads: Contents of the members that may hold tags, by suffix.
        tags_field: Field of the `.json` member.
        oversized: Bytes of the members that are too large to be read, by suffix.
    """
    missing = SampleTags()
    try:
        _require_small(key, "json", oversized)
    except ValueError as error:
        missing = SampleTags(error=_escape(str(error)))
    try:
        if "json" in payloads:
            fields = _parse_object(f"{key}.json", payloads["json"])
            if tags_field in fields:
                return _bound(tags=_clean(_list_tags(f"{key}.json", fields[tags_field], tags_field)))
            there = ", ".join(f"'{name}'" for name in list(fields)[:10]) or "none"
            missing = SampleTags(error=_escape(f"'{key}.json' has no field '{tags_field}'; its fields: {there}"))
        _require_small(key, "txt", oversized)
        if "txt" in payloads:
            return _bound(tags=_clean(_split(_decode(f"{key}.txt", payloads["txt"]))))
        _require_small(key, "cls", oversized)
        if "cls" in payloads:
            return _sort_classes(_clean(_split(_decode(f"{key}.cls", payloads["cls"]))))
    except ValueError as error:
        return SampleTags(error=_escape(str(error)))
    return missing


def read_tag_cell(column: str, cell: pa.Scalar) -> SampleTags:
    """Read a sample's tags from a cell of a table: text, a list of text, or one or several zero-based class numbers.

    Args:
        column: Name of the column, for messages.
        cell: Null for no tags.
    """
    if excess := _find_excess(cell):
        return SampleTags(error=f"column '{column}' {excess}")
    try:
        value = cell.as_py()
    except UnicodeDecodeError as error:
        return SampleTags(error=f"column '{column}' is not UTF-8: {error.reason} at byte {error.start}")
    if value is None:
        return SampleTags()
    if isinstance(value, str):
        return _bound(tags=_clean(_split(value)))
    entries = value if isinstance(value, list) else [value]
    if None in entries:
        return SampleTags(error=f"column '{column}' holds a list with a null, need text or numbers")
    if all(isinstance(entry, str) for entry in entries):
        return _bound(tags=_clean(entries))
    return _sort_classes(map(str, entries))


def _find_excess(cell: pa.Scalar) -> str:
    """Say what is too large in a cell, before Python's objects are made of it; empty if nothing is."""
    if not cell.is_valid:
        return ""
    if isinstance(cell, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        if len(cell) > MAX_TAGS:
            return f"holds {len(cell)} tags, limit {MAX_TAGS}"
        entries = [entry for entry in cell if entry.is_valid]
    else:
        entries = [cell]
    num_bytes = sum(map(_count_bytes, entries))
    return f"holds tags of {num_bytes} bytes, limit {MAX_TAGS_BYTES}" if num_bytes > MAX_TAGS_BYTES else ""


def _count_bytes(entry: pa.Scalar) -> int:
    text = entry.value if isinstance(entry, pa.DictionaryScalar) else entry
    is_text = isinstance(text, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar)
    buffer = text.as_buffer() if is_text and text.is_valid else None
    return 0 if buffer is None else buffer.size


def find_download_error(fields: Mapping[str, Any]) -> str:
    """Give what img2dataset says of an image that it could not load; empty when it says no such thing."""
    status = fields.get("status")
    if not isinstance(status, str) or status == "success":
        return ""
    return _escape(f"{status}: {fields.get('error_message') or 'no reason given'}"[:MAX_ERROR_LETTERS])


def find_json_download_error(payload: bytes | None) -> str:
    """Give what a sample's `.json` member says of an image that could not be loaded; empty when it says nothing."""
    try:
        return find_download_error(_parse_object("", payload)) if payload else ""
    except ValueError:
        return ""


def _require_small(key: str, suffix: str, oversized: Mapping[str, int]) -> None:
    if suffix in oversized:
        raise ValueError(f"'{key}.{suffix}' has {oversized[suffix]} bytes, limit {MAX_TAGS_BYTES}")


def _parse_object(member: str, payload: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{member}' is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"'{member}' holds a {type(fields).__name__}, need an object with fields")
    return fields


def _list_tags(member: str, tags: Any, tags_field: str) -> list[str]:
    if isinstance(tags, str):
        return _split(tags)
    if not isinstance(tags, list):
        raise ValueError(f"'{member}': field '{tags_field}' is {type(tags).__name__}, need a list or text")
    for tag in tags:
        if isinstance(tag, bool) or not isinstance(tag, str | int | float):
            raise ValueError(f"'{member}': field '{tags_field}' holds a {type(tag).__name__}, need text or numbers")
    return [str(tag) for tag in tags]


def _sort_classes(names: Iterable[str]) -> SampleTags:
    """Part entries into names and zero-based class numbers; what can be no class number is a name."""
    names = list(names)
    numbers = [name for name in names if name.isascii() and name.isdecimal() and len(name) <= MAX_CLASS_DIGITS]
    found = frozenset(numbers)
    return _bound(
        tags=tuple(name for name in names if name not in found), class_numbers=tuple(int(name) for name in numbers)
    )


def _bound(tags: tuple[str, ...], class_numbers: tuple[int, ...] = ()) -> SampleTags:
    """Give the tags, or an error when they are too many or too long."""
    num_tags, num_letters = len(tags) + len(class_numbers), sum(map(len, tags))
    if num_tags > MAX_TAGS:
        return SampleTags(error=f"there are {num_tags} tags, limit {MAX_TAGS}")
    if num_letters > MAX_TAG_LETTERS:
        return SampleTags(error=f"the tags have {num_letters} letters, limit {MAX_TAG_LETTERS}")
    return SampleTags(tags=tags, class_numbers=class_numbers)


def _decode(member: str, payload: bytes) -> str:
    try:
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{member}' is not UTF-8: {error.reason} at byte {error.start}") from error


def _split(text: str) -> list[str]:
    return re.split(r"[,;\r\n]", text)


def _clean(tags: Iterable[str]) -> tuple[str, ...]:
    """Trim tags and drop empty ones."""
    return tuple(_escape(tag.strip()) for tag in tags if tag.strip())


def _escape(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can hold and Arrow cannot."""
    return text.encode("utf-8", "replace").decode()
