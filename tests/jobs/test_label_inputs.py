"""Inputs that the labelling job refuses before anything expensive: one line, exit code 2, nothing written."""

import json
from pathlib import Path

import pytest
import ray

from jobs import label, train

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command line whose shards are pointers and whose model does not exist."""
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(LFS_POINTER)
    (tmp_path / "v.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    return ["--shards", f"{tmp_path}/*.tar", "--vocabulary", f"{tmp_path}/v.json", "--out", f"{tmp_path}/out"]


def test_shards_that_are_pointers_are_refused_once_before_the_model_is_loaded(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ray_of_other_tests = ray.is_initialized()
    assert label.main([*words, "--model", f"{tmp_path}/nowhere"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"error: shard '{tmp_path}/0.tar' is no tar archive: it is a Git LFS pointer, which holds for 3 of 3 shards "
        "looked at; run 'git lfs pull' in its repository to get the content\n"
    )
    assert not (tmp_path / "out").exists()
    assert ray.is_initialized() == ray_of_other_tests


def test_training_refuses_shards_that_are_pointers(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--recipe", "v2", *words]) == 2
    assert "it is a Git LFS pointer, which holds for 3 of 3 shards looked at" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--shards", "--vocabulary", "--model", "--out"])
def test_unknown_scheme_of_any_option_is_one_line(
    tmp_path: Path, words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.tar").write_bytes(bytes(10240))
    assert label.main([*words, "--model", "S4://b/model", option, "S4://b/a"]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0].endswith("has the unknown scheme 's4'; did you mean 's3://'?")


def test_files_passed_over_are_a_warning_of_the_job(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert label.main([*words, "--shards", str(tmp_path), "--model", f"{tmp_path}/nowhere"]) == 2
    assert capsys.readouterr().err.startswith(
        f"warning: '{tmp_path}': passed over 1 file (*.json: 1, such as '{tmp_path}/v.json')\nerror: "
    )
