"""The wheel holds every module and every template, and works where the sources are not."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = tuple(f"{name}.py" for name in PROJECT["tool"]["setuptools"]["py-modules"])
PACKAGES = tuple(pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree, built from a copy: no build folder of an earlier one can add to it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", *MODULES):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; dependencies come from the folder that holds those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", str(wheel))
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # A line of a .pth file only extends sys.path: the editable install of this project stays out.
    dependencies = {path for path in sys.path if path.endswith("site-packages")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)))
    return folder


def run(*command: str, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


def list_sources(suffix: str) -> set[str]:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob(f"*{suffix}"))
    found = {str(path.relative_to(ROOT)) for path in paths if "__pycache__" not in path.parts}
    return found | {name for name in MODULES if name.endswith(suffix)}


def test_wheel_holds_every_module_template_and_type_marker_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    suffixes = (".py", ".j2", ".html", ".css", ".js", ".svg")
    wanted = {name for suffix in suffixes for name in list_sources(suffix)}
    assert names == wanted | {f"{package}/py.typed" for package in PACKAGES}


def test_installed_modules_import_from_a_foreign_folder(installed: Path, tmp_path: Path) -> None:
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in list_sources(".py")
    )
    program = "import importlib, sys\nfor name in sys.argv[1:]:\n    print(importlib.import_module(name).__file__)\n"
    python = str(installed / "bin" / "python")
    files = run(python, "-c", program, *modules, cwd=tmp_path).splitlines()
    assert len(files) == len(modules)
    assert all(Path(file).is_relative_to(installed) for file in files)


def test_installed_command_runs_beside_folders_that_have_the_names_of_its_packages(
    installed: Path, tmp_path: Path
) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('a folder of the user')")
    assert (
        run(str(installed / "bin" / "tagmask"), "--version", cwd=tmp_path)
        == f"tagmask {PROJECT['project']['version']}\n"
    )


def test_version_of_the_project_is_the_newest_of_the_changelog() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    released = [line for line in headings if "unreleased" not in line.lower()]
    assert released[0].startswith(f"## [{PROJECT['project']['version']}]")
