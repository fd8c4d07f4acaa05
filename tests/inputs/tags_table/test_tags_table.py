"""Tables of tags beside shards: written by Python's csv and json and by pyarrow, joined by key."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from jobs.display.tags_table import print_unmatched
from pipeline.commit.manifests import list_manifests, open_manifest
from pipeline.errors import ShardError, TagsError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.first_look import look_at_tags
from pipeline.inputs.shards import list_shards
from pipeline.inputs.tag_join import settle_tags_table
from pipeline.inputs.tags_table.sorted_file import GROUP_ROWS, describe_table_version, open_tags_table, sort_table
from pipeline.label import label_run
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, Reason, Sample
from pipeline.run.run_file import Run
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.writing import put_atomic
from tests.factories import make_parquet, make_photo, make_tar
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS

TAGS: Mapping[str, str] = {"a": "dog, cat", "b/2": "dog", "c": "", "é": "cat", "zz": "person"}


def write_csv(rows: Mapping[str, str], delimiter: str = ",", names: tuple[str, str] = ("key", "tags")) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["note", *names])
    writer.writerows(["a note, with\na line break", key, tags] for key, tags in rows.items())
    return text.getvalue().encode()


def write_jsonl(rows: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps({"key": key, "tags": tags, "more": 1}).encode() + b"\n" for key, tags in rows.items())


def use_table(uri: str, **options: Any) -> InputConfig:
    return InputConfig(tags_table=uri, tags_table_etag=describe_table_version(uri), **options)


def read_samples(shard: Path, config: InputConfig) -> dict[str, Sample]:
    pieces = read_chunks(list_shards([str(shard)])[0], config)
    return {sample.key: sample for piece in pieces if isinstance(piece, Chunk) for sample in piece.samples}


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted tables are kept per machine, below its temporary folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Samples a, b/2, c and no-row, whose own tags are all wrong."""
    members = {"jpg": make_photo(1), "json": json.dumps({"tags": ["wrong"]}).encode()}
    return make_tar(tmp_path / "in.tar", dict.fromkeys(("b/2", "a", "c", "no-row"), members))


def write_forms(folder: Path) -> dict[str, Path]:
    lists = {key: [tag.strip() for tag in tags.split(",") if tag] for key, tags in TAGS.items()}
    contents = {"t.csv": write_csv(TAGS), "t.tsv": write_csv(TAGS, "\t"), "s.csv": write_csv(TAGS, ";")}
    contents |= {"bom.csv": b"\xef\xbb\xbf" + write_csv(TAGS, names=("tags", "key")).replace(b"\n", b"\r\n")}
    contents = {name: text for name, text in contents.items() if name != "bom.csv"} | {"t.jsonl": write_jsonl(lists)}
    paths = {name: folder / name for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    columns = {"tags": list(lists.values()), "key": list(lists)}
    coded = {"tags": pa.array(list(TAGS.values())).dictionary_encode(), "key": list(TAGS)}
    return paths | {
        "lists": make_parquet(folder / "lists.parquet", columns, row_group_size=2),
        "coded": make_parquet(folder / "coded.parquet", coded),
    }


def test_samples_have_the_tags_of_the_table_in_every_form(tmp_path: Path, shard: Path) -> None:
    for name, path in write_forms(tmp_path).items():
        found = read_samples(shard, use_table(str(path)))
        assert {key: sample.tags for key, sample in found.items()} == {
            "a": ("dog", "cat"),
            "b/2": ("dog",),
            "c": (),
            "no-row": (),
        }, name
        assert {key for key, sample in found.items() if not sample.has_tags_row} == {"no-row"}, name


def test_table_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path, shard: Path) -> None:
    (tmp_path / "t.csv").write_bytes("\ufeffkey,tags\r\na,dog\r\n".encode())
    assert read_samples(shard, use_table(str(tmp_path / "t.csv")))["a"].tags == ("dog",)


def test_whole_numbers_are_keys(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "in.tar", {"17": {"jpg": make_photo(1)}})
    table = make_parquet(tmp_path / "t.parquet", {"id": pa.array([17, 5], pa.int64()), "label": ["dog", "cat"]})
    found = read_samples(shard, use_table(str(table), tags_field="label", tags_table_key="id"))
    assert found["17"].tags == ("dog",)


def test_parquet_shard_needs_no_tags_of_its_own(tmp_path: Path) -> None:
    shard = make_parquet(tmp_path / "in.parquet", {"key": ["a", "x"], "image": [make_photo(1)] * 2})
    (tmp_path / "t.csv").write_bytes(write_csv(TAGS))
    found = read_samples(shard, use_table(str(tmp_path / "t.csv")))
    assert [(sample.tags, sample.has_tags_row) for sample in found.values()] == [(("dog", "cat"), True), ((), False)]


def test_table_on_s3_is_joined(s3_folder: str, shard: Path) -> None:
    put_atomic(f"{s3_folder}/t.csv", write_csv(TAGS))
    assert read_samples(shard, use_table(f"{s3_folder}/t.csv"))["a"].tags == ("dog", "cat")


def test_every_key_of_several_groups_is_found_and_no_other(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).permutation(GROUP_ROWS + 1000)
    table = {"key": [f"k{2 * number}" for number in numbers], "tags": [f"t{number}" for number in numbers]}
    opened = open_tags_table(use_table(str(make_parquet(tmp_path / "t.parquet", table))))
    assert opened.num_rows == len(numbers)
    for number in numbers[:300]:
        cell = opened.find(f"k{2 * number}")
        assert cell is not None
        assert cell.as_py() == f"t{number}"
        assert opened.find(f"k{2 * number + 1}") is None
    assert opened.find("") is None
    assert opened.find("~") is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", write_csv({"a": "dog"}) + b"note,a,cat\n", "the key 'a' twice"),
        ("t.csv", write_csv({"a": "dog", "": "cat"}), "no key in line 4"),
        ("t.csv", write_csv({"a": "dog"}, names=("id", "tags")), "--inputs.tags-table-key: 'note', 'id', 'tags'"),
        ("t.csv", write_csv({"a": "dog"}, names=("key", "label")), "no column 'tags'; its columns: 'note', 'key'"),
        ("t.csv", write_csv({"a": "dog"}) + b"too,few\n", "2 cells in line 4, its header 3"),
        ("t.csv", b"", "has no rows"),
        ("t.csv", b"key,tags\n", "has no rows"),
        ("t.csv", "key,tags\na,dog\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("t.csv", b'key,tags\na,"dog\nb,cat\n', "broken at line 2: unexpected end of data; correct its quotes"),
        ("t.csv", b'key,tags\na,"dog"s\nb,cat\n', "broken at line 2"),
        ("t.csv", "key,tags\na,bébé\n".encode("latin-1"), "is not UTF-8"),
        ("t.jsonl", b'{"key": "a", "tags": "dog"}\n{"key": \n', "line 2 is not JSON"),
        ("t.parquet", b"PAR1 no", "cannot be read"),
        ("t.xlsx", b"PK", "of an unknown kind"),
    ],
)
def test_unusable_table_is_refused_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ShardError, match=f"table '.*{name}'") as refusal:
        open_tags_table(use_table(str(tmp_path / name)))
    assert message in str(refusal.value)


def test_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="does not exist"):
        describe_table_version(str(tmp_path / "t.csv"))


def test_table_that_changed_since_the_start_of_the_run_is_refused(tmp_path: Path, shard: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(write_csv(TAGS))
    config = use_table(str(path))
    path.write_bytes(write_csv({**TAGS, "new": "dog"}))
    with pytest.raises(ShardError, match="changed since the run was started"):
        read_samples(shard, config)


def test_sorted_file_is_made_once_for_a_machine(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(write_csv(TAGS))
    config = use_table(str(path))
    open_tags_table(config)
    (folder,) = tmp_path.glob("tagmask-*")
    (made,) = folder.glob("*.arrow")
    assert folder.stat().st_mode & 0o777 == 0o700
    before = made.stat().st_mtime_ns
    open_tags_table(replace(config, max_chunk_samples=3))
    assert [item.name for item in folder.glob("*.arrow")] == [made.name]
    assert made.stat().st_mtime_ns == before


def test_sorted_rows_are_in_the_order_of_their_keys(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(write_csv(TAGS))
    keys = [key for batch in sort_table(str(tmp_path / "t.csv"), None, "tags") for key in batch.column(0).to_pylist()]
    assert keys == sorted(TAGS)


def test_settled_configuration_has_the_version_of_its_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(write_csv(TAGS))
    config = InputConfig(tags_table=str(path))
    assert settle_tags_table(config) == use_table(str(path))
    assert settle_tags_table(InputConfig()) == InputConfig()


def test_first_look_refuses_a_table_of_other_keys(tmp_path: Path, shard: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(write_csv({"a.jpg": "dog", "b/2.jpg": "cat"}))
    shards, config = list_shards([str(shard)]), use_table(str(path))
    with pytest.raises(TagsError, match=r"keys are such as 'b/2', those of the table such as 'a\.jpg'"):
        look_at_tags(shards, config, Vocabulary(classes=("cat", "dog")))
    assert look_at_tags(shards, config, Vocabulary(classes=("cat",)), allow_nothing_labelled=True)


def test_rows_of_a_run_have_the_classes_of_the_table(tmp_path: Path, open_small_run: Callable[..., Run]) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(write_csv({"s0-0": "dog", "s0-1": "sunset", "s1-4": "cat, dog", "other": "dog"}))
    run = open_small_run(str(tmp_path / "out"), tags_table=str(path), tags_table_etag=describe_table_version(str(path)))
    label_run(run, OPTIONS, cluster=SerialCluster())
    rows = [row for uri in list_manifests(run.out_uri) for row in open_manifest(uri).iterate_rows()]
    assert {row["key"]: row["class_ids"] for row in rows if row["status"] == "labelled"} == {
        "s0-0": [2],
        "s1-4": [1, 2],
    }
    reasons = Counter(row["reason"] for row in rows)
    assert reasons == {None: 2, Reason.NO_KNOWN_TAG: 1, Reason.NOT_IN_TAGS_TABLE: 7}


@pytest.mark.parametrize("max_keys", [10, 9])
def test_rows_and_samples_that_do_not_match_are_counted(
    tmp_path: Path, open_small_run: Callable[..., Run], capsys: pytest.CaptureFixture[str], max_keys: int
) -> None:
    (tmp_path / "in").mkdir()
    members = {"jpg": make_photo(1)}
    # Two samples have no image, of which one has a row; one has the key of another.
    make_tar(tmp_path / "in/0.tar", {"a": members, "b": members, "c": {"txt": b"dog"}, "d": {"txt": b"dog"}})
    make_tar(tmp_path / "in/1.tar", {"a": members, **{f"x{number}": members for number in range(5)}})
    path = tmp_path / "t.csv"
    path.write_bytes(write_csv(dict.fromkeys(("a", "b", "c", "x1", "other", "more"), "dog")))
    options = {"tags_table": str(path), "tags_table_etag": describe_table_version(str(path))}
    run = open_small_run(str(tmp_path / "out"), inputs_uri=str(tmp_path), pattern="in", **options)
    label_run(run, OPTIONS, cluster=SerialCluster())
    capsys.readouterr()
    print_unmatched(run, max_keys)
    numbers = ("2", "5") if max_keys == 10 else ("0 or more", "4 or more")
    assert capsys.readouterr().out == (
        f"tags table: 6 rows, of which {numbers[0]} match no sample; {numbers[1]} samples have no row\n"
    )


def test_class_names_of_the_metadata_of_a_table_count(tmp_path: Path, shard: Path) -> None:
    path = str(tmp_path / "t.parquet")
    features = Features({"key": Value("string"), "tags": List(ClassLabel(names=["cow", "cat", "dog"]))})
    Dataset.from_dict({"key": ["a", "b/2", "c"], "tags": [[1, 2], [-1], [0]]}, features).to_parquet(path)
    found = {key: sample.tags for key, sample in read_samples(shard, use_table(path)).items()}
    assert found == {"a": ("cat", "dog"), "b/2": (), "c": ("cow",), "no-row": ()}
    names = {"class_numbers": "names", "class_names": ((0, "lion"), (1, "tiger"), (2, "bear"), (-1, "none"))}
    assert read_samples(shard, use_table(path, **names))["a"].tags == ("tiger", "bear")


@pytest.mark.parametrize("cell", ["['dog', 'cat']", "['dog' 'cat']", '["dog", "cat"]', "dog;cat"])
def test_lists_in_cells_are_read_as_in_a_table_of_paths(tmp_path: Path, shard: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_bytes(write_csv({"a": cell}))
    assert read_samples(shard, use_table(str(tmp_path / "t.csv")))["a"].tags == ("dog", "cat")


def test_json_lines_of_several_types_are_read_row_by_row(tmp_path: Path, shard: Path) -> None:
    rows = {"a": ["dog", "cat"], "b/2": "dog, cat", "c": {"dog": True, "cat": False}, "d": None, "e": 3}
    (tmp_path / "t.jsonl").write_bytes(write_jsonl(rows))
    found = read_samples(shard, use_table(str(tmp_path / "t.jsonl")))
    assert [found[key].tags for key in ("a", "b/2", "c")] == [("dog", "cat"), ("dog", "cat"), ("dog",)]


@pytest.mark.parametrize("key", [1.5, True, ["a"]])
def test_keys_of_several_spellings_are_refused_by_their_line(tmp_path: Path, key: Any) -> None:
    lines = [json.dumps({"key": value, "tags": "dog"}) for value in ("a", key)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    with pytest.raises(ShardError, match="line 2: 'key' holds .*, need text or whole numbers; write it as text"):
        open_tags_table(use_table(str(tmp_path / "t.jsonl")))
    kind = {float: pa.float64(), bool: pa.bool_(), list: pa.list_(pa.string())}[type(key)]
    table = make_parquet(tmp_path / "t.parquet", {"key": pa.array([key], kind), "tags": ["dog"]})
    with pytest.raises(ShardError, match=r"column 'key' holds .*, need text or whole numbers \(cast it"):
        open_tags_table(use_table(str(table)))
