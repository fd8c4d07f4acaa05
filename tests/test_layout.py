"""What may import what, and what may stand where."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "models": {"ray", "fsspec", "s3fs", "pyarrow", "pipeline", "jobs", "tests"},
    "pipeline": {"jobs", "tests", "tyro", "argparse"},
    "jobs": {"tests", "benchmarks"},
}
FILES = [path for package in FORBIDDEN for path in sorted((ROOT / package).rglob("*.py"))]


def list_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    tops = {name.split(".")[0] for name in list_imports(ast.parse(path.read_text()))}
    assert not tops & FORBIDDEN[package]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent.name != "jobs"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_below_jobs_nothing_prints_or_reads_the_environment(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Name) and node.id == "print"), f"print in line {node.lineno}"
        assert not (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")), f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_storage_opens_uris(path):
    if path.parent.name == "storage":
        return
    assert "fsspec" not in {name.split(".")[0] for name in list_imports(ast.parse(path.read_text()))}


def test_no_module_is_named_for_nothing():
    assert not {"utils", "helpers", "common", "base", "misc"} & {path.stem for path in FILES}


def test_every_module_says_what_it_is():
    for path in FILES:
        if path.name != "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_top_level_has_what_its_readers_look_for():
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", ".ci", "docs"}
    assert wanted <= {path.name for path in ROOT.iterdir()}
    assert not list(ROOT.glob("*.py"))


@pytest.mark.parametrize(
    "module",
    ["labelling.chunk_source", "commit.parts", "kept_maps.images", "kept_maps.source", "commit.retry", "audit.shard"],
)
def test_what_cpu_tasks_import_does_without_torch(module):
    """A worker that reads or commits starts in seconds less, and takes hundreds of megabytes less."""
    program = f"import sys, pipeline.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
