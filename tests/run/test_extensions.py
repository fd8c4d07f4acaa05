"""A run grows by a chain of files beside run.json; what is recorded once never changes."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ManifestError, RunConflictError
from pipeline.run.config import LabelConfig, MapConfig
from pipeline.run.extensions import name_added
from pipeline.run.records import InputShard
from pipeline.run.run_file import Run, read_run
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.listing import list_objects
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.factories import start_run as start
from tests.fakes import FaultyStore


def make_shards(names: str, folder: str = "in") -> tuple[InputShard, ...]:
    return tuple(InputShard(uri=f"{folder}/{name}.tar", name=name, size_bytes=1000, etag="e") for name in names)


def extend(out_uri: Any, names: str, **changes: Any) -> Run:
    return start(out_uri, make_shards(names), extend=True, **changes)


def read_all(folder_uri: str) -> dict[str, bytes]:
    return {item.uri.removeprefix(f"{folder_uri}/"): read_bytes(item.uri) for item in list_objects(folder_uri)}


def list_names(run: Run) -> str:
    return "".join(shard.name for shard in run.shards)


def test_extensions_add_to_a_run_and_leave_its_record_as_it_is(folder_uri: str) -> None:
    first = start(folder_uri, make_shards("bd"))
    record = read_all(folder_uri)["run.json"]
    second = extend(folder_uri, "abcd")
    third = extend(folder_uri, "abcde")
    assert [list_names(run) for run in (first, second, third)] == ["bd", "bdac", "bdace"]
    assert {run.fingerprint for run in (first, second, third)} == {first.fingerprint}
    assert [run.num_before for run in (first, second, third)] == [0, 2, 4]
    files = read_all(folder_uri)
    assert sorted(files) == ["extensions/000001.json", "extensions/000002.json", "run.json"]
    assert files["run.json"] == record
    assert [entry[1] for entry in read_run(folder_uri)["inputs"]] == ["b", "d", "a", "c", "e"]


def test_extended_run_resumes_by_the_same_command_with_and_without_the_option(folder_uri: str) -> None:
    start(folder_uri, make_shards("ab"))
    extended = extend(folder_uri, "abc")
    files = read_all(folder_uri)
    assert extend(folder_uri, "abc") == extended
    assert start(folder_uri, make_shards("cba")) == extended
    assert read_all(folder_uri) == files


def test_extension_by_the_new_shards_alone_keeps_the_others(tmp_path: Path) -> None:
    start(tmp_path, make_shards("ab"))
    for _ in range(2):
        assert list_names(extend(tmp_path, "c")) == "abc"
    assert list_names(extend(tmp_path, "b")) == "abc"


def test_bytes_of_an_extension_depend_on_its_content_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        start(tmp_path / name, make_shards("ab"))
        extend(tmp_path / name, "abc")
    assert read_all(str(tmp_path / "one")) == read_all(str(tmp_path / "two"))


def test_new_shards_without_the_option_are_counted_and_refused(tmp_path: Path) -> None:
    start(tmp_path, make_shards("ab"))
    files = read_all(str(tmp_path))
    for names in ("abcd", "cd"):
        with pytest.raises(RunConflictError, match=r"has 2 shards and lacks 2 .* such as 'in/c.tar'; add --extend"):
            start(tmp_path, make_shards(names))
    assert read_all(str(tmp_path)) == files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": (replace(make_shards("a")[0], etag="f"), *make_shards("bc"))}, "shard 'in/a.tar' changed"),
        ({"config": LabelConfig(maps=MapConfig(foreground_threshold=0.6))}, "foreground_threshold was 0.4, is 0.6"),
        ({"vocabulary": Vocabulary(classes=("dog", "cat"))}, "vocabulary.classes was"),
        ({"model_digest": "0" * 64}, "model_digest was 'dddd"),
    ],
)
def test_extension_with_another_change_is_refused_and_writes_nothing(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    start(tmp_path, make_shards("ab"))
    files = read_all(str(tmp_path))
    with pytest.raises(RunConflictError, match=message):
        start(tmp_path, **({"shards": make_shards("abc")} | changes), extend=True)
    assert read_all(str(tmp_path)) == files


def test_added_shard_that_changed_is_refused(tmp_path: Path) -> None:
    start(tmp_path, make_shards("ab"))
    extend(tmp_path, "abc")
    changed = (*make_shards("ab"), replace(make_shards("c")[0], size_bytes=7))
    with pytest.raises(RunConflictError, match="shard 'in/c.tar' changed"):
        start(tmp_path, changed, extend=True)


def test_shard_of_an_extension_that_is_not_listed_is_refused_without_the_option(tmp_path: Path) -> None:
    start(tmp_path, make_shards("ab"))
    extend(tmp_path, "abc")
    with pytest.raises(RunConflictError, match="shard 'in/c.tar' is no longer among the inputs"):
        start(tmp_path, make_shards("ab"))


def test_shard_of_the_run_under_another_uri_is_not_added_again(tmp_path: Path) -> None:
    start(tmp_path, make_shards("ab"))
    moved = make_shards("ab", "moved")
    with pytest.raises(RunConflictError, match=r"'moved/a.tar' has the file name, size and etag of 'in/a.tar'"):
        start(tmp_path, moved, extend=True)
    assert sorted(read_all(str(tmp_path))) == ["run.json"]
    # With both names in one command both are meant, as they are in a new run.
    assert [shard.name[0] for shard in start(tmp_path, (*make_shards("ab"), *moved), extend=True).shards] == list(
        "abab"
    )


@pytest.mark.parametrize("change", [{"etag": "f"}, {"size_bytes": 7}, {"uri": "moved/c.tar"}])
def test_shard_that_shares_some_of_name_size_and_etag_is_added(tmp_path: Path, change: dict[str, Any]) -> None:
    start(tmp_path, make_shards("ab"))
    added = replace(make_shards("a", "moved")[0], **change)
    assert len(start(tmp_path, (added,), extend=True).shards) == 3


def test_shards_without_an_etag_are_not_taken_for_each_other(tmp_path: Path) -> None:
    start(tmp_path, tuple(replace(shard, etag="-0", size_bytes=0) for shard in make_shards("ab")))
    added = replace(make_shards("a", "moved")[0], etag="-0", size_bytes=0)
    assert len(start(tmp_path, (added,), extend=True).shards) == 3


def test_extension_of_an_empty_folder_starts_a_run(tmp_path: Path) -> None:
    assert (list_names(extend(tmp_path, "ab")), sorted(read_all(str(tmp_path)))) == ("ab", ["run.json"])


def test_check_of_an_extension_writes_nothing(tmp_path: Path) -> None:
    start(tmp_path, make_shards("ab"))
    files = read_all(str(tmp_path))
    checked = extend(tmp_path, "abc", writes=False)
    assert (list_names(checked), checked.num_before) == ("abc", 2)
    assert read_all(str(tmp_path)) == files
    assert extend(tmp_path, "abc") == checked


def test_added_shard_of_an_old_name_gets_another_and_the_old_one_keeps_its_own(tmp_path: Path) -> None:
    start(tmp_path, make_shards("ab"))
    # As listed: of two shards with one name both are renamed.
    listed = tuple(
        replace(shard, name=f"{shard.name}-{number}")
        for number, shard in enumerate((*make_shards("ab"), *make_shards("B", "new")))
    )
    names = [shard.name for shard in start(tmp_path, listed, extend=True).shards]
    assert names == ["a", "b", "B-2"]
    names = [shard.name for shard in start(tmp_path, make_shards("A", "new"), extend=True).shards]
    assert names[:3] == ["a", "b", "B-2"]
    assert names[3].startswith("A-")
    assert start(tmp_path, listed, extend=True).shards[1].name == "b"


@given(st.lists(st.sampled_from(["a", "A", "b", "a-1"])), st.lists(st.sampled_from(["a", "A", "b", "c"])))
def test_added_names_are_unique_without_regard_to_case(before: list[str], added: list[str]) -> None:
    recorded = [[f"old/{index}", f"{name}{index}", 1, "e"] for index, name in enumerate(before)]
    listed = [[f"new/{index}", name, 1, "e"] for index, name in enumerate(added)]
    named = name_added(recorded, listed)
    names = [entry[1].casefold() for entry in [*recorded, *named]]
    assert len(set(names)) == len(names)
    assert [entry[0] for entry in named] == [entry[0] for entry in listed]


def test_drivers_that_extend_at_the_same_time_add_each_shard_once(tmp_path: Path) -> None:
    start(tmp_path, make_shards("a"))
    wanted = ["abc", "ac", "acd", "ab", "abd", "ae"]
    with ThreadPoolExecutor(len(wanted)) as threads:
        runs = list(threads.map(lambda names: extend(tmp_path, names), wanted))
    for names, run in zip(wanted, runs, strict=True):
        assert set(names) <= set(list_names(run))
    recorded = read_run(str(tmp_path))
    assert sorted(entry[1] for entry in recorded["inputs"]) == list("abcde")
    assert {run.fingerprint for run in runs} == {recorded["fingerprint"]}


def test_driver_whose_extension_another_one_made_first_adds_what_is_left(faulty_uri: str) -> None:
    start(faulty_uri, make_shards("a"))
    FaultyStore.heal()

    def extend_first(number: int, name: str) -> None:
        if name.endswith("000001.json"):
            FaultyStore.heal()
            extend(faulty_uri, "abc")

    FaultyStore.before_write = staticmethod(extend_first)
    assert list_names(extend(faulty_uri, "abd")) == "abcd"
    files = read_all(faulty_uri)
    added = [json.loads(files[f"extensions/00000{number}.json"])["inputs"] for number in (1, 2)]
    assert [[entry[1] for entry in entries] for entries in added] == [["b", "c"], ["d"]]


def test_extension_whose_reply_is_lost_is_found_and_not_repeated(faulty_uri: str) -> None:
    start(faulty_uri, make_shards("a"))
    FaultyStore.heal()

    def lose_reply(number: int, name: str) -> None:
        if "extensions" in name:
            FaultyStore.heal()
            raise ConnectionResetError("reply lost")

    FaultyStore.after_write = staticmethod(lose_reply)
    extended = extend(faulty_uri, "ab")
    assert (list_names(extended), extended.num_before) == ("ab", 1)
    assert sorted(read_all(faulty_uri)) == ["extensions/000001.json", "run.json"]


def edit(fields: dict[str, Any], name: str) -> dict[str, Any]:
    values = {
        "fingerprint": "0" * 64,
        "previous_sha256": "0" * 64,
        "inputs": [["in/z.tar", "z", 1, "e"]],
        "library_version": "9",
        "record_sha256": "0" * 64,
    }
    return fields | {name: values[name]}


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    """Output folder of a run with two extensions."""
    start(tmp_path, make_shards("ab"))
    extend(tmp_path, "c")
    extend(tmp_path, "d")
    return tmp_path


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", ["fingerprint", "previous_sha256", "inputs", "library_version", "record_sha256"])
def test_edited_field_of_an_extension_is_named(extended: Path, number: int, name: str) -> None:
    path = extended / "extensions" / f"00000{number}.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()), name)))
    with pytest.raises(ManifestError, match=f"00000{number}.json' was edited: its record_sha256"):
        read_run(str(extended))
    with pytest.raises(ManifestError, match="was edited"):
        extend(extended, "e")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"inputs": []}', "{", "null"])
def test_damaged_extension_is_named(extended: Path, content: str) -> None:
    (extended / "extensions" / "000002.json").write_text(content)
    with pytest.raises(ManifestError, match=r"000002.json' is not the record of an extension"):
        read_run(str(extended))


def test_missing_extension_is_named(extended: Path) -> None:
    (extended / "extensions" / "000001.json").unlink()
    with pytest.raises(ManifestError, match=r"000001.json' is missing, and '.*000002.json' follows it"):
        read_run(str(extended))


def test_foreign_file_among_the_extensions_is_named(extended: Path) -> None:
    put_atomic(join_uri(str(extended), "extensions", "000002 copy.json"), b"{}")
    with pytest.raises(ManifestError, match=r"000002 copy.json' is not the record of an extension; move it"):
        read_run(str(extended))


def test_extension_of_another_run_is_named(extended: Path) -> None:
    other = extended / "other"
    start(other, make_shards("ab"), model_digest="0" * 64)
    extend(other, "c", model_digest="0" * 64)
    payload = (other / "extensions" / "000001.json").read_bytes()
    (extended / "extensions" / "000001.json").write_bytes(payload)
    with pytest.raises(ManifestError, match=r"000001.json' extends another run"):
        read_run(str(extended))


def test_extension_that_follows_another_one_is_named(extended: Path) -> None:
    other = extended / "other"
    start(other, make_shards("ab"))
    extend(other, "e")
    extend(other, "d")
    payload = (other / "extensions" / "000002.json").read_bytes()
    (extended / "extensions" / "000002.json").write_bytes(payload)
    with pytest.raises(ManifestError, match=r"000002.json' follows another record"):
        read_run(str(extended))


def test_extension_of_a_record_that_was_edited_since_is_refused(extended: Path) -> None:
    record = json.loads((extended / "run.json").read_text())
    (extended / "run.json").write_text(json.dumps(record | {"library_version": "9"}))
    with pytest.raises(ManifestError, match=r"000001.json' follows another record"):
        read_run(str(extended))


def test_run_of_an_earlier_version_without_a_digest_is_extended(tmp_path: Path) -> None:
    start(tmp_path, make_shards("ab"))
    record = json.loads((tmp_path / "run.json").read_text())
    del record["record_sha256"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert list_names(extend(tmp_path, "c")) == "abc"
    assert list_names(extend(tmp_path, "abcd")) == "abcd"
