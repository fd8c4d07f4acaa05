"""The same photos in every form give the same samples."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.errors import ShardError
from pipeline.run.config import InputConfig
from pipeline.run.records import Sample
from tests.collections.forms import (
    PHOTOS,
    TAGS,
    find,
    read_samples,
    write_bare_parquet,
    write_coco,
    write_csv,
    write_jsonl,
    write_parquet_table,
    write_photos,
    write_tar,
)

Write = Callable[[Path], Path]


def summarise(samples: list[Sample]) -> list[tuple[str, bytes | memoryview | None, set[str], str]]:
    return [(sample.key, sample.image, set(sample.tags), sample.tags_error) for sample in samples]


@pytest.fixture
def wanted(tmp_path: Path) -> list[tuple[str, bytes | memoryview | None, set[str], str]]:
    """The samples of the tar."""
    shards, _ = find(write_tar(tmp_path / "tar/photos.tar"), tmp_path / "unused")
    found = summarise(read_samples(shards))
    assert [entry[:3] for entry in found] == [(key, PHOTOS[key], set(tags)) for key, tags in TAGS.items()]
    return found


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("list.csv", write_csv),
        ("list.jsonl", write_jsonl),
        ("list.parquet", write_parquet_table),
        ("bare.parquet", write_bare_parquet),
        ("metadata.csv", write_csv),
        ("metadata.jsonl", write_jsonl),
        ("metadata.parquet", write_parquet_table),
    ],
)
def test_table_beside_photos_gives_the_samples_of_the_tar(
    tmp_path: Path, name: str, write: Write, wanted: list[tuple[str, bytes | memoryview | None, set[str], str]]
) -> None:
    folder = tmp_path / "photos"
    write_photos(folder)
    table = write(folder / name)
    shards, _ = find(folder if name.startswith("metadata") else table, tmp_path / "index")
    assert summarise(read_samples(shards)) == wanted


def test_coco_file_gives_the_samples_of_the_tar(
    tmp_path: Path, wanted: list[tuple[str, bytes | memoryview | None, set[str], str]]
) -> None:
    write_photos(tmp_path / "photos")
    coco = write_coco(tmp_path / "photos/instances.json")
    shards, _ = find(coco, tmp_path / "index", key_column="name")
    assert summarise(read_samples(shards)) == wanted


def test_coco_file_finds_photos_in_the_folder_of_its_split(tmp_path: Path) -> None:
    write_photos(tmp_path / "coco/train2017")
    (tmp_path / "coco/annotations").mkdir()
    coco = write_coco(tmp_path / "coco/annotations/instances_train2017.json")
    shards, said = find(coco, tmp_path / "index")
    assert [sample.image for sample in read_samples(shards)] == list(PHOTOS.values())
    assert any("are in" in line and "train2017" in line for line in said)


def test_class_folders_give_a_tag_each(tmp_path: Path) -> None:
    for key, tags in TAGS.items():
        if tags:
            folder = tmp_path / "photos/train" / tags[0]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{key}.jpg").write_bytes(PHOTOS[key])
    shards, _ = find(tmp_path / "photos", tmp_path / "index")
    samples = read_samples(shards)
    assert [(sample.key, sample.tags) for sample in samples] == [
        ("train/cat/a.jpg", ("cat",)),
        ("train/cat/c.jpg", ("cat",)),
        ("train/dog/b.jpg", ("dog",)),
        ("train/dog/d.jpg", ("dog",)),
    ]
    assert samples[0].image == PHOTOS["a"]


def test_path_is_the_key_without_a_column_of_keys(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos/sub")
    (tmp_path / "photos/list.tsv").write_text("filename\ttags\nsub/a.jpg\tcat\nsub\\b.jpg\tdog\n")
    shards, _ = find(tmp_path / "photos/list.tsv", tmp_path / "index")
    samples = read_samples(shards)
    assert [sample.key for sample in samples] == ["sub/a.jpg", "sub\\b.jpg"]
    assert [sample.image for sample in samples] == [PHOTOS["a"], PHOTOS["b"]]


def test_metadata_of_a_sub_folder_applies_to_it(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_photos(tmp_path / "photos" / split)
        write_csv(tmp_path / "photos" / split / "metadata.csv", ("id", "file_name", "tags"))
    shards, _ = find(tmp_path / "photos", tmp_path / "index")
    samples = read_samples(shards)
    assert [sample.key for sample in samples] == [f"{split}/{key}.jpg" for split in ("test", "train") for key in PHOTOS]
    assert all(sample.image for sample in samples)


def test_equal_paths_of_two_tables_or_folders_have_keys_of_their_own(tmp_path: Path) -> None:
    tables, folders = [], []
    for split in ("train", "val"):
        write_photos(tmp_path / "photos" / split)
        tables.append(str(write_csv(tmp_path / "photos" / split / "list.csv", ("id", "file_name", "tags"))))
        write_photos(tmp_path / "classes" / split / "dog")
        folders.append(str(tmp_path / "classes" / split))
    index = IndexPlace(str(tmp_path / "index"), is_begun=False)
    samples = read_samples(find_inputs(tables, InputConfig(), index, print, print))
    assert [sample.key for sample in samples] == [f"{split}/{key}.jpg" for split in ("train", "val") for key in PHOTOS]
    index = IndexPlace(str(tmp_path / "other"), is_begun=False)
    samples = read_samples(find_inputs([folders[1] + "/", folders[0]], InputConfig(), index, print, print))
    assert [sample.key for sample in samples] == [
        f"{split}/dog/{key}.jpg" for split in ("val", "train") for key in PHOTOS
    ]


def test_table_of_the_same_photos_on_s3_gives_the_same_samples(s3_folder: str, tmp_path: Path) -> None:
    from pipeline.storage.writing import put_atomic

    write_photos(tmp_path / "photos")
    write_csv(tmp_path / "photos/metadata.csv")
    for path in (tmp_path / "photos").iterdir():
        put_atomic(f"{s3_folder}/photos/{path.name}", path.read_bytes())
    local, _ = find(tmp_path / "photos", tmp_path / "index")
    remote, _ = find(f"{s3_folder}/photos", f"{s3_folder}/index")
    table, _ = find(f"{s3_folder}/photos/metadata.csv", f"{s3_folder}/other")
    listed = read_samples(remote)
    assert listed == read_samples(table)
    assert all(sample.image_uri.startswith(f"{s3_folder}/photos/") for sample in listed)
    assert forget_places(listed) == forget_places(read_samples(local))


def forget_places(samples: list[Sample]) -> list[Sample]:
    return [replace(sample, image_uri="") for sample in samples]


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        ("[b'dog', b'cat']", ("dog", "cat")),
        ("{'cat': {True}}", ()),
        ("[1+2j, 'cat']", ("(1+2j)", "cat")),
        ("{(1, 2): 3}", ("{(1", "2): 3}")),
    ],
)
def test_list_of_python_with_values_that_json_lacks_is_read_or_is_a_bad_tag(
    tmp_path: Path, cell: str, tags: tuple[str, ...]
) -> None:
    write_photos(tmp_path / "photos")
    (tmp_path / "photos/list.csv").write_text(f'file_name,tags\na.jpg,"{cell}"\n')
    shards, _ = find(tmp_path / "photos/list.csv", tmp_path / "index")
    (sample,) = read_samples(shards)
    assert sample.tags == tags
    assert bool(sample.tags_error) == (not tags)


def test_file_whose_name_is_not_utf_8_is_a_row_that_names_it(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos/cat")
    for number in (0xFE, 0xFF):
        odd = os.fsencode(tmp_path / "photos/cat") + bytes([ord("/"), number]) + b".jpg"
        Path(os.fsdecode(odd)).write_bytes(PHOTOS["a"])
    shards, said = find(tmp_path / "photos", tmp_path / "index")
    samples = read_samples(shards)
    assert [sample.key for sample in samples[-2:]] == ["cat/\\udcfe.jpg", "cat/\\udcff.jpg"]
    assert all("is not UTF-8; rename the file" in sample.image_error for sample in samples[-2:])
    assert all(sample.image for sample in samples[:-2])
    assert any("the name of their file is not UTF-8: 2" in line for line in said)


def test_image_root_is_where_paths_start(tmp_path: Path) -> None:
    write_photos(tmp_path / "elsewhere")
    table = write_csv(tmp_path / "list.csv")
    shards, _ = find(table, tmp_path / "index", image_root=str(tmp_path / "elsewhere"))
    assert [sample.image for sample in read_samples(shards)] == list(PHOTOS.values())


def test_numbers_of_a_class_label_are_read_as_names(tmp_path: Path) -> None:

    write_photos(tmp_path / "photos")
    features = {"info": {"features": {"label": {"names": ["cow", "cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"file_name": ["a.jpg", "b.jpg", "c.jpg"], "label": [1, 2, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, tmp_path / "photos/list.parquet")
    inputs = {"tags_field": "label"}
    shards, _ = find(tmp_path / "photos/list.parquet", tmp_path / "index", **inputs)
    assert [sample.tags for sample in read_samples(shards, **inputs)] == [("cat",), ("dog",), ()]


def test_class_numbers_of_records_and_options_mean_the_same_in_a_table(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    labels = {"names": ["cow", "cat", "dog"], "_type": "ClassLabel"}
    features = {
        "info": {"features": {"objects": {"feature": {"category": labels}, "_type": "Sequence"}, "label": labels}}
    }
    objects = [{"category": [1, 2]}, {"category": []}, None]
    table = pa.table({"file_name": ["a.jpg", "b.jpg", "c.jpg"], "objects": objects, "label": [1, 9, 0]})
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "photos/list.parquet"
    )
    inputs: dict[str, Any] = {"tags_field": "objects"}
    shards, _ = find(tmp_path / "photos/list.parquet", tmp_path / "index", **inputs)
    assert [sample.tags for sample in read_samples(shards, **inputs)] == [("cat", "dog"), (), ()]
    inputs = {"tags_field": "label"}
    shards, _ = find(tmp_path / "photos/list.parquet", tmp_path / "index-2", **inputs)
    assert [(sample.tags, bool(sample.tags_error)) for sample in read_samples(shards, **inputs)] == [
        (("cat",), False),
        ((), True),
        (("cow",), False),
    ]
    inputs |= {"class_numbers": "names:x", "class_names": ((0, "lion"), (1, "tiger"), (9, "bear"))}
    shards, _ = find(tmp_path / "photos/list.parquet", tmp_path / "index-3", **inputs)
    assert [sample.tags for sample in read_samples(shards, **inputs)] == [("tiger",), ("bear",), ("lion",)]


@pytest.mark.parametrize("key", [1.5, True])
def test_keys_of_several_spellings_are_refused(tmp_path: Path, key: Any) -> None:
    write_photos(tmp_path / "photos")
    rows = [{"path": "a.jpg", "tags": "cat", "key": value} for value in (7, key)]
    (tmp_path / "photos/list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ShardError, match="line 2: 'key' holds .*, need text or whole numbers; write it as text"):
        find(tmp_path / "photos/list.jsonl", tmp_path / "index")
    pq.write_table(pa.Table.from_pylist(rows[1:]), tmp_path / "photos/list.parquet")
    with pytest.raises(ShardError, match="column 'key' holds .*, need text or whole numbers"):
        find(tmp_path / "photos/list.parquet", tmp_path / "index")


def test_partitions_are_columns_of_a_table_of_paths(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    table = pa.table({"file_name": ["a.jpg", "b.jpg", "c.jpg"], "label": ["cat", None, "hot dog"]})
    pq.write_to_dataset(table, str(tmp_path / "tables"), partition_cols=["label"])
    inputs = {"tags_field": "label", "image_root": str(tmp_path / "photos")}
    shards, _ = find(tmp_path / "tables", tmp_path / "index", **inputs)
    found = {sample.key: (sample.image, sample.tags) for sample in read_samples(shards, **inputs)}
    assert found == {
        "a.jpg": (PHOTOS["a"], ("cat",)),
        "b.jpg": (PHOTOS["b"], ()),
        "c.jpg": (PHOTOS["c"], ("hot dog",)),
    }


def test_photos_need_no_tags_beside_a_table_of_tags(tmp_path: Path) -> None:
    write_photos(tmp_path / "flat")
    inputs = {"tags_table": str(tmp_path / "tags.csv")}
    shards, _ = find(tmp_path / "flat", tmp_path / "index", **inputs)
    assert [sample.key for sample in read_samples(shards)] == [f"{key}.jpg" for key in PHOTOS]
    (tmp_path / "flat/list.csv").write_text("file_name\na.jpg\n")
    shards, _ = find(tmp_path / "flat/list.csv", tmp_path / "index", **inputs)
    assert [sample.image for sample in read_samples(shards)] == [PHOTOS["a"]]


def test_folder_named_as_a_parquet_file_is_read_as_its_files(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    (tmp_path / "photos/list.parquet").mkdir()
    write_parquet_table(tmp_path / "photos/list.parquet/part-0.parquet")
    shards, _ = find(tmp_path / "photos/list.parquet", tmp_path / "index", image_root=str(tmp_path / "photos"))
    assert [sample.image for sample in read_samples(shards)] == list(PHOTOS.values())
