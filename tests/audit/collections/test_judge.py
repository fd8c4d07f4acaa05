"""The index of a collection against its source, in all forms, and with faults that a lister could make."""

import ast
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.audit import collections, sources
from pipeline.audit.collections.judge import CollectionVerdict, judge_collections
from pipeline.audit.verdict import Check
from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.run.config import InputConfig
from pipeline.run.records import InputShard
from pipeline.storage.writing import put_atomic
from tests.collections.forms import (
    PHOTOS,
    TAGS,
    find,
    write_bare_parquet,
    write_coco,
    write_csv,
    write_jsonl,
    write_parquet_table,
    write_photos,
)

Rows = list[dict[str, Any]]


def write_class_folders(folder: Path) -> Path:
    """Write the photos in a folder a class, with files of other kinds."""
    for key, tags in TAGS.items():
        place = folder / "train" / (tags or ["cat"])[0]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{key}.jpg").write_bytes(PHOTOS[key])
    (folder / "README").write_text("photos")
    (folder / "notes.md").write_text("photos")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "train/__MACOSX").mkdir()
    (folder / "train/__MACOSX/a.jpg").write_bytes(b"x")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    return folder


def write_imagefolder(folder: Path) -> Path:
    """Write the photos beside a metadata table that lacks one, and names one that does not exist."""
    write_photos(folder)
    (folder / "extra.jpg").write_bytes(b"x")
    table = write_csv(folder / "metadata.csv")
    table.write_text(table.read_text() + 'f,missing.jpg,"[""cat""]"\ng,,dog\n')
    return folder


def write_json(path: Path) -> Path:
    """Write a list of records."""
    path.write_text(json.dumps([{"path": f"{key}.jpg", "tags": tags} for key, tags in TAGS.items()]))
    return path


def write_gzip(path: Path) -> Path:
    """Write JSON lines, compressed."""
    plain = write_jsonl(path.with_suffix(""))
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return path


def encode(path: Path, encoding: str) -> Path:
    """Write a text file in another encoding."""
    path.write_bytes(path.read_text().encode(encoding))
    return path


def write_class_label(path: Path) -> Path:
    """Write a Parquet table whose tags are numbers, named by its metadata."""
    features = {"info": {"features": {"tags": [{"names": ["cat", "dog"], "_type": "ClassLabel"}]}}}
    numbers = [[["cat", "dog"].index(tag) for tag in tags] for tags in TAGS.values()]
    table = pa.table({"image": [f"{key}.jpg" for key in TAGS], "tags": pa.array(numbers, pa.list_(pa.int64()))})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    return path


def write_coco_layout(folder: Path) -> Path:
    """Write COCO's own layout, with an annotation of an image that is not listed."""
    write_photos(folder / "train2017")
    (folder / "annotations").mkdir()
    path = write_coco(folder / "annotations/instances_train2017.json")
    document = json.loads(path.read_text())
    document["annotations"].append({"id": 999, "image_id": 555, "category_id": 17})
    path.write_text(json.dumps(document))
    return path


TABLES: list[tuple[str, Callable[[Path], Path]]] = [
    ("list.csv", write_csv),
    ("list.tsv", lambda path: write_csv(path, delimiter="\t")),
    ("list.jsonl", write_jsonl),
    ("list.jsonl.gz", write_gzip),
    ("list.json", write_json),
    ("utf-16.json", lambda path: encode(write_json(path), "utf-16")),
    ("coco-utf-32.json", lambda path: encode(write_coco(path), "utf-32")),
    ("utf-16.csv", lambda path: encode(write_csv(path), "utf-16")),
    ("list.parquet", write_parquet_table),
    ("bare.parquet", write_bare_parquet),
    ("labels.parquet", write_class_label),
]


def judge(shards: tuple[InputShard, ...]) -> CollectionVerdict:
    return judge_collections(shards, has_tags_table=False)


def list_checks(result: CollectionVerdict) -> list[Check]:
    assert result.obstacles == []
    return [check for check in Check if check in result.verdict.findings]


def list_texts(result: CollectionVerdict, check: Check) -> list[str]:
    return [example.text for example in result.verdict.findings[check].examples]


def tamper(index: Path, change: Callable[[Rows], Rows]) -> None:
    """Change the rows of the first index shard, and the numbers of index.json with them."""
    record = json.loads((index / "index.json").read_text())
    path = index / record["shards"][0]
    table = pq.read_table(path)
    rows = change(table.to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    others = [row for name in record["shards"][1:] for row in pq.read_table(index / name).to_pylist()]
    record["num_rows"] = len(rows + others)
    record["num_rows_with_tags"] = sum(row["tags"] not in (None, "[]", '""', "null") for row in rows + others)
    num = sum(row["problem"] is not None for row in rows + others)
    record["rows_without_image"] = {"their image does not exist": {"count": num, "example": ""}}
    (index / "index.json").write_text(json.dumps(record))


def swap_tags(rows: Rows) -> Rows:
    """Give two rows of different tags each other's."""
    second = next(row for row in rows if row["tags"] != rows[0]["tags"])
    rows[0]["tags"], second["tags"] = second["tags"], rows[0]["tags"]
    return rows


@pytest.mark.parametrize(("name", "write"), TABLES)
def test_index_of_a_table_agrees_with_it_and_each_fault_is_named(
    tmp_path: Path, name: str, write: Callable[[Path], Path]
) -> None:
    write_photos(tmp_path / "photos")
    index = tmp_path / "index"
    shards, _ = find(write(tmp_path / "photos" / name), index)
    result = judge(shards)
    assert list_checks(result) == []
    assert (result.num_rows, result.passed_over.total()) == (len(TAGS), 0)
    tamper(index, swap_tags)
    assert list_checks(judge(shards)) == [Check.WRONG_INDEX_ROWS]
    assert any("a.jpg" in text for text in list_texts(judge(shards), Check.WRONG_INDEX_ROWS))
    tamper(index, lambda rows: swap_tags(rows)[:3] + rows[4:])
    (text,) = list_texts(judge(shards), Check.UNLISTED_IMAGES)
    assert "d.jpg" in text
    assert name in text


def test_index_of_class_folders_agrees_and_each_fault_is_named(tmp_path: Path) -> None:
    index = tmp_path / "index"
    shards, _ = find(write_class_folders(tmp_path / "photos"), index)
    result = judge(shards)
    assert list_checks(result) == []
    assert (result.num_rows, result.passed_over.total()) == (5, 5)
    tamper(index, swap_tags)
    assert list_checks(judge(shards)) == [Check.WRONG_INDEX_ROWS]
    tamper(index, lambda rows: swap_tags(rows)[1:])
    (text,) = list_texts(judge(shards), Check.UNLISTED_IMAGES)
    assert text.startswith(f"'{tmp_path}/photos/train/cat/a.jpg' is no row of the index")


def test_index_of_an_imagefolder_agrees_and_each_fault_is_named(tmp_path: Path) -> None:
    index = tmp_path / "index"
    shards, _ = find(write_imagefolder(tmp_path / "photos"), index)
    result = judge(shards)
    assert list_checks(result) == []
    assert (result.num_rows, result.passed_over.total()) == (7, 1)

    def lose(rows: Rows) -> Rows:
        rows[0]["problem"] = "it does not exist"
        return [row for row in rows if row["key"] != "c"]

    tamper(index, lose)
    result = judge(shards)
    assert list_checks(result) == [Check.UNLISTED_IMAGES, Check.WRONG_INDEX_ROWS]
    assert any("'c.jpg' is no row" in text for text in list_texts(result, Check.UNLISTED_IMAGES))
    assert ["a.jpg" in text for text in list_texts(result, Check.WRONG_INDEX_ROWS)] == [True]


def test_index_of_a_coco_file_agrees_and_each_fault_is_named(tmp_path: Path) -> None:
    index = tmp_path / "index"
    shards, _ = find(write_coco_layout(tmp_path / "coco"), index)
    result = judge(shards)
    assert list_checks(result) == []
    assert (result.num_rows, result.passed_over.total()) == (5, 1)
    tamper(index, lambda rows: swap_tags(rows)[:-1])
    result = judge(shards)
    assert list_checks(result) == [Check.UNLISTED_IMAGES, Check.WRONG_INDEX_ROWS]
    assert "image 4: 'e.jpg'" in list_texts(result, Check.UNLISTED_IMAGES)[0]


@pytest.mark.parametrize("write", [write_class_folders, write_imagefolder, write_coco_layout])
def test_count_that_index_json_lacks_is_named_with_a_file(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    index = tmp_path / "index"
    shards, _ = find(write(tmp_path / "photos"), index)
    whole = json.loads((index / "index.json").read_text())
    assert whole["passed_over"]
    for kind in whole["passed_over"]:
        rest = {name: entry for name, entry in whole["passed_over"].items() if name != kind}
        (index / "index.json").write_text(json.dumps(whole | {"passed_over": rest}))
        (text,) = list_texts(judge(shards), Check.UNLISTED_IMAGES)
        num = whole["passed_over"][kind]["count"]
        assert f"states {kind}: 0; the collection has {num}, such as '" in text


def test_images_that_are_added_later_are_a_warning_and_so_is_what_is_gone(tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos")
    shards, _ = find(photos, tmp_path / "index")
    (photos / "train/dog/new.jpg").write_bytes(b"x")
    (photos / "later.md").write_bytes(b"x")
    (photos / "train/cat/a.jpg").unlink()
    (photos / "train/cat/c.jpg").write_bytes(b"other")
    result = judge(shards)
    assert list_checks(result) == [Check.CHANGED_COLLECTION]
    assert result.verdict.failed_checks == []
    texts = list_texts(result, Check.CHANGED_COLLECTION)
    assert any("dog/new.jpg' was added since" in text for text in texts)
    assert any("cat/a.jpg' is gone" in text for text in texts)
    assert any("cat/c.jpg' has 5 bytes" in text for text in texts)
    assert len(texts) == 3


def test_folder_that_is_moved_into_the_collection_with_its_files_is_new(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/x.jpg").write_bytes(b"x")
    photos = write_class_folders(tmp_path / "photos")
    shards, _ = find(photos, tmp_path / "index")
    (tmp_path / "old").rename(photos / "train/horse")
    result = judge(shards)
    assert list_checks(result) == [Check.CHANGED_COLLECTION]


def test_row_of_an_image_that_never_was_is_a_fault(tmp_path: Path) -> None:
    shards, _ = find(write_class_folders(tmp_path / "photos"), tmp_path / "index")

    def invent(rows: Rows) -> Rows:
        path = "train/dog/invented.jpg"
        return [*rows, rows[-1] | {"key": path, "path": path, "uri": f"{tmp_path}/photos/{path}"}]

    tamper(tmp_path / "index", invent)
    (text,) = list_texts(judge(shards), Check.WRONG_INDEX_ROWS)
    assert "invented.jpg' does not exist, and nothing was removed" in text


@pytest.mark.parametrize("name", ["list.csv", "metadata.csv"])
def test_row_that_stands_twice_in_the_index_is_a_fault(tmp_path: Path, name: str) -> None:
    write_photos(tmp_path / "photos")
    table = write_csv(tmp_path / "photos" / name)
    shards, _ = find(table, tmp_path / "index")
    tamper(tmp_path / "index", lambda rows: [*rows, rows[1]])
    (text,) = list_texts(judge(shards), Check.WRONG_INDEX_ROWS)
    assert text.startswith("'b.jpg', key 'b': the index has it more often")


def test_image_that_stands_twice_in_the_index_of_a_folder_is_a_fault(tmp_path: Path) -> None:
    shards, _ = find(write_class_folders(tmp_path / "photos"), tmp_path / "index")
    tamper(tmp_path / "index", lambda rows: [*rows, rows[1]])
    (text,) = list_texts(judge(shards), Check.WRONG_INDEX_ROWS)
    assert "more often" in text


def test_table_that_changed_is_told_with_its_state_and_its_rows_are_not_compared(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    table = write_csv(tmp_path / "photos/metadata.csv")
    shards, _ = find(tmp_path / "photos", tmp_path / "index")
    table.write_text("file_name,tags\na.jpg,dog\n")
    result = judge(shards)
    assert list_checks(result) == [Check.CHANGED_COLLECTION]
    (text,) = list_texts(result, Check.CHANGED_COLLECTION)
    assert text.startswith(f"'{table}' was ")
    assert text.endswith("the rows of the index are not compared with it")
    assert result.verdict.failed_checks == []


@pytest.mark.parametrize("name", ["photos", "photos/list.csv"])
def test_source_that_is_gone_could_not_be_compared(tmp_path: Path, name: str) -> None:
    if name == "photos":
        write_class_folders(tmp_path / "photos")
    else:
        write_photos(tmp_path / "photos")
        write_csv(tmp_path / name)
    shards, _ = find(tmp_path / name, tmp_path / "index")
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    result = judge(shards)
    (obstacle,) = result.obstacles
    assert obstacle.startswith(f"'{tmp_path}/{name}' is gone")
    assert result.verdict.findings == {}
    assert result.num_rows == 0


def test_table_that_did_not_change_and_cannot_be_understood_fails_the_audit(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    table = write_csv(tmp_path / "photos/list.csv")
    shards, _ = find(table, tmp_path / "index")
    path = tmp_path / "index/index.json"
    record = json.loads(path.read_text())
    record["source"]["image_column"] = "other"
    path.write_text(json.dumps(record))
    result = judge(shards)
    assert (list_checks(result), result.num_rows) == ([Check.AUDIT_FAILED], 0)
    (text,) = list_texts(result, Check.AUDIT_FAILED)
    assert text.startswith(f"'{table}': ValueError: the audit finds no column of paths among")


def test_damaged_index_shard_fails_the_audit(tmp_path: Path) -> None:
    shards, _ = find(write_class_folders(tmp_path / "photos"), tmp_path / "index")
    pq.write_table(pa.table({"other": [1]}), shards[0].uri)
    result = judge(shards)
    assert (list_checks(result), result.num_rows) == ([Check.AUDIT_FAILED], 0)
    assert result.verdict.failed_checks == [Check.AUDIT_FAILED]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/photos.csv", "s3://bucket/photos", "strange://photos"])
def test_source_that_a_store_does_not_give_could_not_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    shards, _ = find(write_class_folders(tmp_path / "photos"), tmp_path / "index")
    path = tmp_path / "index/index.json"
    record = json.loads(path.read_text())
    record["source"]["patterns"] = [uri]
    path.write_text(json.dumps(record))
    result = judge(shards)
    (obstacle,) = result.obstacles
    assert obstacle.startswith(f"'{uri}' cannot be read: ")
    assert result.verdict.findings == {}


def test_output_below_the_images_is_no_part_of_the_collection(tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos")
    for run in ("old", "new"):
        shards, _ = find(photos, photos / run / "inputs")
        (photos / run / "run.json").write_text("{}")
        for name in ("labels/x.parquet", "parts/x.arrow", "retries/x.json", "extensions/x.json"):
            put_atomic(str(photos / run / name), b"x")
        assert list_checks(judge(shards)) == []


def test_files_that_a_table_names_are_not_passed_over_whatever_their_name(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for kind in ("{}.jpg", ".{}.jpg", "{}.image", "{}", ".hidden/{}.jpg"):
        for key in ("named", "other"):
            put_atomic(str(photos / kind.format(key)), PHOTOS["a"])
    named = ("named.jpg", ".named.jpg", "named.image", "named", ".hidden/named.jpg")
    (photos / "metadata.csv").write_text("\n".join(["file_name,tags", *(f"{name},cat" for name in named)]))
    shards, _ = find(photos, tmp_path / "index")
    record = json.loads((tmp_path / "index/index.json").read_text())
    assert [row["size_bytes"] for row in pq.read_table(shards[0].uri).to_pylist()] == [len(PHOTOS["a"])] * len(named)
    assert {kind: (entry["count"], entry["example"]) for kind, entry in record["passed_over"].items()} == {
        "images that no metadata table names": (1, "other.jpg"),
        "hidden files, of names that begin with '.' or '__'": (2, ".hidden/other.jpg"),
        "*.image": (1, "other.image"),
        "without a suffix": (1, "other"),
    }
    assert list_checks(judge(shards)) == []

    def lose(rows: Rows) -> Rows:
        return [row for row in rows if row["path"] not in (".named.jpg", "named.image")]

    tamper(tmp_path / "index", lose)
    assert list_checks(judge(shards)) == [Check.UNLISTED_IMAGES]
    texts = list_texts(judge(shards), Check.UNLISTED_IMAGES)
    assert len([text for text in texts if text.endswith("is no row of the index")]) == 2
    assert any("states *.image: 1; the collection has 2, such as" in text for text in texts)
    assert any("states hidden files" in text and "2; the collection has 3" in text for text in texts)


def test_paths_that_lead_elsewhere_agree_with_their_places(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos/sub dir")
    write_photos(tmp_path / "other")
    paths = ["sub%20dir/a.jpg", "sub dir/./b.jpg", "sub dir\\c.jpg", "../other/d.jpg", f"{tmp_path}/other/e.jpg"]
    paths += ["https://images.example.com/x.jpg?size=1", f"file://{tmp_path}/photos/sub dir/a.jpg"]
    table = tmp_path / "list.jsonl"
    table.write_text("\n".join(json.dumps({"url": path, "tags": "cat"}) for path in paths))
    index = tmp_path / "index"
    inputs = {
        "image_root": str(tmp_path / "photos"),
        "allow_url": ("https://images.example.com", f"file://{tmp_path}/other"),
    }
    shards, _ = find(table, index, **inputs)
    assert list_checks(judge(shards)) == []

    def swap(rows: Rows) -> Rows:
        rows[1]["uri"], rows[5]["uri"] = rows[5]["uri"], rows[1]["uri"]
        return rows

    tamper(index, swap)
    (first, second) = list_texts(judge(shards), Check.WRONG_INDEX_ROWS)
    assert "b.jpg': its path is 'sub dir/./b.jpg', the index leads to 'https://images.example.com/x" in first
    assert "the index leads to" in second


def test_folder_without_sub_folders_agrees_beside_a_table_of_tags(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    inputs = {"tags_table": str(tmp_path / "tags.csv")}
    shards, _ = find(tmp_path / "photos", tmp_path / "index", **inputs)
    assert list_checks(judge_collections(shards, has_tags_table=True)) == []
    (tmp_path / "photos/list.csv").write_text("file_name\na.jpg\n")
    shards, _ = find(tmp_path / "photos/list.csv", tmp_path / "other", **inputs)
    assert list_checks(judge_collections(shards, has_tags_table=True)) == []


def test_two_folders_are_both_compared_with_all_that_they_pass_over(tmp_path: Path) -> None:
    folders = [str(write_class_folders(tmp_path / name)) for name in ("one", "two")]
    index = IndexPlace(str(tmp_path / "index"), is_begun=False)
    shards = find_inputs(folders, InputConfig(), index, print, print)
    result = judge(shards)
    assert list_checks(result) == []
    assert (result.num_rows, result.passed_over.total()) == (10, 10)


def test_links_to_folders_and_files_agree(tmp_path: Path) -> None:
    photos = write_class_folders(tmp_path / "photos")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/x.jpg").write_bytes(b"x")
    for name in ("one", "two", "loop"):
        (photos / name).symlink_to(photos if name == "loop" else tmp_path / "more")
    (photos / "train/dog/link.jpg").symlink_to(tmp_path / "more/x.jpg")
    shards, _ = find(photos, tmp_path / "index")
    assert list_checks(judge(shards)) == []


def test_table_of_many_rows_agrees_with_the_images_that_it_does_not_name(tmp_path: Path) -> None:
    photos, index = tmp_path / "photos", tmp_path / "index"
    photos.mkdir()
    for number in range(1200):
        (photos / f"{number}.jpg").write_bytes(b"x")
    lines = [f"{number}.jpg,cat\n" for number in range(1100)]
    (photos / "list.csv").write_text("path,tags\n" + "".join(lines))
    shards, _ = find(photos / "list.csv", index)
    result = judge(shards)
    assert list_checks(result) == []
    assert (result.num_rows, result.passed_over.total()) == (1100, 100)
    record = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps(record | {"passed_over": {}}))
    assert "states images that the table does not name: 0; the collection has 100" in str(judge(shards).verdict)


def test_collection_on_s3_agrees_and_a_lost_image_is_named(s3_folder: str, tmp_path: Path) -> None:
    for number in range(3):
        put_atomic(f"{s3_folder}/photos/dog/{number}.jpg", b"x")
    put_atomic(f"{s3_folder}/photos/dog/.hidden", b"x")
    index = tmp_path / "index"
    shards, _ = find(f"{s3_folder}/photos", index)
    assert list_checks(judge(shards)) == []
    tamper(index, lambda rows: rows[1:])
    result = judge(shards)
    assert list_checks(result) == [Check.UNLISTED_IMAGES]
    assert "photos/dog/0.jpg' is no row" in list_texts(result, Check.UNLISTED_IMAGES)[0]


def extend(pattern: Path, index: Path, shards: tuple[InputShard, ...]) -> tuple[InputShard, ...]:
    """Extend the index as a run does."""
    names = tuple(shard.uri.rpartition("/")[2] for shard in shards)
    place = IndexPlace(str(index), is_begun=True, recorded=names)
    return find_inputs([str(pattern)], InputConfig(), place, print, print, extend=True)


def test_extended_index_of_a_folder_agrees_and_a_lost_image_is_named(tmp_path: Path) -> None:
    photos, index = write_class_folders(tmp_path / "photos"), tmp_path / "index"
    first, _ = find(photos, index)
    (photos / "train/dog/new.jpg").write_bytes(b"x")
    (photos / "more.md").write_bytes(b"x")
    (photos / "train/cat/a.jpg").write_bytes(b"longer")
    shards = extend(photos, index, first)
    assert len(shards) == 2
    result = judge(shards)
    assert (result.num_rows, result.passed_over.total()) == (6, 6)
    assert list_checks(result) == [Check.CHANGED_COLLECTION]
    (text,) = list_texts(result, Check.CHANGED_COLLECTION)
    assert "cat/a.jpg' has 6 bytes" in text
    assert list_checks(judge(first)) == [Check.CHANGED_COLLECTION]
    tamper(index, lambda rows: rows[1:])
    assert "cat/a.jpg' is no row" in list_texts(judge(shards), Check.UNLISTED_IMAGES)[0]


def test_extended_index_of_a_table_agrees_though_its_old_rows_were_edited(tmp_path: Path) -> None:
    photos, index = tmp_path / "photos", tmp_path / "index"
    write_photos(photos)
    table = photos / "list.csv"
    table.write_text("key,path,tags\na,a.jpg,cat\nb,b.jpg,dog\nc,c.jpg,dog\n")
    first, _ = find(table, index)
    table.write_text("key,path,tags\nb,b.jpg,cat\nc,d.jpg,dog\nnew,e.jpg,dog\n")
    shards = extend(table, index, first)
    result = judge(shards)
    assert list_checks(result) == [Check.CHANGED_COLLECTION]
    assert result.num_rows == 4
    assert len(list_texts(result, Check.CHANGED_COLLECTION)) == 4
    (name,) = [path.name for path in index.glob("index-*.json")]
    record = json.loads((index / name).read_text())
    rows = pq.read_table(index / record["shards"][0])
    pq.write_table(rows.set_column(5, rows.schema.field(5), pa.array(['"cat"'])), index / record["shards"][0])
    (text,) = list_texts(judge(shards), Check.WRONG_INDEX_ROWS)
    assert "'e.jpg': its tags are 'dog', the index has" in text


def test_index_json_that_is_missing_or_states_other_numbers_is_a_fault(tmp_path: Path) -> None:
    shards, _ = find(write_class_folders(tmp_path / "photos"), tmp_path / "index")
    path = tmp_path / "index/index.json"
    record = json.loads(path.read_text())
    changes: list[dict[str, Any]] = [{"num_rows": 6}, {"num_rows_with_tags": 4}, {"shards": []}]
    for change in changes:
        path.write_text(json.dumps(record | change))
        assert list_checks(judge(shards)) == [Check.WRONG_INDEX]
    path.unlink()
    assert list_checks(judge(shards)) == [Check.WRONG_INDEX]


def test_index_of_an_earlier_version_states_that_it_could_not_be_compared(tmp_path: Path) -> None:
    shards, _ = find(write_class_folders(tmp_path / "photos"), tmp_path / "index")
    path = tmp_path / "index/index.json"
    record = json.loads(path.read_text())
    del record["listed_at"], record["tables"]
    path.write_text(json.dumps(record))
    assert "does not state when" in judge(shards).obstacles[0]


def test_audit_of_an_index_shares_no_code_with_the_lister() -> None:
    for path in [path for package in (collections, sources) for path in Path(package.__path__[0]).glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith(("pipeline.collections", "pipeline.inputs")), path
