"""What a user of --extend reads. Dry runs, which start no Ray."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.label import main, parse_command
from pipeline.bundles import load_bundle
from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.label import label_run
from pipeline.run.config import settle_config
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import load_vocabulary
from tests.factories import make_photo, make_tar
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS, read_all


def write_command(folder: Path, inputs: Path, numbers: str, *others: Path) -> list[str]:
    """Words of a dry command on shards by number, and on other inputs."""
    (folder / "vocabulary.json").write_text(json.dumps({"classes": ["cat", "dog"], "aliases": {"cat": ["kitty"]}}))
    words = ["--shards", *(str(inputs / f"photos-{number}.tar") for number in numbers), *map(str, others)]
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
    return label_shards(write_command(tmp_path, small_inputs, "1"))


def label_shards(words: list[str]) -> Path:
    """Carry a command out without Ray; returns its output folder."""
    job = parse_command(words)
    model, _, digest = load_bundle(job.model)
    run = open_run(
        out_uri=job.out,
        model_uri=job.model,
        model_digest=digest,
        vocabulary=load_vocabulary(job.vocabulary),
        config=settle_config(job.config, model.config.grid_side),
        shards=find_inputs(
            job.shards, job.config.inputs, IndexPlace(f"{job.out}/inputs", is_begun=False), print, print
        ),
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


def make_tagged_tar(path: Path, tags: object) -> Path:
    """Write a shard of three photos with the same tags."""
    sample = {"jpg": make_photo(1), "json": json.dumps({"tags": tags}).encode()}
    return make_tar(path, {f"{path.stem}-{number}": sample for number in range(3)})


@pytest.mark.parametrize("place", [0, 1, 2])
def test_new_shard_whose_tags_cannot_be_read_is_refused_before_it_is_added(
    small_inputs: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    before = read_all(str(out))
    new = [make_tagged_tar(tmp_path / f"{number}.tar", 1 if number == place else "cat") for number in range(3)]
    command = [word for word in write_command(tmp_path, small_inputs, "1", *new) if word != "--dry-run"]
    assert main([*command, "--extend"]) == 2
    assert f"{place}.tar': tags of each of the first 3 samples cannot be read" in capsys.readouterr().err
    assert read_all(str(out)) == before


def test_new_shards_without_known_tags_are_a_warning_each_up_to_a_number(
    small_inputs: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = [make_tagged_tar(tmp_path / f"{number}.tar", "cat|dog" if number else "cat") for number in range(6)]
    assert main([*write_command(tmp_path, small_inputs, "1", *new), "--extend"]) == 0
    printed = capsys.readouterr().err
    assert printed.count("no known tag") == 3
    assert "/3.tar'" in printed
    assert "'cat|dog'" in printed
    assert "and 2 more warnings about tags of other shards" in printed
    # The shards that the run has are not looked at again.
    assert "photos-1.tar" not in printed


def test_new_archive_that_is_none_is_refused_before_it_is_added(
    small_inputs: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.tar").write_text("<!DOCTYPE html><html></html>")
    assert main([*write_command(tmp_path, small_inputs, "1", tmp_path / "page.tar"), "--extend"]) == 2
    assert "page.tar' is no tar archive: it is" in capsys.readouterr().err


def test_dry_run_on_a_folder_that_grew_prints_what_it_would_add_and_writes_nothing(
    small_inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    (photos / "cat").mkdir(parents=True)
    (photos / "cat/1.jpg").write_bytes(make_photo(1))
    command = write_command(tmp_path, small_inputs, "", photos)
    out = label_shards(command)
    before = read_all(str(out))
    (photos / "cow").mkdir()
    (photos / "cow/2.jpg").write_bytes(make_photo(2))
    capsys.readouterr()
    assert main([*command, "--extend"]) == 0
    printed = capsys.readouterr()
    assert "1 of 2 rows are new, 1 of these with tags" in printed.out
    assert "--extend would add 1 index shards to the 1 of the run" in printed.out
    assert "to do: about 1 images in 1 chunks" in printed.out
    assert "no known tag" in printed.err
    assert "'cow'" in printed.err
    assert main(command) == 0
    assert "using the list of 1 images that this run has; --extend would list them again" in capsys.readouterr().out
    assert read_all(str(out)) == before


def test_folder_is_not_added_to_a_run_of_shards_nor_a_shard_to_that_of_a_folder(
    small_inputs: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    (photos / "cat").mkdir(parents=True)
    (photos / "cat/1.jpg").write_bytes(make_photo(1))
    for numbers in ("", "1"):
        assert main([*write_command(tmp_path, small_inputs, numbers, photos), "--extend"]) == 2
        assert "label shards and collections under two --out" in capsys.readouterr().err
    words = [*write_command(tmp_path, small_inputs, "", photos), "--out", str(tmp_path / "other")]
    label_shards(words)
    for others, message in (((), "name the old ones, too"), ((photos,), "under two --out")):
        command = [*write_command(tmp_path, small_inputs, "1", *others), "--out", str(tmp_path / "other"), "--extend"]
        assert main(command) == 2
        assert message in capsys.readouterr().err
