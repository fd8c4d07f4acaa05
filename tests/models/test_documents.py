"""The door for JSON and YAML: what is bounded, what is refused, and in which words."""

import contextlib
import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.documents import MAX_DEPTH, STRICT, DocumentError, check_fields, parse_json, parse_yaml

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc<=", max_size=3), inner, max_size=3),
    max_leaves=10,
)
LAUGHS = "\n".join(
    ["a0: &a0 [lol]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)), "classes: *a29"]
)


@given(PLAIN)
def test_values_survive_json(values: Any) -> None:
    payload = json.dumps(values).encode()
    assert parse_json(payload) == values
    assert parse_yaml(payload) == values
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(values, ensure_ascii=False).encode()) == values


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    for parse in (parse_json, parse_yaml):
        with contextlib.suppress(DocumentError):
            parse(payload)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b'{"a": 1', "not JSON"),
        (b"[" * 100_000, "nests mappings and lists more than 64 deep"),
        (b"[" * 900 + b"]" * 900, "nests mappings and lists more than 64 deep"),
        (b'{"a": NaN}', "holds the number nan"),
        (b'{"a": -Infinity}', "holds the number -inf"),
        (b'{"a": 1e999}', "holds the number inf"),
        (b'{"a": 1' + b"0" * 30 + b"}", "whole number of 100 bits"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not JSON"),
        (b'{"a": {"b": 1, "b": 2}}', 'has the key "b" twice'),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"\\udc31": 1}', "half of a surrogate pair"),
        ('{"a": "ü"}'.encode("latin-1"), "not UTF-8: invalid"),
        (b'{"a": 1}' + b" " * 1000, "has 1008 bytes, need at most 1000"),
        (b"", "not JSON"),
    ],
)
def test_invalid_json_is_refused_with_the_reason(payload: Any, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        parse_json(payload, max_bytes=1000 if b"  " in payload else 10**6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "the nested list or mapping of line 2 is used again by an alias"),
        ("a: &a [*a]", "alias"),
        ("- " * 100 + "a", "more than 64 deep"),
        ("[" * 5000, "more than 64 deep"),
        ("{a: " * 5000, "more than 64 deep"),
        ("a: 1\nb: 2\na: 3", 'line 3 has the key "a" again'),
        ("a: 2020-13-45", "neither YAML nor JSON"),
        ("a: 2020-12-24", "a date; put it into quotes"),
        ("? 2020-12-24\n: a", "a date; put it into quotes"),
        ("a: !!binary aGk=", "a bytes; put it into quotes"),
        ("a: !!set {b, c}", "a set; put it into quotes"),
        ("a: " + "9" * 5000, "neither YAML nor JSON"),
        ("a: .nan", "holds the number nan"),
        ("a: .inf", "holds the number inf"),
        ("? [a]\n: b", "neither YAML nor JSON"),
        ("a: !!python/object/apply:os.system [ls]", "neither YAML nor JSON"),
        ('a: "\\ud83d"', "half of a surrogate pair"),
        ("a: \x00", "neither YAML nor JSON"),
        ("a: b\n---\nc: d", "neither YAML nor JSON"),
    ],
)
def test_invalid_yaml_is_refused_with_the_reason(text: Any, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        parse_yaml(text.encode())


def test_yaml_keeps_aliases_of_single_values_tabs_and_merged_keys() -> None:
    assert parse_yaml(b'a: &red "#ff0000"\nb: *red\nc:\t[x]\nd: {<<: {e: 1}, f: 2}') == {
        "a": "#ff0000",
        "b": "#ff0000",
        "c": ["x"],
        "d": {"e": 1, "f": 2},
    }


def test_character_that_json_writes_as_two_escapes_is_one_character() -> None:
    assert parse_yaml(json.dumps({"cat": ["\N{CAT FACE}"]}).encode()) == {"cat": ["\N{CAT FACE}"]}


def test_document_may_nest_as_deep_as_the_bound() -> None:
    for parse in (parse_json, parse_yaml):
        assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


@dataclass(frozen=True, kw_only=True)
class Part:
    __pydantic_config__ = STRICT

    side: int
    share: float = 0.5
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"need side >= 1, got {self.side}")


@dataclass(frozen=True, kw_only=True)
class Whole:
    __pydantic_config__ = STRICT

    part: Part
    free: dict[str, Any]


def test_fields_become_a_dataclass() -> None:
    fields = {"part": {"side": 2, "share": 1, "names": ["a"]}, "free": {"x": [None, math.inf]}}
    assert check_fields(Whole, fields) == Whole(
        part=Part(side=2, share=1.0, names=("a",)), free={"x": [None, math.inf]}
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"free": {}}, "part: field required"),
        ({"part": {"side": "2"}, "free": {}}, r'part\.side: input should be a valid integer, got "2"'),
        ({"part": {"side": True}, "free": {}}, r"part\.side: input should be a valid integer, got true"),
        ({"part": {"side": 0}, "free": {}}, "part: need side >= 1, got 0"),
        ({"part": {"side": 1, "sides": 1}, "free": {}}, r"part\.sides: unexpected keyword argument"),
        (
            {"part": {"side": 1, "names": ["a", 1]}, "free": {}},
            r"part\.names\.1: input should be a valid string, got 1",
        ),
        ([], "got \\[\\]"),
        ("text", 'got "text"'),
        (None, "got null"),
        ({"part": {"a": 1, "b": 2, "c": 3}, "free": {}}, "and 1 more"),
    ],
)
def test_fields_of_another_type_are_refused_by_name(
    fields: dict[str, dict[str, Any]] | list[Any] | str | None, message: str
) -> None:
    with pytest.raises(DocumentError, match=message):
        check_fields(Whole, fields)


def test_yaml_takes_flat_lists_and_mappings_by_alias_up_to_a_number() -> None:
    text = b"base: &b [a, b]\nclasses: *b\nmore: &m {c: d}\nmerged: {<<: *m, e: f}"
    assert parse_yaml(text) == {
        "base": ["a", "b"],
        "classes": ["a", "b"],
        "more": {"c": "d"},
        "merged": {"c": "d", "e": "f"},
    }
    many = b"a: &a [" + b"1, " * 999 + b"1]\nb: [" + b"*a, " * 101 + b"1]"
    with pytest.raises(DocumentError, match="aliases stand for more than 100000 values"):
        parse_yaml(many)
