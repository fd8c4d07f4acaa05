"""Reader of foreign JSON and YAML: bytes to plain values, or one error that names the fault.

Size, depth and numbers of a document are bounded. `check_fields` validates its values against a type.
"""

import json
import math
from collections import Counter
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

MAX_DOCUMENT_BYTES = 64 * 2**20
MAX_DEPTH = 64
"""Largest depth of nested mappings and lists."""
MAX_WHOLE_NUMBER = 2**64 - 1
"""Random seeds may have 64 bits."""
MAX_SHOWN = 60
"""Characters of a wrong value in a message."""
MAX_COMPLAINTS = 3
"""Wrong fields that a message describes."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

STRICT = ConfigDict(extra="forbid", strict=True)
"""`__pydantic_config__` of a dataclass that is read from a file: no other fields, no conversion of types."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded; the message names the keys or shapes that do not fit."""


class DocumentError(ValueError):
    """A document that is damaged or has wrong values; the message names position and field."""


def parse_json(payload: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES, allow_non_finite: bool = False) -> Any:
    """Parse JSON.

    Args:
        payload: UTF-8, with or without a byte order mark.
        max_bytes: Largest size of the payload.
        allow_non_finite: Accept NaN and Infinity, in metrics that nothing is computed from.

    Raises:
        DocumentError: The payload is not JSON, or exceeds a bound.
    """
    try:
        fields = json.loads(decode_text(payload, max_bytes), object_pairs_hook=_make_mapping)
    except DocumentError:
        raise
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"it is not JSON: {_describe_error(error)}") from error
    _check_values(fields, allow_non_finite=allow_non_finite)
    return fields


def parse_yaml(payload: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> Any:
    """Parse JSON or YAML; in YAML tabs count as spaces.

    Raises:
        DocumentError: The payload is neither, or exceeds a bound.
    """
    text = decode_text(payload, max_bytes)
    try:
        # Nearly all JSON is YAML. The exception is a surrogate pair, which JSON may write as two escapes.
        fields = json.loads(text, object_pairs_hook=_make_mapping)
    except DocumentError:
        raise
    except (ValueError, RecursionError):
        fields = _load_yaml(text.replace("\t", " "))
    _check_values(fields, allow_non_finite=False)
    return fields


def parse_json_or_yaml(payload: bytes, name: str, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> Any:
    """Parse a file by the suffix of its name: `.json` is JSON, `.yaml` and `.yml` are YAML, others either.

    Raises:
        DocumentError: The payload cannot be parsed, or exceeds a bound; what starts like JSON is described as JSON.
    """
    suffix = name.rpartition(".")[2].lower()
    if suffix == "json":
        return parse_json(payload, max_bytes=max_bytes)
    try:
        return parse_yaml(payload, max_bytes=max_bytes)
    except DocumentError:
        if suffix not in ("yaml", "yml") and payload.lstrip(BYTE_ORDER_MARK + b" \t\r\n").startswith((b"{", b"[")):
            parse_json(payload, max_bytes=max_bytes)
        raise


def _load_yaml(text: str) -> Any:
    try:
        return yaml.load(text, _BoundedLoader)
    except DocumentError:
        raise
    except Exception as error:  # what a constructor raises depends on the value: ValueError, TypeError, KeyError ...
        raise DocumentError(f"it is neither YAML nor JSON: {_describe_error(error)}") from error


def check_fields(kind: Any, fields: Any) -> Any:
    """Convert plain values to a dataclass, typed dictionary or other type.

    Types are strict: text is not a number, and a `STRICT` type has no unknown fields. Dataclasses run their own checks
    at construction.

    Raises:
        DocumentError: Fields are missing, unknown or wrong; the message names them.
    """
    try:
        # Strict validation of JSON still converts a list to a tuple, and text to an enumeration.
        return TypeAdapter(kind).validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        complaints = [_describe_complaint(complaint) for complaint in error.errors(include_url=False)]
        more = f"; and {len(complaints) - MAX_COMPLAINTS} more" if len(complaints) > MAX_COMPLAINTS else ""
        raise DocumentError("; ".join(complaints[:MAX_COMPLAINTS]) + more) from error


def decode_text(payload: bytes, max_bytes: int) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        DocumentError: The payload is too large, or in another encoding.
    """
    if len(payload) > max_bytes:
        raise DocumentError(f"it has {len(payload)} bytes, need at most {max_bytes}")
    try:
        if payload.startswith(UTF16_MARKS) or payload[1:2] == b"\0" or payload[:1] == b"\0":
            raise DocumentError("it is UTF-16; save it as UTF-8")
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from error


def _make_mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise DocumentError(f"it has the key {show_value(twice)} twice; keep one of them")
    return fields


MAX_ALIASED = 100_000
"""Values that a YAML file repeats by aliases at most."""


class _BoundedLoader(yaml.SafeLoader):
    """YAML's safe loader with limits on what makes a small file large: nested aliases, many aliases."""

    _depth = 0
    _num_aliased = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self._depth >= MAX_DEPTH:
            raise DocumentError(f"it nests mappings and lists more than {MAX_DEPTH} deep")
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and not isinstance(node, yaml.ScalarNode):
            self._count_alias(node)
        return node

    def _count_alias(self, node: yaml.CollectionNode) -> None:
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(item,) for item in node.value]
        self._num_aliased += len(pairs)
        line = node.start_mark.line + 1
        # A node without an end contains its own alias.
        if node.end_mark is None or not all(isinstance(item, yaml.ScalarNode) for pair in pairs for item in pair):
            raise DocumentError(f"the nested list or mapping of line {line} is used again by an alias; write it out")
        if self._num_aliased > MAX_ALIASED:
            raise DocumentError(f"its aliases stand for more than {MAX_ALIASED} values; write them out")

    def compose_scalar_node(self, anchor: Any) -> Any:
        """Compose text; join surrogate pairs, which JSON and many writers of YAML write as two escapes."""
        node = super().compose_scalar_node(anchor)
        if not node.value.isascii():
            node.value = node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping; check its keys before merges join it with others, which may repeat them."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise DocumentError(f"line {line} has the key {show_value(key.value)} again; keep one of them")
            seen.add((key.tag, key.value))
        return node


def _check_values(fields: Any, *, allow_non_finite: bool) -> None:
    """Check depth, numbers and text level by level, as a document may be deeper than Python's recursion limit."""
    level = [fields]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.keys()
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            else:
                _check_value(value, allow_non_finite)
        if not inner:
            return
        level = inner
    raise DocumentError(f"it nests mappings and lists more than {MAX_DEPTH} deep")


def _check_value(value: Any, allow_non_finite: bool) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise DocumentError(f"text {show_value(value)} holds half of a surrogate pair; write it as UTF-8")
    elif isinstance(value, float):
        if not allow_non_finite and not math.isfinite(value):
            raise DocumentError(f"it holds the number {value}; need finite numbers")
    elif isinstance(value, int):
        if abs(value) > MAX_WHOLE_NUMBER:
            raise DocumentError(f"it holds a whole number of {value.bit_length()} bits; need at most 64")
    elif value is not None:
        raise DocumentError(f"it holds {show_value(str(value))}, a {type(value).__name__}; put it into quotes")


def show_value(value: Any) -> str:
    """Render a wrong value for a message, truncated to `MAX_SHOWN` characters.

    >>> show_value({"a": [1, "ü"]})
    '{"a": [1, "ü"]}'
    """
    try:
        text = json.dumps(value, default=str, ensure_ascii=False, skipkeys=True)
    except RecursionError:
        text = f"a {type(value).__name__} that nests too deep"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}.."


def _describe_error(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"it nests mappings and lists more than {MAX_DEPTH} deep"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _describe_complaint(complaint: Any) -> str:
    name = ".".join(map(str, complaint["loc"]))
    message = complaint["msg"].removeprefix("Value error, ")
    text = message[:1].lower() + message[1:] if complaint["type"] != "value_error" else message
    got = "" if complaint["type"] in ("missing", "value_error") else f", got {show_value(complaint['input'])}"
    return f"{name}: {text}{got}" if name else f"{text}{got}"
