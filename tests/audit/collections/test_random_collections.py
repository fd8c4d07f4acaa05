"""Random collections by an independent writer: their index agrees, and what is taken from it is named."""

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audit.collections.judge import judge_collections
from pipeline.audit.verdict import Check
from pipeline.run.records import InputShard
from tests.collections.forms import find

# No separator of paths, no surrogates, and no letters that a disk may write in another form.
NAMES = st.text(st.sampled_from("abAB01 .-_,;'\"é中#%&+=()"), min_size=1, max_size=8)
SUFFIXES = st.sampled_from(["jpg", "JPG", "png", "webp", "txt", "json", "md", "heic"])
FILES = st.lists(st.tuples(NAMES, NAMES, SUFFIXES), min_size=1, max_size=12)
TAGS = st.one_of(
    st.none(), st.sampled_from(["cat", "cat, dog", "é; 中", "it's"]), st.lists(st.sampled_from(["cat", "a b", "é"]))
)
# A row for each image: a table with a row for each tag is refused.
ROWS = st.lists(st.tuples(NAMES, TAGS), min_size=1, max_size=12, unique_by=lambda row: row[0].strip())


def take_row(index: Path, number: int) -> dict[str, Any]:
    """Take a row out of the index, as a lister would that loses it: all numbers agree."""
    record = json.loads((index / "index.json").read_text())
    path = index / record["shards"][0]
    table = pq.read_table(path)
    taken: dict[str, Any] = table.slice(number % table.num_rows, 1).to_pylist()[0]
    start = number % table.num_rows
    pq.write_table(pa.concat_tables([table.slice(0, start), table.slice(start + 1)]), path)
    record["num_rows"] -= 1
    record["num_rows_with_tags"] -= taken["tags"] not in (None, "null", '""', "[]")
    for kind, entry in record["rows_without_image"].items():
        entry["count"] -= taken["problem"] is not None and (kind == "they name no path") == (taken["path"] is None)
    (index / "index.json").write_text(json.dumps(record))
    return taken


def check(shards: tuple[InputShard, ...], index: Path, number: int) -> None:
    """Compare an index as it is, and without one of its rows."""
    result = judge_collections(shards, has_tags_table=False)
    assert (dict(result.verdict.findings), result.obstacles) == ({}, [])
    taken = take_row(index, number)
    result = judge_collections(shards, has_tags_table=False)
    assert list(result.verdict.findings) == [Check.UNLISTED_IMAGES]
    examples = result.verdict.findings[Check.UNLISTED_IMAGES].examples
    assert any(f"{taken['path']}' is no row" in example.text for example in examples)


@settings(max_examples=25, deadline=None)
@given(files=FILES, number=st.integers(0, 100))
def test_index_of_random_class_folders_agrees_and_a_lost_image_is_named(
    files: list[tuple[str, str, str]], number: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        photos, index = Path(name, "photos"), Path(name, "index")
        for folder, stem, suffix in files:
            place = photos / "train" / (folder if folder.strip(".") else "dots")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{stem}.{suffix}").write_bytes(b"x")
        (photos / "train/cats").mkdir(exist_ok=True)
        (photos / "train/cats/one.jpg").write_bytes(b"x")
        shards, _ = find(photos, index)
        check(shards, index, number)


@settings(max_examples=25, deadline=None)
@given(rows=ROWS, is_csv=st.booleans(), number=st.integers(0, 100))
def test_index_of_a_random_table_agrees_and_a_lost_row_is_named(
    rows: list[tuple[str, Any]], is_csv: bool, number: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        photos, index = Path(name, "photos"), Path(name, "index")
        photos.mkdir()
        records = [{"file_name": f"{stem}.jpg", "tags": tags} for stem, tags in rows]
        # Some images do not exist; one does, else the collection is refused.
        for record in [*records[::2], {"file_name": "one.jpg"}]:
            (photos / record["file_name"].strip()).write_bytes(b"x")
        records.append({"file_name": "one.jpg", "tags": "cat"})
        table = photos / ("metadata.csv" if is_csv else "metadata.jsonl")
        if is_csv:
            with table.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["file_name", "tags"])
                writer.writeheader()
                writer.writerows(
                    record
                    | {"tags": json.dumps(record["tags"]) if isinstance(record["tags"], list) else record["tags"]}
                    for record in records
                )
        else:
            table.write_text("\n".join(map(json.dumps, records)))
        shards, _ = find(photos, index)
        check(shards, index, number)


def test_hidden_images_that_a_table_names_are_rows_and_agree(tmp_path: Path) -> None:
    photos, index = tmp_path / "photos", tmp_path / "index"
    photos.mkdir()
    for name in (".x.jpg", "a.jpg", "__y.jpg", ".z.jpg"):
        (photos / name).write_bytes(b"x")
    (photos / "metadata.csv").write_text("file_name,tags\n.x.jpg,cat\na.jpg,dog\n__y.jpg,dog\n.gone.jpg,cat\n")
    shards, _ = find(photos, index)
    rows = pq.read_table(shards[0].uri).to_pylist()
    assert [row["problem"] is None for row in rows] == [True, True, True, False]
    check(shards, index, 0)
