"""Tags of a sample: from its `.json`, `.txt` or `.cls` member, or from its cell in a column."""

import json
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

MAX_CLASS_DIGITS = 9
"""Maximum digits of a class number; longer numbers are tags."""

MAX_TAGS_BYTES = 4 * 2**20
"""Maximum size of a member or cell that is read; those of crawlers take some kilobytes."""
MAX_TAGS = 10_000
"""Maximum number of tags of a sample: all are matched and kept in its row."""
MAX_TAG_LETTERS = 2**18
"""Maximum total letters of a sample's tags: a chunk keeps the tags of hundreds of samples in memory."""
MAX_ERROR_LETTERS = 1000
"""Maximum letters of a downloader's error text."""


class SampleTags(NamedTuple):
    """Tags and class numbers of a sample, or why they could not be read."""

    tags: tuple[str, ...] = ()
    class_numbers: tuple[int, ...] = ()
    error: str = ""


def read_tags(
    key: str, payloads: Mapping[str, bytes], tags_field: str, oversized: Mapping[str, int] = MappingProxyType({})
) -> SampleTags:
    """Read a sample's tags: `.json` before `.txt` before `.cls`.

    A `.json` without the field is skipped, as it often contains other metadata.

    Args:
        key: Key of the sample, for messages.
        payloads: Contents of the members that may hold tags, by suffix.
        tags_field: Field of the `.json` member.
        oversized: Sizes of the members above the limit, in bytes, by suffix.
    """
    missing = SampleTags()
    try:
        _require_small_member(key, "json", oversized)
    except ValueError as error:
        missing = SampleTags(error=_replace_surrogates(str(error)))
    try:
        if "json" in payloads:
            fields = _parse_json_object(f"{key}.json", payloads["json"])
            if tags_field in fields:
                return _limit_tags(tags=_trim_tags(_list_tags(f"{key}.json", fields[tags_field], tags_field)))
            there = ", ".join(f"'{name}'" for name in list(fields)[:10]) or "none"
            missing = SampleTags(
                error=_replace_surrogates(f"'{key}.json' has no field '{tags_field}'; its fields: {there}")
            )
        _require_small_member(key, "txt", oversized)
        if "txt" in payloads:
            return _limit_tags(tags=_trim_tags(_split_tags(_decode_text(f"{key}.txt", payloads["txt"]))))
        _require_small_member(key, "cls", oversized)
        if "cls" in payloads:
            return _sort_classes(_trim_tags(_split_tags(_decode_text(f"{key}.cls", payloads["cls"]))))
    except ValueError as error:
        return SampleTags(error=_replace_surrogates(str(error)))
    return missing


def read_tag_cell(column: str, cell: pa.Scalar) -> SampleTags:
    """Read a sample's tags from a cell of a table: text, a list of text, or one or several zero-based class numbers.

    Args:
        column: Name of the column, for messages.
        cell: Null for no tags.
    """
    if excess := _describe_excess(cell):
        return SampleTags(error=f"column '{column}' {excess}")
    try:
        value = cell.as_py()
    except UnicodeDecodeError as error:
        return SampleTags(error=f"column '{column}' is not UTF-8: {error.reason} at byte {error.start}")
    if value is None:
        return SampleTags()
    if isinstance(value, str):
        return _limit_tags(tags=_trim_tags(_split_tags(value)))
    entries = value if isinstance(value, list) else [value]
    if None in entries:
        return SampleTags(error=f"column '{column}' holds a list with a null, need text or numbers")
    if all(isinstance(entry, str) for entry in entries):
        return _limit_tags(tags=_trim_tags(entries))
    return _sort_classes(map(str, entries))


def _describe_excess(cell: pa.Scalar) -> str:
    """Which limit a cell exceeds, checked before its conversion to Python objects; empty if none."""
    if not cell.is_valid:
        return ""
    if isinstance(cell, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        if len(cell) > MAX_TAGS:
            return f"holds {len(cell)} tags, limit {MAX_TAGS}"
        entries = [entry for entry in cell if entry.is_valid]
    else:
        entries = [cell]
    num_bytes = sum(map(_count_text_bytes, entries))
    return f"holds tags of {num_bytes} bytes, limit {MAX_TAGS_BYTES}" if num_bytes > MAX_TAGS_BYTES else ""


def _count_text_bytes(entry: pa.Scalar) -> int:
    text = entry.value if isinstance(entry, pa.DictionaryScalar) else entry
    is_text = isinstance(text, pa.StringScalar | pa.LargeStringScalar | pa.StringViewScalar)
    buffer = text.as_buffer() if is_text and text.is_valid else None
    return 0 if buffer is None else buffer.size


def find_download_error(fields: Mapping[str, Any]) -> str:
    """img2dataset's error text for an image that it could not load; empty if it recorded none."""
    status = fields.get("status")
    if not isinstance(status, str) or status == "success":
        return ""
    return _replace_surrogates(f"{status}: {fields.get('error_message') or 'no reason given'}"[:MAX_ERROR_LETTERS])


def find_json_download_error(payload: bytes | None) -> str:
    """img2dataset's error text in a sample's `.json` member; empty if there is none."""
    try:
        return find_download_error(_parse_json_object("", payload)) if payload else ""
    except ValueError:
        return ""


def _require_small_member(key: str, suffix: str, oversized: Mapping[str, int]) -> None:
    if suffix in oversized:
        raise ValueError(f"'{key}.{suffix}' has {oversized[suffix]} bytes, limit {MAX_TAGS_BYTES}")


def _parse_json_object(member: str, payload: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{member}' is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"'{member}' holds a {type(fields).__name__}, need an object with fields")
    return fields


def _list_tags(member: str, tags: Any, tags_field: str) -> list[str]:
    if isinstance(tags, str):
        return _split_tags(tags)
    if not isinstance(tags, list):
        raise ValueError(f"'{member}': field '{tags_field}' is {type(tags).__name__}, need a list or text")
    for tag in tags:
        if isinstance(tag, bool) or not isinstance(tag, str | int | float):
            raise ValueError(f"'{member}': field '{tags_field}' holds a {type(tag).__name__}, need text or numbers")
    return [str(tag) for tag in tags]


def _sort_classes(names: Iterable[str]) -> SampleTags:
    """Separate entries into zero-based class numbers and, for all others, names."""
    names = list(names)
    numbers = [name for name in names if name.isascii() and name.isdecimal() and len(name) <= MAX_CLASS_DIGITS]
    found = frozenset(numbers)
    return _limit_tags(
        tags=tuple(name for name in names if name not in found), class_numbers=tuple(int(name) for name in numbers)
    )


def _limit_tags(tags: tuple[str, ...], class_numbers: tuple[int, ...] = ()) -> SampleTags:
    """Return the tags, or an error if they are too many or too long."""
    num_tags, num_letters = len(tags) + len(class_numbers), sum(map(len, tags))
    if num_tags > MAX_TAGS:
        return SampleTags(error=f"there are {num_tags} tags, limit {MAX_TAGS}")
    if num_letters > MAX_TAG_LETTERS:
        return SampleTags(error=f"the tags have {num_letters} letters, limit {MAX_TAG_LETTERS}")
    return SampleTags(tags=tags, class_numbers=class_numbers)


def _decode_text(member: str, payload: bytes) -> str:
    try:
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{member}' is not UTF-8: {error.reason} at byte {error.start}") from error


def _split_tags(text: str) -> list[str]:
    return re.split(r"[,;\r\n]", text)


def _trim_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Trim tags and drop empty ones."""
    return tuple(_replace_surrogates(tag.strip()) for tag in tags if tag.strip())


def _replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which JSON can contain and Arrow cannot."""
    return text.encode("utf-8", "replace").decode()
