"""Data sets as tools read them that nobody here wrote. These tools run in an environment of their own, `.venv/readers`.

`make test` builds it from `tests/readers/requirements.txt`; the programs are beside that file.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv" / "readers" / "bin" / "python"
TIMEOUT_S = 200


def run_reader(program: str, **arguments: Any) -> Any:
    """Run `tests/readers/PROGRAM.py` with JSON arguments; return the JSON value that it prints."""
    assert PYTHON.exists(), "the readers of other projects are not installed; run make .venv/readers/.stamp"
    command = [str(PYTHON), "-I", str(ROOT / "tests" / "readers" / f"{program}.py")]
    done = subprocess.run(
        command, input=json.dumps(arguments), capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def count_pixels_by_datumaro(folder: str | Path, form: str) -> dict[str, dict[str, int]]:
    """Read a data set with datumaro.

    Args:
        folder: Of the data set.
        form: Name of its format in datumaro: voc_segmentation, coco_instances and so on.

    Returns:
        For each item, by its split and id, the number of pixels by class name.
    """
    counts: dict[str, dict[str, int]] = run_reader("datumaro_pixels", folder=str(folder), form=form)
    return counts
