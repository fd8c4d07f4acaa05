"""The layout of the code: which folder may import which, and what may stand where.

The rules are about folders. No test knows the name of a module.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "models": {"ray", "fsspec", "s3fs", "pyarrow", "pipeline", "jobs", "tests"},
    "pipeline": {"jobs", "tests", "benchmarks", "tyro", "argparse"},
    "jobs": {"tests", "benchmarks"},
}
FILES = [path for package in FORBIDDEN for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = [path for path in FILES if path.name != "__init__.py"]

FLOORS = (
    {"printable"},
    {"errors"},
    {"storage"},
    {"storage/bulk"},
    {"run", "workers"},
    {"inputs/patterns", "inputs/tag_values", "inputs/tar", "images/encoded", "audit/parquet"},
    {"inputs/tables"},
    {"inputs/tags_table"},
    {"audit/sources"},
    {"inputs", "images", "commit", "training", "bundles"},
    {"audit/archives", "training/data", "collections", "images/drawing", "published"},
    {"images/mapping"},
    {"labelling", "kept_maps", "driver", "evaluation", "audit", "training/worker"},
    {"reports", "thresholds", "audit/collections", "export", "local_cluster", "review", "progress"},
    {"training/driver", "library", "export/formats", "corrections"},
    {"export/job"},
    {"label", "remask", "train"},
)
"""From the ground up. A folder, or a module at the top of `pipeline/`, imports only from floors below its own."""

WITHOUT_TORCH = {
    "storage",
    "storage/bulk",
    "run",
    "workers",
    "inputs",
    "inputs/patterns",
    "inputs/tar",
    "collections",
    "inputs/tables",
    "inputs/tags_table",
    "inputs/tag_values",
    "images/encoded",
    "commit",
    "driver",
    "audit/parquet",
    "audit/archives",
    "audit/sources",
    "training",
    "published",
    "export",
    "local_cluster",
    "export/formats",
    "export/job",
    "review",
    "corrections",
    "progress",
}
WITHOUT_RAY = {
    "storage",
    "storage/bulk",
    "run",
    "inputs",
    "inputs/patterns",
    "inputs/tar",
    "collections",
    "inputs/tables",
    "inputs/tags_table",
    "inputs/tag_values",
    "images",
    "images/drawing",
    "images/mapping",
    "images/encoded",
    "commit",
    "evaluation",
    "audit/parquet",
    "audit/archives",
    "audit/sources",
    "published",
    "export",
    "local_cluster",
    "library",
    "export/formats",
    "review",
    "corrections",
    "progress",
}
WITHOUT_STORAGE = {"images", "images/encoded", "workers"}
MAX_MODULES = 10
MAX_LINES = 400


def name_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def list_imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            # `from package import module` imports a module, too.
            names |= {f"{node.module}.{alias.name}" for alias in node.names if is_module(f"{node.module}.{alias.name}")}
    return names


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def find_room(name: str) -> str | None:
    """The folder of a module of `pipeline/`, or the module itself at the top; None for other packages."""
    first, *parts = name.split(".")
    if first != "pipeline" or not parts:
        return None
    path = ROOT / name.replace(".", "/")
    return "/".join(parts if path.is_dir() or len(parts) == 1 else parts[:-1])


def name_module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def find_floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def list_folders() -> list[str]:
    found = {path.parent.relative_to(ROOT / "pipeline") for path in MODULES if path.is_relative_to(ROOT / "pipeline")}
    return sorted(str(folder) for folder in found if str(folder) != ".")


@pytest.mark.parametrize("path", FILES, ids=name_path)
def test_packages_import_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert not {name.split(".")[0] for name in list_imports(path)} & FORBIDDEN[package]


def list_arrows() -> Iterator[tuple[Path, str, str]]:
    """Each import between rooms of `pipeline/`: the file, its room, the room that it imports."""
    for path in MODULES:
        room = find_room(name_module(path))
        for name in sorted(list_imports(path)):
            target = find_room(name)
            if room and target and room != target and is_module(name) and not (ROOT / name.replace(".", "/")).is_dir():
                yield path, room, target


def test_folders_import_only_from_floors_below() -> None:
    wrong = {
        f"{name_path(path)} imports {target}/"
        for path, room, target in list_arrows()
        if find_floor(target) >= find_floor(room)
    }
    assert not wrong


def test_every_folder_has_one_floor() -> None:
    rooms = [room for floor in FLOORS for room in floor]
    modules = {path.stem for path in (ROOT / "pipeline").glob("*.py")} - {"__init__"}
    assert sorted(rooms) == sorted({*list_folders(), *modules})


def test_folders_are_small_enough_to_be_known() -> None:
    for folder in list_folders():
        names = [path.name for path in MODULES if path.parent == ROOT / "pipeline" / folder]
        assert len(names) <= MAX_MODULES, folder


def test_modules_are_short_enough_to_be_read() -> None:
    assert [name_path(path) for path in MODULES if len(path.read_text().splitlines()) > MAX_LINES] == []


def test_assemblies_are_one_screen() -> None:
    for name in ("label", "remask", "train"):
        assert len((ROOT / "pipeline" / f"{name}.py").read_text().splitlines()) <= 100, name


def test_the_map_names_the_folders_that_exist() -> None:
    named = {line.split()[0].rstrip("/") for line in (pipeline.__doc__ or "").splitlines() if "/  " in line}
    assert named == set(list_folders())


def test_every_folder_says_what_belongs_there() -> None:
    for folder in list_folders():
        module = parse(ROOT / "pipeline" / folder / "__init__.py")
        assert ast.get_docstring(module), folder
        assert len(module.body) == 1, f"{folder} re-exports something"


def test_every_module_says_what_it_is() -> None:
    assert [name_path(path) for path in MODULES if not ast.get_docstring(parse(path))] == []


def test_no_module_is_named_for_nothing() -> None:
    assert not {"utils", "helpers", "common", "base", "misc"} & {path.stem for path in FILES}


@pytest.mark.parametrize(
    ("rooms", "packages"),
    [
        (WITHOUT_TORCH, {"torch", "timm", "torchvision"}),
        (WITHOUT_RAY, {"ray"}),
        (WITHOUT_STORAGE, {"fsspec", "s3fs"}),
    ],
)
def test_folders_do_without_packages_that_are_not_their_business(rooms: set[str], packages: set[str]) -> None:
    wrong = {
        name_path(path): found
        for path in MODULES
        if find_room(name_module(path)) in rooms
        and (found := {name.split(".")[0] for name in list_imports(path)} & packages)
    }
    assert not wrong


def test_images_know_no_storage() -> None:
    assert not [path for path, room, target in list_arrows() if (room, target) == ("images", "storage")]


def test_reading_committing_and_driving_do_without_torch() -> None:
    """Workers that read or commit start in seconds less and take hundreds of MB less. Proved in a fresh process."""
    names = [name_module(path) for path in MODULES if find_room(name_module(path)) in WITHOUT_TORCH]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_only_storage_opens_uris() -> None:
    doors = ROOT / "pipeline" / "storage"
    assert not [
        path for path in FILES if path.parent != doors and "fsspec" in {n.split(".")[0] for n in list_imports(path)}
    ]


@pytest.mark.parametrize("path", [path for path in FILES if path.relative_to(ROOT).parts[0] != "jobs"], ids=name_path)
def test_below_jobs_nothing_prints_or_reads_the_environment(path: Path) -> None:
    for node in ast.walk(parse(path)):
        assert not (isinstance(node, ast.Name) and node.id == "print"), f"print in line {node.lineno}"
        assert not (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")), f"line {node.lineno}"


def test_tests_stand_in_folders_that_mirror_the_code() -> None:
    """A folder of tests has the name of a folder of code; `e2e` runs jobs, `golden` holds data."""
    wanted = {*list_folders(), "models", "jobs", "benchmarks", "e2e"}
    found = {str(path.parent.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py")}
    assert found - {"."} <= wanted


def test_top_level_has_what_its_readers_look_for() -> None:
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", ".ci", "docs"}
    assert wanted <= {path.name for path in ROOT.iterdir()}
    assert [path.name for path in ROOT.glob("*.py")] == ["tagmask.py"]
