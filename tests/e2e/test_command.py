"""The command `tagmask` from a folder that holds packages named as ours, with workers on a real local Ray."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_label_job import inputs, list_arguments  # noqa: F401

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
SCRIPT = "import sys\nfrom tagmask.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
"""What pip writes for `[project.scripts]`."""


@pytest.fixture
def user_folder(tmp_path):
    """A folder as users have them: packages with and without `__init__.py`, which no process of ours may import."""
    for name in ("models", "pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('{name} of the user was imported')\n")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "label.py").write_text("raise RuntimeError('jobs of the user was imported')\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tagmask").write_text(SCRIPT)
    return tmp_path


def test_command_finds_our_packages_in_a_folder_with_others_of_their_names(inputs, user_folder):  # noqa: F811
    # An empty entry, as a trailing colon leaves it, is the current folder.
    search_path = f"{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "bin/tagmask", "label", *list_arguments(inputs, "masks", "--workers", "1")],
        cwd=user_folder,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((user_folder / "masks" / "labels").glob("*.parquet"))) == 3
