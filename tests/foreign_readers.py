"""Runs readers of data sets in an environment of their own, .venv/readers, which `make test` builds."""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv" / "readers" / "bin" / "python"


def count_pixels_by_datumaro(folder: Path, format_name: str) -> dict[str, dict[str, int]]:
    """Read a data set by datumaro; pixels of each class name, by the name of the sample."""
    if not PYTHON.exists():
        pytest.skip("no .venv/readers; make test builds it")
    script = ROOT / "tests" / "readers" / "count_pixels.py"
    command = [str(PYTHON), str(script), str(folder), format_name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    counts: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return counts
