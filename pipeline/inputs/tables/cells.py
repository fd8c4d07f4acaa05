"""Values of cells that are text without a type, as in CSV."""

import ast
import json
import re
from typing import Any

from pipeline.inputs.tag_values.forms import split_text
from pipeline.run.config import InputConfig

NUMPY_LIST = re.compile(r"""\[\s*(?:(?:'[^']*'|"[^"]*")\s*)*\]""")
"""A list as NumPy prints it: without commas, which Python would join to one text."""
NUMBER = re.compile(r"\s*(-?[0-9]{1,9})(?:\.0*)?\s*")
"""A class number; pandas writes whole numbers with gaps as floats."""


def read_text_cell(cell: str | None, config: InputConfig) -> Any:
    """Value of a cell: a list or an object if it is written as one by JSON, Python or NumPy; else text.

    Where the run says what class numbers mean, whole numbers are class numbers.

    >>> plain = InputConfig()
    >>> read_text_cell("dog, cat", plain), read_text_cell('["dog", "cat"]', plain), read_text_cell("['a b' 'c']", plain)
    ('dog, cat', ['dog', 'cat'], ['a b', 'c'])
    >>> numbered = InputConfig(class_numbers="one-based")
    >>> read_text_cell("", plain), read_text_cell("3", plain), read_text_cell("3, 5", numbered)
    (None, '3', [3, 5])
    """
    text = (cell or "").strip()
    if not text:
        return None
    if not (text[0] == "[" and text[-1] == "]") and not (text[0] == "{" and text[-1] == "}"):
        return text if config.class_numbers is None else _read_numbers(text, config)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if NUMPY_LIST.fullmatch(text):
        return [single or double for single, double in re.findall(r"""'([^']*)'|"([^"]*)\"""", text)]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return sorted(value, key=str) if isinstance(value, set | frozenset) else value


def _read_numbers(text: str, config: InputConfig) -> Any:
    found = [NUMBER.fullmatch(part) for part in split_text(text, config)]
    return [int(match[1]) for match in found if match] if found and all(found) else text
