"""The types and functions that a pickle names, and what it does with them, read without unpickling it."""

import io
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PickledName:
    """A type or function that a pickle names."""

    raw_name: str
    """As it stands in the file."""
    name: str
    """Full name; old protocols contain those of Python 2, such as `commands.Popen` for `subprocess.Popen`."""
    is_mapping: bool
    """Its objects are filled as dicts are."""
    is_list: bool
    """Its objects are filled as lists are."""


_MARK = object()
_FILLS = {"SETITEM": "mapping", "SETITEMS": "mapping", "APPEND": "list", "APPENDS": "list"}
_KEEPS_LOWEST = {"NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", *_FILLS}
"""Instructions whose result is made of the lowest object that they take from the stack."""


def scan_pickle(file: io.BytesIO | io.BufferedReader) -> list[PickledName]:
    """List what a pickle names, by following its instructions with names in place of objects; none is imported.

    Args:
        file: At the start of the pickle; afterwards behind its end.

    Raises:
        ValueError: It is not a pickle, or it is truncated.
        IndexError: Its instructions are inconsistent.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    names: list[str] = []
    uses: set[tuple[str, str]] = set()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument))
        elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif opcode.name == "MARK":
            stack.append(_MARK)
        else:
            taken = _take(stack, opcode)
            made = taken[0] if taken and opcode.name in _KEEPS_LOWEST else None
            if opcode.name in ("GLOBAL", "INST"):
                made = str(argument).replace(" ", ".", 1)
                names.append(made)
            if made is not None and opcode.name in _FILLS:
                uses.add((made, _FILLS[opcode.name]))
            stack += [made] * len(opcode.stack_after)
    return [
        PickledName(
            raw_name=name,
            name=_translate(name),
            is_mapping=(name, "mapping") in uses,
            is_list=(name, "list") in uses,
        )
        for name in dict.fromkeys(names)
    ]


def _take(stack: list[Any], opcode: Any) -> list[Any]:
    """Remove from a stack what an instruction takes, down to the last mark if it takes one; return it, lowest first."""
    before = list(opcode.stack_before)
    if pickletools.markobject in before:
        while stack.pop() is not _MARK:
            pass
        before = before[: before.index(pickletools.markobject)]
    return [stack.pop() for _ in before][::-1]


def _translate(raw_name: str) -> str:
    module, _, name = raw_name.rpartition(".")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"
