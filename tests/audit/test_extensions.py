"""An audit covers the shards that were added to a run, and finds any change of their record."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.verify import main
from pipeline.audit.verdict import Check
from pipeline.audit.verify import list_run
from pipeline.inputs.shards import list_shards
from tests.audit.published import CONFIG, audit, get_examples, list_keys, make_image, make_rows, publish
from tests.factories import make_run, make_tar

NUM_EXTENSIONS = 2


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Output folder of a run of two shards, and of two more that were added one by one."""
    out = publish(tmp_path, num_shards=2)
    for number in range(2, 2 + NUM_EXTENSIONS):
        # Sorted before those that the run has.
        path = tmp_path / "inputs" / f"-{number}.tar"
        make_tar(path, {key: {"jpg": make_image(key), "json": b"{}"} for key in list_keys(number)})
        rows = {shard: make_rows(list_keys(number)) for shard in list_shards([str(path)])}
        make_run(str(out), ["cat", "dog"], rows, CONFIG, extend=True)
    return out


def test_extended_run_is_audited_whole_and_in_the_order_of_its_record(out: Path) -> None:
    verdict = audit(out)
    assert (verdict.findings, verdict.num_published) == ({}, 4)
    listing = list_run(str(out))
    assert [item.shard.name for item in listing.published] == ["0", "1", "-2", "-3"]
    assert [item.position for item in listing.published] == [0, 1, 2, 3]


def test_shard_of_an_extension_without_a_manifest_is_not_begun(out: Path) -> None:
    (out / "labels" / "-3.parquet").unlink()
    assert get_examples(audit(out), Check.SHARD_NOT_BEGUN) == ["-3"]


def edit(path: Path, name: str, value: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fingerprint", "0" * 64),
        ("previous_sha256", "0" * 64),
        ("record_sha256", "0" * 64),
        ("library_version", "9.9"),
        ("inputs", []),
        ("inputs", 7),
        ("inputs", [["a.tar"]]),
        ("manifests", []),
        ("more", 1),
    ],
)
def test_changed_field_of_an_extension_is_named(
    out: Path, number: int, name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(out / "extensions" / f"00000{number}.json", name, value)
    examples = get_examples(audit(out), Check.CHANGED_EXTENSION)
    assert any(f"00000{number}.json" in example for example in examples)
    assert main(["--labels", str(out)]) == 1
    assert "the books do not balance: extension changed" in capsys.readouterr().out


def test_changed_size_of_an_added_shard_is_named(out: Path) -> None:
    path = out / "extensions" / "000001.json"
    inputs = json.loads(path.read_text())["inputs"]
    inputs[0][2] += 1
    edit(path, "inputs", inputs)
    assert audit(out).failed_checks[0] == Check.CHANGED_EXTENSION


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", "[" * 100_000, '{"inputs": NaN}'])
def test_extension_that_is_none_is_named_and_the_others_are_audited(out: Path, content: str) -> None:
    (out / "extensions" / "000002.json").write_text(content)
    verdict = audit(out)
    assert "000002.json cannot be read" in get_examples(verdict, Check.CHANGED_EXTENSION)[0]
    assert verdict.num_published == 3
    assert "labels/-3.parquet" in get_examples(verdict, Check.FOREIGN_FILE)[0]


def test_missing_extension_is_named(out: Path) -> None:
    (out / "extensions" / "000001.json").unlink()
    assert "000002.json follows number 0" in get_examples(audit(out), Check.CHANGED_EXTENSION)[0]


def test_last_extension_that_is_missing_shows_by_its_manifests(out: Path) -> None:
    (out / "extensions" / "000002.json").unlink()
    assert "labels/-3.parquet" in get_examples(audit(out), Check.FOREIGN_FILE)[0]


def test_foreign_file_among_the_extensions_is_named(out: Path) -> None:
    (out / "extensions" / "copy of 000002.json").write_text("{}")
    assert "copy of 000002.json is not the name" in get_examples(audit(out), Check.CHANGED_EXTENSION)[0]


def test_extension_that_adds_a_shard_again_is_named(out: Path) -> None:
    first, second = (out / "extensions" / f"00000{number}.json" for number in (1, 2))
    edit(second, "inputs", json.loads(first.read_text())["inputs"])
    examples = get_examples(audit(out), Check.CHANGED_EXTENSION)
    assert any("2 shards have the name '-2'" in example for example in examples)
