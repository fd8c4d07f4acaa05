"""Tests use our code as its callers do, so that a move of code breaks none of them."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "pipeline", "jobs")
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
PUBLIC_DESPITE_THEIR_NAME = {"_replace", "_asdict", "_fields", "_make", "_field_defaults"}
"""Of named tuples."""
PATCHES = {"setattr", "delattr", "setitem", "delitem", "patch", "patch.object", "patch.dict", "patch.multiple"}
"""What replaces something at a place: of pytest's monkeypatch, of unittest.mock, and of Python itself."""


def is_of_package(name: str) -> bool:
    return name.split(".")[0] in PACKAGES


def find_own_names(tree: ast.AST) -> Iterator[str]:
    """Find the names by which a module knows something of our packages, at its top or within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name.split(".")[0]) for alias in node.names if is_of_package(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and is_of_package(node.module):
            yield from (alias.asname or alias.name for alias in node.names)


def find_root(node: ast.AST) -> Any:
    """Find the name that an expression starts with: `a` of `a.b[0].c()`."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def find_imported_names(tree: ast.AST) -> Iterator[str]:
    """Find the names that a module imports; the caller leaves out those of our packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (alias.asname or alias.name for alias in node.names)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC_DESPITE_THEIR_NAME


def find_patches(tree: ast.AST) -> Iterator[str]:
    """Find the calls that replace something of our packages."""
    own = set(find_own_names(tree))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = ast.unparse(node.func).split(".")
        target = node.args[0]
        is_named = isinstance(target, ast.Constant) and is_of_package(str(target.value))
        if PATCHES & {name[-1], ".".join(name[-2:])} and (is_named or find_root(target) in own):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def find_assignments(tree: ast.AST) -> Iterator[str]:
    """Find the assignments to something in a module or class of our packages."""
    own = set(find_own_names(tree))
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute | ast.Subscript) and find_root(target) in own:
                yield f"line {node.lineno}: {ast.unparse(node)}"


def is_self(node: ast.AST) -> bool:
    name = getattr(node.func if isinstance(node, ast.Call) else node, "id", "")
    return name == "super" if isinstance(node, ast.Call) else name in ("self", "cls")


def find_private_reads(tree: ast.AST) -> Iterator[str]:
    """Find the private names of others that a module uses."""
    third_party = set(find_imported_names(tree)) - set(find_own_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if is_self(node.value) or find_root(node.value) in third_party:
                continue
            yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and is_of_package(node.module or ""):
            yield from (f"line {node.lineno}: {alias.name}" for alias in node.names if is_private(alias.name))


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_use_our_code_as_its_callers_do(path: Any) -> None:
    """No test replaces our functions and constants where they stand, or reads what is private: it would not survive
    that they move."""
    tree = ast.parse(path.read_text())
    found = [*find_patches(tree), *find_assignments(tree), *find_private_reads(tree)]
    assert not found, "pass what the test needs as an argument, or use the store of tests that fails on command"


@pytest.mark.parametrize(
    "line",
    [
        "monkeypatch.setattr('pipeline.commit.parts.put_atomic', refuse)",
        "monkeypatch.setattr(commit, 'put_atomic', refuse)",
        "monkeypatch.setattr(commit.Class, 'method', refuse)",
        "monkeypatch.setitem(commit.OPTIONS, 'a', 1)",
        "mock.patch('pipeline.commit.parts.put_atomic')",
        "mock.patch.object(commit, 'put_atomic')",
        "setattr(commit, 'put_atomic', refuse)",
        "commit.LIMIT = 3",
        "commit.OPTIONS['a']['b'] = 3",
        "made = commit.Class(); made._labeler",
        "commit._helper()",
        "self.actor._labeler",
        "from pipeline.commit.parts import _helper",
    ],
)
def test_line_that_patches_or_reads_what_is_private_is_found(line: str) -> None:
    tree = ast.parse(f"from pipeline import commit\n{line}")
    assert [*find_patches(tree), *find_assignments(tree), *find_private_reads(tree)]


def test_memory_is_not_measured_by_what_a_process_inherits() -> None:
    """Linux hands `ru_maxrss` of a large test process down to the small one that it starts."""
    inherited = "." + "ru_maxrss"
    files = [*TEST_FILES, *(ROOT / "benchmarks").rglob("*.py")]
    found = [str(path.relative_to(ROOT)) for path in files if inherited in path.read_text()]
    assert not found, "read the peak by benchmarks.peak_memory"
