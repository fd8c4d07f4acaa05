"""Values of cells that are text without a type, as in CSV."""

import ast
import json
import re
from typing import Any

NUMPY_LIST = re.compile(r"""\[\s*(?:(?:'[^']*'|"[^"]*")\s*)*\]""")
"""A list as NumPy prints it: without commas, which Python would join to one text."""


def read_text_cell(cell: str | None) -> Any:
    """Value of a cell: a list or an object if it is written as one by JSON, Python or NumPy; else text.

    >>> read_text_cell("dog, cat"), read_text_cell('["dog", "cat"]'), read_text_cell("['a b' 'c']"), read_text_cell("")
    ('dog, cat', ['dog', 'cat'], ['a b', 'c'], None)
    """
    text = (cell or "").strip()
    if not text:
        return None
    if not (text[0] == "[" and text[-1] == "]") and not (text[0] == "{" and text[-1] == "}"):
        return text
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
