"""Fingerprint and differences of plain values, and the version of this library."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def to_canonical_json(fields: Any) -> str:
    """Render plain values; equal values have equal text."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def compute_fingerprint(fields: dict[str, Any]) -> str:
    """Compute the SHA-256 of the canonical JSON of plain values, as 64 hexadecimal digits."""
    return hashlib.sha256(to_canonical_json(fields).encode()).hexdigest()


def hash_uri(uri: str) -> str:
    """Compute a short hash of a URI, as 8 hexadecimal digits, to tell shards of one name apart."""
    return hashlib.sha256(uri.encode(errors="surrogateescape")).hexdigest()[:8]


def get_library_version() -> str:
    """Version of this library; `unknown` in a checkout that is not installed."""
    try:
        return version("tagmask")
    except PackageNotFoundError:
        return "unknown"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """List the leaves of nested mappings by their dotted names; an empty mapping has none.

    >>> flatten({"model": {"depth": 12, "extra": {}}, "epochs": 5})
    {'model.depth': 12, 'epochs': 5}
    """
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, inner in value.items() for key, leaf in flatten(inner, f"{prefix}{name}.").items()}


def list_changes(before: Any, after: Any, prefix: str = "") -> list[str]:
    """Describe the leaves in which two nested mappings differ, sorted by name; a missing leaf equals None.

    >>> list_changes({"epochs": 5, "rng_seed": 1}, {"epochs": 6, "rng_seed": 1}, prefix="config.")
    ['config.epochs was 5, is 6']
    """
    old, new = flatten(before, prefix), flatten(after, prefix)
    return [
        f"{name} was {_show_leaf(old, name)}, is {_show_leaf(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _show_leaf(leaves: dict[str, Any], name: str) -> str:
    return repr(leaves[name]) if name in leaves else "absent"
