"""The commands of the quickstart, as they stand, and the picture of the README, drawn of what they make."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the commands of the project are found, as after its installation."""
    folder = tmp_path_factory.mktemp("bin")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name, entry in scripts.items():
        module, _, function = entry.partition(":")
        script = folder / name
        script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        script.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def outputs(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder in which every block of the quickstart was run, and what each of them printed."""
    blocks = BLOCK.findall((ROOT / "docs" / "quickstart.md").read_text())
    assert len(blocks) == 5
    folder = tmp_path_factory.mktemp("quickstart")
    printed = []
    for block in blocks:
        command = ("bash", "-euo", "pipefail", "-c", block)
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=840
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        printed.append(done.stdout)
    return folder, printed


def test_every_block_of_the_quickstart_succeeds_and_leaves_what_the_page_promises(
    outputs: tuple[Path, list[str]],
) -> None:
    folder, printed = outputs
    promised = ("model/bundle", "model/metrics.jsonl", "model/training.html", "report.html", "scores.html")
    assert [path for path in promised if not (folder / path).exists()] == []
    assert printed[-1].startswith("photos00000 [")


def test_picture_of_the_readme_is_drawn_of_a_run(outputs: tuple[Path, list[str]], tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("draw_example", ROOT / "docs" / "draw_example.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder, _ = outputs
    module.draw_example(str(folder / "masks"), folder / "demo" / "photos", "photos00104", tmp_path / "drawn.png")
    committed = ROOT / "docs" / "example.png"
    assert Image.open(tmp_path / "drawn.png").size == Image.open(committed).size
    assert committed.stat().st_size < 150_000
