"""Tags of a sample: from its `.json`, `.txt` or `.cls` member, or from its cell in a column."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

from models.documents import DocumentError, parse_json, show_value
from pipeline.inputs.tag_values.forms import (
    CLASS_NUMBERS_ADVICE,
    MAX_CLASS_DIGITS,
    MIN_VECTOR,
    VECTOR_ADVICE,
    Entry,
    list_entries,
    parse_class_number,
    split_text,
)
from pipeline.run.config import ONE_BASED, ZERO_BASED, InputConfig

LIST_SCALARS = (pa.ListScalar, pa.LargeListScalar, pa.FixedSizeListScalar, pa.ListViewScalar, pa.LargeListViewScalar)
MAX_FIELDS_SHOWN = 10

MAX_TAGS_BYTES = 4 * 2**20
"""Maximum size of a member or cell that is read; those of crawlers take some kilobytes."""
SMALL_COLUMN_BYTES = 2**15
"""Size of a column of a batch whose cells are converted together."""
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


def read_tag_value(where: str, value: Any, config: InputConfig, labels: Sequence[str] | None = None) -> SampleTags:
    """Read tags from a plain value: the same value means the same in every format.

    Null and empty values are no tags; text is split; text in lists is not. Numbers are class numbers, if the
    configuration or the metadata of the file say of which classes. Scores, records and vectors: `tag_values.forms`.

    Args:
        where: Member, column or field, for messages.
        value: As JSON has it.
        config: How to read it.
        labels: Names of the class numbers from 0 by the metadata of the file; there -1 is no label. They come before
            places in the vocabulary, and after a file of names.
    """
    try:
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value) and not config.hashtags:
            # The usual form, which needs no option.
            return _limit_tags(value, ())
        entries = list_entries(value, config)
        if labels is not None and config.class_names is None and not config.multi_hot:
            return _limit_tags(_resolve_labels(entries, labels), ())
        return _limit_tags(*_resolve_numbers(list(entries), config))
    except ValueError as error:
        return SampleTags(error=_replace_surrogates(f"{where} {error}"))


def read_tags(
    key: str,
    payloads: Mapping[str, bytes],
    config: InputConfig,
    oversized: Mapping[str, int] = MappingProxyType({}),
) -> SampleTags:
    """Read a sample's tags: `.json` before `.txt` before `.cls`.

    A `.json` without the field is skipped, as it often contains other metadata.

    Args:
        key: Key of the sample, for messages.
        payloads: Contents of the members that may hold tags, by suffix.
        config: Field of the `.json` member, and how its value is read.
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
            if (found := _find_field(fields, config.tags_field)) is not None:
                _require_field_once(f"{key}.json", payloads["json"], config.tags_field)
                return read_tag_value(f"'{key}.json': field '{config.tags_field}'", found[0], config)
            missing = SampleTags(
                error=_replace_surrogates(
                    f"'{key}.json' has no field '{config.tags_field}' (--inputs.tags-field); its fields: "
                    f"{_list_field_names(fields)}"
                )
            )
        _require_small_member(key, "txt", oversized)
        if "txt" in payloads:
            text = _decode_text(f"{key}.txt", payloads["txt"])
            return read_tag_value(f"'{key}.txt'", text, config)
        _require_small_member(key, "cls", oversized)
        if "cls" in payloads:
            return _read_class_member(f"'{key}.cls'", _decode_text(f"{key}.cls", payloads["cls"]), config)
    except ValueError as error:
        return SampleTags(error=_replace_surrogates(str(error)))
    return missing


def _find_field(fields: Mapping[str, Any], name: str) -> tuple[Any] | None:
    """Find the value of a field, or of a field within fields by a name with dots; None if there is none."""
    if name in fields:
        return (fields[name],)
    first, *rest = name.split(".")
    value = fields.get(first)
    for place, part in enumerate(rest):
        if not isinstance(value, dict):
            return None
        if (whole := ".".join(rest[place:])) in value:
            return (value[whole],)
        value = value.get(part)
    return None


def _require_field_once(member: str, payload: bytes, field: str) -> None:
    """Check that an object has no key twice; only if the last part of the field's name is there twice."""
    if payload.count(f'"{field.rpartition(".")[2]}"'.encode()) < 2:
        return
    try:
        parse_json(payload, allow_non_finite=True)
    except DocumentError as error:
        if " twice" in str(error):
            raise ValueError(f"'{member}' is ambiguous: {error}") from error


def _list_field_names(fields: Mapping[str, Any]) -> str:
    """Names of the first fields of an object, and of those within its objects, for a message."""
    names = []
    for name, value in list(fields.items())[:MAX_FIELDS_SHOWN]:
        inner = list(value)[:MAX_FIELDS_SHOWN] if isinstance(value, dict) else []
        names += [f"'{name}.{key}'" for key in inner] or [f"'{name}'"]
    return ", ".join(names[:MAX_FIELDS_SHOWN]) or "none"


def _read_class_member(where: str, text: str, config: InputConfig) -> SampleTags:
    """Read a `.cls` member: class numbers with spaces or as JSON, else names."""
    if "\0" in text:
        return SampleTags(error=f"{where} holds binary numbers, need text")
    words = text.replace(",", " ").replace(";", " ").split()
    numbers = [parse_class_number(word) for word in words]
    if words and all(isinstance(number, int) for number in numbers):
        # One number is no vector.
        return read_tag_value(where, numbers if len(numbers) > 1 else numbers[0], config)
    if text.lstrip().startswith("["):
        return read_tag_value(where, text, config)
    return read_tag_value(where, [parse_class_number(word) for word in split_text(text, config)], config)


def read_tag_cell(column: str, cell: pa.Scalar, config: InputConfig, labels: Sequence[str] | None = None) -> SampleTags:
    """Read a sample's tags from a cell of a table.

    Args:
        column: Name of the column, for messages.
        cell: Null for no tags.
        config: How to read its value.
        labels: Names of the class numbers by the metadata of the file.
    """
    if excess := _describe_excess(cell):
        return SampleTags(error=f"column '{column}' {excess}")
    try:
        value = cell.as_py(maps_as_pydicts="strict")
    except UnicodeDecodeError as error:
        return SampleTags(error=f"column '{column}' is not UTF-8: {error.reason} at byte {error.start}")
    except KeyError as error:
        return SampleTags(error=_replace_surrogates(f"column '{column}' holds a map with a key twice: {error}"))
    return read_tag_value(f"column '{column}'", value, config, labels)


def read_tag_cells(
    column: str, cells: pa.Array, config: InputConfig, labels: Sequence[str] | None = None
) -> Iterator[SampleTags]:
    """Read the tags of each cell of a column; arguments are those of `read_tag_cell`."""
    where, kind = f"column '{column}'", cells.type
    # So few bytes exceed no limit; but nulls of the type null take none.
    if cells.nbytes <= SMALL_COLUMN_BYTES and "null" not in str(kind):
        with suppress(UnicodeDecodeError, KeyError):
            is_text_list = pa.types.is_list(kind) and pa.types.is_string(kind.value_type)
            if not is_text_list or config.hashtags or config.class_numbers is not None:
                values = cells.to_pylist(maps_as_pydicts="strict")
                return (read_tag_value(where, value, config, labels) for value in values)
            # The usual form. Without a check of maps, the conversion takes a tenth of the time.
            return (
                read_tag_value(where, tags, config, labels)
                if tags is None or None in tags
                else SampleTags(tuple(filter(None, map(str.strip, tags))))
                for tags in cells.to_pylist()
            )
    return (read_tag_cell(column, cell, config, labels) for cell in cells)


def _describe_excess(cell: pa.Scalar) -> str:
    """Which limit a cell exceeds, checked before its conversion to Python objects; empty if none."""
    if not cell.is_valid:
        return ""
    if isinstance(cell, LIST_SCALARS):
        if len(cell) > MAX_TAGS:
            return f"holds {len(cell)} tags, limit {MAX_TAGS}"
        if pa.types.is_nested(cell.values.type):
            num_bytes = cell.values.nbytes
        else:
            num_bytes = sum(_count_text_bytes(entry) for entry in cell if entry.is_valid)
    elif isinstance(cell, pa.StructScalar):
        # A column of objects with other keys in each row has a field for each of all keys.
        return next(filter(None, map(_describe_excess, cell.values())), "")
    else:
        num_bytes = _count_text_bytes(cell)
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


def _resolve_numbers(entries: Sequence[Entry], config: InputConfig) -> tuple[list[str], list[int]]:
    """Separate tags and class numbers; numbers that a file names become tags.

    Raises:
        ValueError: There are numbers, and the configuration does not say what they mean.
    """
    tags: list[str] = []
    numbers: list[int] = []
    for entry in entries:
        if isinstance(entry, str):
            tags.append(entry)
        elif config.class_numbers is None:
            is_vector = len(entries) >= MIN_VECTOR and set(entries) <= {0, 1}
            advice = f"{CLASS_NUMBERS_ADVICE}; {VECTOR_ADVICE}" if is_vector else CLASS_NUMBERS_ADVICE
            raise ValueError(f"holds the number {show_value(entry)}; {advice}")
        elif config.class_name_by_number is not None:
            tags.append(config.class_name_by_number.get(entry, f"#{entry}"))
        elif config.class_numbers not in (ZERO_BASED, ONE_BASED):
            raise ValueError(f"holds a number, and the names of '{config.class_numbers}' were not read")
        elif len(str(abs(entry))) > MAX_CLASS_DIGITS:
            tags.append(f"#{entry}")
        else:
            numbers.append(entry)
    return tags, numbers


def _resolve_labels(entries: Iterable[Entry], labels: Sequence[str]) -> list[str]:
    """Replace class numbers by the names that the metadata of a file give them; -1 is no label.

    Raises:
        ValueError: A number has no name.
    """
    tags: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            tags.append(entry)
        elif 0 <= entry < len(labels):
            tags.append(labels[entry])
        elif entry != -1:
            raise ValueError(f"holds class number {entry}, the file's metadata name {len(labels)} classes from 0")
    return tags


def _limit_tags(tags: Iterable[str], class_numbers: Sequence[int]) -> SampleTags:
    """Trim tags and drop empty ones.

    Raises:
        ValueError: They are too many or too long.
    """
    trimmed = tuple([tag if tag.isascii() else _replace_surrogates(tag) for tag in map(str.strip, tags) if tag])
    num_tags, num_letters = len(trimmed) + len(class_numbers), sum(map(len, trimmed))
    if num_tags > MAX_TAGS:
        raise ValueError(f"holds {num_tags} tags, limit {MAX_TAGS}")
    if num_letters > MAX_TAG_LETTERS:
        raise ValueError(f"holds tags of {num_letters} letters, limit {MAX_TAG_LETTERS}")
    return SampleTags(trimmed, tuple(class_numbers))


def _decode_text(member: str, payload: bytes) -> str:
    try:
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{member}' is not UTF-8: {error.reason} at byte {error.start}") from error


def _replace_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which JSON can contain and Arrow cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
