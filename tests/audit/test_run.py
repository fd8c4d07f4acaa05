"""An audit checks run.json and the files that it names, and one hostile file does not affect the others."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.verify import main
from pipeline.audit.keys import compare_keys
from pipeline.audit.run import check_model
from pipeline.audit.shard import verify_shard
from pipeline.audit.verdict import MAX_EXAMPLES, Check, Problem, judge_shard
from pipeline.audit.verify import FULL, judge_model, list_run, verify_run
from pipeline.commit.encoding import FOOTER_KEY
from pipeline.inputs.shards import list_shards
from pipeline.run.records import MANIFEST_SCHEMA
from pipeline.run.run_file import list_differences, read_run
from tests.factories import make_rejected_row, make_run, make_tar, save_small_model
from tests.mutations import Output, label_photos, write_groups


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    return label_photos(tmp_path_factory.mktemp("audited"))


def audit_manifest(output: Any, manifest: Any) -> dict[str, Any]:
    """First example of each failed check of a manifest."""
    Path(output.item.manifest_uri).write_bytes(manifest)
    try:
        verdict = verify_shard(output.item, output.rules)
    finally:
        Path(output.item.manifest_uri).write_bytes(output.manifest)
    return {check: finding.examples[0].text for check, finding in verdict.findings.items()}


def write_manifest(output: Any, **options: Any) -> bytes:
    """Write the rows of an intact manifest again with other options of the Parquet writer."""
    file = pq.ParquetFile(io.BytesIO(output.manifest))
    schema = MANIFEST_SCHEMA.with_metadata(file.schema_arrow.metadata)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, **options) as writer:
        for index in range(file.num_row_groups):
            writer.write_table(file.read_row_group(index).cast(schema))
    return sink.getvalue()


def read_groups(output: Output) -> list[pa.Table]:
    """Row groups of an intact manifest, with its texts."""
    file = pq.ParquetFile(io.BytesIO(output.manifest))
    schema = MANIFEST_SCHEMA.with_metadata(file.schema_arrow.metadata)
    return [file.read_row_group(index).cast(schema) for index in range(file.num_row_groups)]


def test_manifest_in_another_encoding_with_checksums_is_the_same_manifest(output: Output) -> None:
    assert audit_manifest(output, write_manifest(output, compression="snappy", write_page_checksum=True)) == {}


def test_manifest_without_checksums_of_its_pages_is_named(output: Output) -> None:
    found = audit_manifest(output, write_manifest(output, compression="zstd"))
    assert found.keys() == {Check.UNREADABLE_MANIFEST}
    assert "has no checksum" in found[Check.UNREADABLE_MANIFEST]


@pytest.mark.parametrize("name", ["quality", "error", "class_ids", "class_maps", "width"])
def test_manifest_without_any_of_its_columns_is_named(output: Output, name: str) -> None:
    file = pq.ParquetFile(io.BytesIO(output.manifest))
    groups = [file.read_row_group(index).drop_columns([name]) for index in range(file.num_row_groups)]
    footer = file.schema_arrow.metadata[FOOTER_KEY].decode()
    found = audit_manifest(output, write_groups(groups, groups[0].schema, footer))
    assert f"lacks the columns ['{name}']" in found[Check.UNREADABLE_MANIFEST]


def test_bound_of_a_column_that_is_not_its_greatest_value_is_named(output: Output) -> None:
    """DuckDB and other readers skip row groups by these bounds."""
    start = len(output.manifest) - 8 - int.from_bytes(output.manifest[-8:-4], "little")
    # The greatest key of the first row group, as its footer has it.
    place = output.manifest.index(b"photo4", start)
    found = audit_manifest(output, output.manifest[:place] + b"photo2" + output.manifest[place + 6 :])
    assert found.keys() == {Check.WRONG_STATISTICS}
    assert "column 'key': max_value" in found[Check.WRONG_STATISTICS]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"chunks": [[6, 100], [6, 200]]}, "it names the chunks"),
        ({"chunks": [[5, 16896], [5, 32256], [2, 32256]]}, "its chunks end at"),
        ({"chunks": [[5, 16384], [5, 32256], [2, 39936]]}, "a chunk starts at 16384, in the input at"),
        ({"chunks": [[5, 17920], [5, 33280], [2, 40448]]}, "the last chunk ends at 40448, in the input at"),
        ({"shards": 1}, "it has the fields ['shards']"),
        ({"library_version": 7}, "library_version 7"),
        ({"retries": ["again"]}, "retries ['again']"),
    ],
)
def test_footer_that_is_not_that_of_its_rows_and_input_is_named(
    output: Output, fields: dict[str, list[list[int] | str] | int], words: str
) -> None:
    file = pq.ParquetFile(io.BytesIO(output.manifest))
    footer = json.loads(file.schema_arrow.metadata[FOOTER_KEY])
    groups = read_groups(output)
    assert audit_manifest(output, write_groups(groups, groups[0].schema, json.dumps(footer))) == {}
    found = audit_manifest(output, write_groups(groups, groups[0].schema, json.dumps(footer | fields)))
    assert found.keys() == {Check.WRONG_FOOTER}
    assert words in found[Check.WRONG_FOOTER]


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("tagmask_classes", b'"cat"', b'"cow"'),
        ("tagmask_classes", b"128", b"127"),
        ("huggingface", b'"cat", "dog"', b'"dog", "cat"'),
        ("huggingface", b'"Image"', b'"Value"'),
        ("huggingface", b", ", b","),
    ],
)
def test_class_names_and_colours_that_are_not_those_of_the_vocabulary_are_named(
    output: Output, key: str, before: bytes, after: bytes
) -> None:
    """Every reader of masks names and colours classes by these texts."""
    groups = read_groups(output)
    texts = groups[0].schema.metadata
    footer = texts[FOOTER_KEY].decode()
    changed = texts | {key.encode(): texts[key.encode()].replace(before, after)}
    assert changed != texts
    found = audit_manifest(output, write_groups(groups, groups[0].schema.with_metadata(changed), footer))
    assert f"another text '{key}' than that of its vocabulary" in found[Check.UNREADABLE_MANIFEST]
    del changed[key.encode()]
    found = audit_manifest(output, write_groups(groups, groups[0].schema.with_metadata(changed), footer))
    assert "carries the texts" in found[Check.UNREADABLE_MANIFEST]


def test_manifest_of_an_earlier_version_without_digests_is_verified_as_it_is(output: Output, tmp_path: Path) -> None:
    file = pq.ParquetFile(io.BytesIO(output.manifest))
    footer = json.loads(file.schema_arrow.metadata[FOOTER_KEY])
    del footer["rows_sha256"]
    groups = read_groups(output)
    assert audit_manifest(output, write_groups(groups, groups[0].schema, json.dumps(footer))) == {}

    record = json.loads((output.folder / "out" / "run.json").read_text())
    del record["record_sha256"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert list_run(str(tmp_path)).record.faults == ()
    assert list_differences(read_run(str(tmp_path)), record) == []


@pytest.mark.parametrize(
    "path",
    [
        ("model_uri",),
        ("library_version",),
        ("model_digest",),
        ("fingerprint",),
        ("config", "maps", "foreground_threshold"),
        ("vocabulary", "classes", 0),
        ("inputs", 0, 3),
    ],
)
def test_any_other_field_of_run_json_is_named(
    output: Output, tmp_path: Path, path: tuple[str | int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((output.folder / "out" / "run.json").read_text())
    holder = record
    for name in path[:-1]:
        holder = holder[name]
    value = holder[path[-1]]
    holder[path[-1]] = value / 2 if isinstance(value, float) else f"{value}0"
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert Check.CHANGED_RUN in list_run(str(tmp_path)).verdict.failed_checks
    assert main(["--labels", str(tmp_path)]) == 1
    assert "run.json changed" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[" * 100_000, '{"inputs": ' * 5_000, "\xff", "[]", '{"inputs": NaN}', "null", ""])
def test_run_json_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    assert main(["--labels", str(tmp_path)]) == 2
    assert "run.json' is not the record of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("config",), []),
        (("config", "maps"), None),
        (("config", "maps", "min_presence"), 10**400),
        (("config", "maps", "foreground_threshold"), "high"),
        (("config", "inputs", "image_column"), 3),
        (("vocabulary", "classes"), 3),
        (("vocabulary", "colours"), {"cat": "#zz0000"}),
        (
            ("vocabulary",),
            {"classes": [str(i) for i in range(300)], "colours": {str(i): "#000000" for i in range(300)}},
        ),
        (("inputs",), [["a.tar"]]),
        (("inputs",), [["a.tar", "a", "many", "e"]]),
        (("model_uri",), None),
    ],
)
def test_run_json_with_values_of_other_types_is_one_line(
    output: Output, tmp_path: Path, path: tuple[str, ...], value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((output.folder / "out" / "run.json").read_text())
    holder = record
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert main(["--labels", str(tmp_path)]) == 2
    assert "run.json' cannot be understood" in capsys.readouterr().err


def test_model_is_held_against_its_digest_if_it_is_there(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    listing = list_run(str(output.folder / "out"))
    assert judge_model(listing)[1] == ""
    assert judge_model(listing)[0].findings == {}
    weights = output.folder / "model" / "model.safetensors"
    payload = weights.read_bytes()
    weights.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    try:
        assert judge_model(listing)[0].failed_checks == [Check.OTHER_MODEL]
        weights.unlink()
        verdict, obstacle = judge_model(listing)
        assert verdict.findings == {}
        assert "is not there" in obstacle
        assert main(["--labels", str(output.folder / "out")]) == 0
        assert "the model was not held against its digest" in capsys.readouterr().out
    finally:
        weights.write_bytes(payload)


@pytest.mark.parametrize("uri", ["strange://bucket/model", "http://127.0.0.1:9/model"])
def test_model_at_a_place_that_cannot_be_read_was_not_looked_at(output: Output, uri: str) -> None:
    record = replace(list_run(str(output.folder / "out")).record, model_uri=uri)
    fault, obstacle = check_model(record)
    assert fault == ""
    assert obstacle.startswith(f"'{uri}' cannot be read: ")


def make_chained_headers(num_headers: int) -> Any:
    """Make a tar whose first member has nested pax headers, for each of which tarfile recurses."""
    header = tarfile.TarInfo("p")
    body = b"11 path=xy\n"
    header.type, header.size = tarfile.XHDTYPE, len(body)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    return (header.tobuf() + body.ljust(512, b"\0")) * num_headers + whole.getvalue()


def test_hostile_input_and_hostile_keys_are_named_and_the_other_shards_go_on(tmp_path: Path) -> None:
    make_tar(tmp_path / "in" / "a.tar", {"x": {"jpg": b"1"}})
    key = "red\x1b[31m\nkey"
    make_tar(tmp_path / "in" / "b.tar", {key: {"jpg": b"1"}}, tarfile.PAX_FORMAT)
    (tmp_path / "in" / "c.tar").write_bytes(make_chained_headers(2000))
    shards = list_shards([str(tmp_path / "in")])
    keys = ["x", "other", "a"]
    out = str(tmp_path / "out")
    make_run(out, ["cat"], {shard: [make_rejected_row(key)] for shard, key in zip(shards, keys, strict=True)})
    verdict = verify_run(list_run(out), FULL)
    assert verdict.num_published == 3
    assert verdict.failed_checks == [Check.INPUT_UNREADABLE, Check.MISSING_ROWS, Check.UNKNOWN_ROWS]
    assert "RecursionError" in verdict.findings[Check.INPUT_UNREADABLE].examples[0].text
    assert verdict.findings[Check.MISSING_ROWS].examples[0].text == "b: key 'red\\x1b[31m\\nkey'"


@pytest.mark.parametrize(
    "error",
    [RecursionError("deep"), MemoryError(), UnicodeError("odd"), AssertionError(), KeyError("k"), SystemError()],
)
def test_error_of_any_type_is_the_verdict_on_its_shard_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in "ab":
        make_tar(tmp_path / "in" / f"{name}.tar", {name: {"jpg": b"1"}})
    shards = list_shards([str(tmp_path / "in")])
    make_run(str(tmp_path / "out"), ["cat"], {shard: [make_rejected_row(shard.name)] for shard in shards})
    read_row_group, failures = pq.ParquetFile.read_row_group, [error]

    def fail_once(*positional: Any, **arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return read_row_group(*positional, **arguments)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", fail_once)
    verdict = verify_run(list_run(str(tmp_path / "out")), FULL)
    assert verdict.failed_checks == [Check.AUDIT_FAILED]
    assert type(error).__name__ in verdict.findings[Check.AUDIT_FAILED].examples[0].text
    assert (verdict.num_shards, verdict.num_published) == (2, 1)


def test_key_that_comes_very_often_takes_no_quadratic_time_and_no_long_report() -> None:
    num_keys = 200_000
    problems = compare_keys("shard", ["x"] * num_keys, ["x"] * (num_keys - 2) + ["y"])
    verdict = judge_shard(0, problems)
    assert {check: found.num_rows for check, found in verdict.findings.items()} == {
        Check.UNKNOWN_ROWS: 1,
        Check.MISSING_ROWS: 2,
    }
    verdict = judge_shard(0, (Problem(Check.UNKNOWN_ROWS, 1, "x" * 10_000) for _ in range(num_keys)))
    assert verdict.findings[Check.UNKNOWN_ROWS].num_rows == num_keys
    assert len(str(verdict.to_dict())) < MAX_EXAMPLES * 1000


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_share_of_rows_that_is_none_is_refused(output: Output, capsys: pytest.CaptureFixture[str], share: str) -> None:
    assert main(["--labels", str(output.folder / "out"), "--sample", share]) == 2
    assert "need --sample from 0 to 1" in capsys.readouterr().err


def test_job_prints_the_share_of_checked_rows(
    output: Output, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = tmp_path / "verdict.json"
    assert main(["--labels", str(output.folder / "out"), "--sample", "0.25", "--json", str(report)]) == 0
    assert "masks and images were looked at in 0.25 of the rows" in capsys.readouterr().out
    assert json.loads(report.read_text())["sample"] == 0.25


def test_manifest_whose_arrow_schema_is_damaged_is_named_though_arrow_may_read_it(output: Output) -> None:
    start = output.manifest.index(b"ARROW:schema")
    for offset in range(20, 3000, 149):
        place = start + offset
        other = b"B" if output.manifest[place : place + 1] == b"A" else b"A"
        damaged = output.manifest[:place] + other + output.manifest[place + 1 :]
        assert audit_manifest(output, damaged).keys() == {Check.UNREADABLE_MANIFEST}, offset


def test_other_model_at_a_relative_path_is_reported_without_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tar(tmp_path / "a.tar", {"x": {"jpg": b"1"}})
    (shard,) = list_shards([str(tmp_path / "a.tar")])
    make_run(str(tmp_path / "out"), ["cat"], {shard: [make_rejected_row("x")]})
    save_small_model(str(tmp_path / "model"))
    monkeypatch.chdir(tmp_path)
    verdict, obstacle = judge_model(list_run("out"))
    assert verdict.findings == {}
    assert "relative path" in obstacle
