"""`python -m jobs.verify` on a run of a folder of images: what it prints of the index, and its exit code."""

import json
from pathlib import Path

import pytest

from jobs.verify import main
from tests.audit.collections.test_judge import write_class_folders
from tests.collections.forms import find
from tests.factories import make_rejected_row, make_run

KEYS = [f"train/{path}.jpg" for path in ("cat/a", "cat/c", "cat/e", "dog/b", "dog/d")]


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    """A run of class folders, of which no image is labelled."""
    shards, _ = find(write_class_folders(tmp_path / "photos"), tmp_path / "out/inputs")
    make_run(str(tmp_path / "out"), ["cat"], {shard: [make_rejected_row(key) for key in KEYS] for shard in shards})
    return str(tmp_path / "out")


def test_verify_job_prints_what_was_compared_and_passed_over(run_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--labels", run_uri]) == 0
    printed = capsys.readouterr().out
    assert "5 rows of the index were compared with the collection, which was listed again\n" in printed
    assert "  passed over: 1 *.md\n" in printed


def test_verify_job_fails_on_a_count_that_the_lister_lost(run_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(run_uri, "inputs/index.json")
    record = json.loads(path.read_text())
    del record["passed_over"]["broken links"]
    path.write_text(json.dumps(record))
    assert main(["--labels", run_uri]) == 1
    printed = capsys.readouterr().out
    assert "states broken links: 0; the collection has 1, such as 'gone.jpg'" in printed
    assert printed.endswith("the books do not balance: image not in the index\n")
    assert main(["--labels", run_uri, "--footers-only"]) == 0


def test_verify_job_goes_on_without_the_collection_and_says_so(
    run_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    verdict = tmp_path / "verdict.json"
    assert main(["--labels", run_uri, "--sample", "0", "--json", str(verdict)]) == 0
    line = f"the index was not compared with its collection: '{tmp_path}/photos' is gone"
    assert line in capsys.readouterr().out
    assert len(json.loads(verdict.read_text())["collections_not_checked"]) == 1
