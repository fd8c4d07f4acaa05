"""The command line of every job: help, old names of flags, and what is imported before the job runs."""

import dataclasses
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest

from jobs import (
    calibrate,
    demo,
    evaluate,
    export,
    import_checkpoint,
    import_masks,
    label,
    remask,
    report,
    review,
    status,
    train,
    verify,
)
from jobs.command_line.commands import COMMANDS, main
from jobs.command_line.parsing import Usage, parse

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "timm", "ray", "pyarrow")
JOB_TYPES = {
    "label": label.LabelJob,
    "train": train.TrainJob,
    "evaluate": evaluate.EvaluateJob,
    "remask": remask.RemaskJob,
    "calibrate": calibrate.CalibrateJob,
    "report": report.ReportJob,
    "export": export.ExportJob,
    "review": review.ReviewJob,
    "import-masks": import_masks.ImportMasksJob,
    "status": status.StatusJob,
    "verify": verify.VerifyJob,
    "import-checkpoint": import_checkpoint.ImportJob,
    "demo": demo.DemoJob,
}
LABEL = ("--shards", "a.tar", "--vocabulary", "v.json", "--model", "m", "--out", "o")
REMASK = ("--labels", "l", "--out", "o")
VERIFY = ("--labels", "l")


def list_options(job_type: Any) -> Iterator[Any]:
    """List the fields that are options, those of groups too, as name and type."""
    filled_in = {item.name for item in dataclasses.fields(job_type) if "is_filled_in" in item.metadata}
    for name, hint in get_type_hints(job_type, include_extras=True).items():
        if name in filled_in:
            continue
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(kind):
            yield from list_options(kind)
        else:
            yield name, kind


def read_help(capsys: pytest.CaptureFixture[str], name: str, flag: str = "--help") -> Any:
    with pytest.raises(SystemExit) as stop:
        main([name, flag])
    assert stop.value.code == 0
    return capsys.readouterr().out


def list_shown(text: str) -> set[Any]:
    """List the options of a help text by the names of their fields."""
    # In a frame, or without one where the terminal has no characters for it.
    flags = re.findall(r"^[│ ] --([a-z][\w.-]*)", text, re.MULTILINE)
    return {flag.rpartition(".")[2].replace("-", "_") for flag in flags}


def parse_remask(words: list[str]) -> Any:
    return parse(remask.RemaskJob, Usage(command="remask", description=None, renamed=remask.RENAMED), words)


def parse_verify(words: list[str]) -> Any:
    return parse(verify.VerifyJob, Usage(command="verify", description=None, renamed=verify.RENAMED), words)


def test_every_job_is_a_command_and_has_options() -> None:
    modules = {path.stem for path in (ROOT / "jobs").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert {name.replace("-", "_") for name in COMMANDS} == modules
    assert JOB_TYPES.keys() == COMMANDS.keys()


def test_help_of_every_command_imports_neither_torch_nor_ray_nor_arrow() -> None:
    program = f"""
import sys
from jobs.command_line.commands import COMMANDS, main
for name in COMMANDS:
    for flag in ("--help", "--help-all", "--no-such-option"):
        try:
            main([name, flag])
        except SystemExit as stop:
            assert stop.code == (2 if flag == "--no-such-option" else 0), (name, flag)
loaded = [module for module in {HEAVY} if module in sys.modules]
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_list_of_commands_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, purpose in COMMANDS.items():
        assert sum(line.split() == [name, *purpose.split()] for line in lines) == 1


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "tagmask 0.1.0\n"


def test_command_without_words_is_wrong_and_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "usage: tagmask COMMAND" in printed.err


def test_misspelt_command_is_refused_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lable", "--shards", "a.tar"]) == 2
    assert capsys.readouterr().err == "error: 'lable' is not a command of tagmask; did you mean 'label'?\n"


def test_command_that_resembles_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzy"]) == 2
    assert "tagmask --help lists the commands" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["label", "train", "remask"])
def test_help_shows_common_options_and_all_of_them_on_demand(capsys: pytest.CaptureFixture[str], name: str) -> None:
    short, whole = read_help(capsys, name), read_help(capsys, name, "--help-all")
    assert list_shown(short) == importlib.import_module(f"jobs.{name}").BASIC
    assert list_shown(whole) == {option for option, _ in list_options(JOB_TYPES[name])}
    assert "--help-all shows all" in short
    assert "--help-all shows all" not in whole


@pytest.mark.parametrize(("name", "expert"), [("label", "--stall-timeout-s"), ("train", "--drop-path")])
def test_expert_option_is_hidden_and_can_be_given_all_the_same(
    capsys: pytest.CaptureFixture[str], name: str, expert: str
) -> None:
    assert expert not in read_help(capsys, name)
    assert expert in read_help(capsys, name, "--help-all")
    assert label.parse_command([*LABEL, "--stall-timeout-s", "7"]).execution.stall_timeout_s == 7


@pytest.mark.parametrize("name", JOB_TYPES)
def test_switches_of_every_command_are_a_flag_and_its_negation(capsys: pytest.CaptureFixture[str], name: Any) -> None:
    whole = read_help(capsys, name, "--help-all")
    assert "True,False" not in whole
    for option, kind in list_options(JOB_TYPES[name]):
        if kind is bool or bool in get_args(kind):
            assert f"no-{option.replace('_', '-')}" in whole


@pytest.mark.parametrize(
    ("parse_words", "old", "new", "hints"),
    [
        (label.parse_command, "--num-actors 3", "--workers 3", "--num-actors is now --workers"),
        (label.parse_command, "--num_actors=3", "--workers 3", "--num-actors is now --workers"),
        (
            label.parse_command,
            "--gpus-per-actor 0.5",
            "--gpus-per-worker 0.5",
            "--gpus-per-actor is now --gpus-per-worker",
        ),
        (label.parse_command, "--cpus-per-actor 2", "--cpus-per-worker 2", "--cpus-per-actor is now --cpus-per-worker"),
        (label.parse_command, "--store-outage 0", "--store-outage-s 0", "--store-outage is now --store-outage-s"),
        (
            label.parse_command,
            "--no-progress-timeout 9",
            "--no-progress-timeout-s 9",
            "--no-progress-timeout is now --no-progress-timeout-s",
        ),
        (
            parse_remask,
            "--maps.has-background False",
            "--maps.no-has-background",
            "--maps.has-background False is now --maps.no-has-background",
        ),
        (
            parse_remask,
            "--maps.has_background=True",
            "--maps.has-background",
            "--maps.has-background True is now --maps.has-background",
        ),
        (parse_verify, "--report v.json", "--json v.json", "--report is now --json"),
    ],
)
def test_old_name_of_a_flag_means_the_new_one_and_says_so(
    capsys: pytest.CaptureFixture[str], parse_words: Any, old: str, new: str, hints: str
) -> None:
    required = {label.parse_command: LABEL, parse_remask: REMASK, parse_verify: VERIFY}[parse_words]
    expected = parse_words([*required, *new.split()])
    assert capsys.readouterr().err == ""
    assert parse_words([*required, *old.split()]) == expected
    assert capsys.readouterr().err == f"warning: {hints}\n"


def test_run_to_verify_may_be_named_by_the_old_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_verify(["--out", "l"]) == parse_verify(VERIFY)
    assert capsys.readouterr().err == "warning: --out is now --labels\n"


def test_masks_have_background_as_they_had_unless_said() -> None:
    flags = ([], ["--maps.has-background"], ["--maps.no-has-background"])
    assert [parse_remask([*REMASK, *words]).maps.has_background for words in flags] == [None, True, False]


@pytest.mark.parametrize("words", [("--gpus-per-worker", "some"), ("--device", "tpu")])
def test_value_that_cannot_be_read_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        label.parse_command([*LABEL, *words])
    assert words[0] in capsys.readouterr().err


def test_value_out_of_range_is_refused_in_one_line_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", *LABEL, "--limit", "0"]) == 2
    assert capsys.readouterr().err == "error: need --limit >= 1, got 0\n"


def test_misspelt_flag_is_refused_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_verify([*VERIFY, "--sampel", "0.5"])
    printed = capsys.readouterr().err
    assert "--sampel" in printed
    assert "--sample FLOAT" in printed


@pytest.mark.parametrize(
    ("command", "program"), [(["jobs.verify"], "python -m jobs.verify"), (["tagmask", "verify"], "tagmask verify")]
)
def test_help_names_the_program_as_it_was_called(command: list[str], program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith(f"usage: {program} ")


def test_schemes_in_capitals_are_written_in_lower_case_everywhere() -> None:
    words = ["--shards", "S3://Bucket/A.tar", "@GS://b/List.txt", "Photos.tar", "--vocabulary=HTTPS://Host/V.json"]
    job = label.parse_command([*words, "--model", "SimpleCache::S3://b/M", "--out", "S3A://b/Out"])
    assert job.shards == ("s3://Bucket/A.tar", "@gs://b/List.txt", "Photos.tar")
    assert (job.vocabulary, job.model, job.out) == ("https://Host/V.json", "simplecache::s3://b/M", "s3a://b/Out")


@pytest.mark.parametrize(
    ("uri", "missing"),
    [("file://", "file"), ("s3://", "bucket"), ("S3:///a.tar", "bucket"), ("sftp:///a", "host")],
)
def test_uri_without_bucket_or_host_is_refused_and_lists_no_folder(uri: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"'{uri}' names no {missing}; write it after '"):
        label.parse_command([*LABEL[:-1], uri])


def test_uri_that_lacks_a_slash_is_refused_and_not_taken_for_a_local_folder() -> None:
    with pytest.raises(ValueError, match=r"one slash after 'file:'; write 'file:///nowhere/a.tar'"):
        label.parse_command([*LABEL[:-1], "file:/nowhere/a.tar"])
    with pytest.raises(ValueError, match=r"'S3:/b/out' has one slash after 's3:'; write 's3://b/out'"):
        label.parse_command([*LABEL[:-1], "S3:/b/out"])
