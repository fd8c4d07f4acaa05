"""What a user of --extend reads. Dry runs, which start no Ray."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.label import main, parse_command
from pipeline.bundles import load_bundle
from pipeline.inputs.shards import list_shards
from pipeline.label import label_run
from pipeline.run.config import settle_config
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import load_vocabulary
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS, read_all


def write_command(folder: Path, inputs: Path, numbers: str) -> list[str]:
    """Words of a dry command on shards by number."""
    (folder / "vocabulary.json").write_text(json.dumps({"classes": ["cat", "dog"], "aliases": {"cat": ["kitty"]}}))
    words = ["--shards", *(str(inputs / f"photos-{number}.tar") for number in numbers)]
    words += ["--vocabulary", f"{folder}/vocabulary.json", "--model", f"{inputs}/model", "--out", f"{folder}/out"]
    return [*words, "--views.num-patches", "16", "--dry-run"]


@pytest.fixture
def run_label(small_inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a dry command on shards by number; returns its output."""

    def run(numbers: str, *options: str, code: int = 0) -> str:
        assert main([*write_command(tmp_path, small_inputs, numbers), *options]) == code
        printed = capsys.readouterr()
        return printed.out if code == 0 else printed.err

    return run


@pytest.fixture
def out(small_inputs: Path, tmp_path: Path) -> Path:
    """Output folder of a published run of one shard, with the settings of the command."""
    job = parse_command(write_command(tmp_path, small_inputs, "1"))
    model, _, digest = load_bundle(job.model)
    run = open_run(
        out_uri=job.out,
        model_uri=job.model,
        model_digest=digest,
        vocabulary=load_vocabulary(job.vocabulary),
        config=settle_config(job.config, model.config.grid_side),
        shards=list_shards(job.shards),
    )
    label_run(run, OPTIONS, cluster=SerialCluster())
    return Path(job.out)


def test_new_shard_without_the_option_is_refused_with_its_name(run_label: Callable[..., str], out: Path) -> None:
    printed = run_label("01", code=2)
    assert "has 1 shards and lacks 1 that this command lists, such as" in printed
    assert "photos-0.tar'; add --extend" in printed


@pytest.mark.parametrize("numbers", ["01", "0"])
def test_dry_run_prints_what_it_would_add_and_writes_nothing(
    run_label: Callable[..., str], out: Path, numbers: str
) -> None:
    before = read_all(str(out))
    printed = run_label(numbers, "--extend")
    assert "--extend would add 1 shards to the 1 of the run" in printed
    assert "2 shards" in printed
    assert ": 1 published, 1 to do" in printed
    assert ("1 shards that this command does not name; they stay" in printed) == (numbers == "0")
    assert read_all(str(out)) == before


def test_nothing_new_is_said_so(run_label: Callable[..., str], out: Path) -> None:
    printed = run_label("1", "--extend")
    assert "--extend adds nothing: the run in" in printed
    assert ": 1 published, 0 to do" in printed


def test_missing_run_would_be_started(run_label: Callable[..., str], tmp_path: Path) -> None:
    printed = run_label("01", "--extend")
    assert "yet: this command would start one of 2 shards" in printed
    assert not (tmp_path / "out").exists()


def test_retry_and_extension_in_one_command_are_refused(run_label: Callable[..., str], out: Path) -> None:
    assert "run --extend first, then --retry in a command of its own" in run_label(
        "01", "--extend", "--retry", "rejected", code=2
    )
