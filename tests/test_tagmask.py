"""`import tagmask`: light, complete, and clear about folders that hide its packages."""

import inspect
import subprocess
import sys
from pathlib import Path

import tagmask

ROOT = Path(__file__).parents[1]


def run(program: str, cwd: Path) -> str:
    """Run a program in a fresh process that finds the tagmask of this working tree behind the current folder."""
    start = f"import sys; sys.path.insert(0, ''); sys.path.insert(1, {str(ROOT)!r})\n"
    done = subprocess.run([sys.executable, "-c", start + program], cwd=cwd, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def test_import_brings_neither_torch_nor_ray_nor_arrow(tmp_path: Path) -> None:
    program = (
        "import tagmask\n"
        "assert 'load' in dir(tagmask) and tagmask.__version__\n"
        "print({'torch', 'ray', 'pyarrow', 'numpy', 'PIL', 'pipeline'} & set(sys.modules))"
    )
    assert run(program, tmp_path).strip() == "set()"


def test_labelling_and_opening_need_no_ray(tmp_path: Path) -> None:
    program = (
        "import tagmask\n"
        "for name in tagmask.__all__:\n"
        "    getattr(tagmask, name)\n"
        "print('torch' in sys.modules, 'ray' in sys.modules, tagmask.MaskDataset.__name__)\n"
    )
    assert run(program, tmp_path).strip() == "True False MaskDataset"


def test_star_import_and_unknown_names_behave_as_of_any_module(tmp_path: Path) -> None:
    said = run(
        "from tagmask import *\nprint(load.__name__, ToTensors.__name__)\nimport tagmask; tagmask.nothing", tmp_path
    )
    assert said.startswith("load ToTensors")
    assert "module 'tagmask' has no attribute 'nothing'" in said


def test_folder_of_the_user_with_the_name_of_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    said = run("import tagmask; tagmask.open('x')", tmp_path)
    assert "ImportError: tagmask needs its own package 'models', and Python finds" in said
    assert str(tmp_path / "models") in said
    # A folder that is no package hides nothing.
    (tmp_path / "models" / "__init__.py").unlink()
    assert "ManifestError" in run("import tagmask; tagmask.open('x')", tmp_path)


def test_functions_have_signatures_and_docstrings_for_editors() -> None:
    for function in (tagmask.load, tagmask.open):
        assert function.__doc__
        signature = inspect.signature(function)
        assert "**" not in str(signature)
        assert all(one.annotation is not one.empty for one in signature.parameters.values())
