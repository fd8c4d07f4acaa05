"""What cannot be read as it stands is refused in one sentence, or counted."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.errors import RunConflictError, ShardError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.records import Reason
from tests.collections.forms import PHOTOS, find, read_samples, write_csv, write_photos, write_tar


def refuse(path: Path, **inputs: object) -> str:
    """Message of the refusal of a collection; nothing counts as its index."""
    index = path.parent / "index-of-refused"
    with pytest.raises(ShardError) as caught:
        find(path, index, **inputs)
    assert not (index / "index.json").exists()
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of photos."""
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


def test_braces_that_name_folders_are_told_so(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_photos(tmp_path / split / "dog")
    assert f"names folders, such as '{tmp_path}/train'; give each by itself" in refuse(tmp_path / "{train,val}")


def test_photos_without_a_word_about_tags_are_refused(folder: Path) -> None:
    assert "nothing about their tags; put a metadata.csv" in refuse(folder)


@pytest.mark.parametrize("places", [("train2017", "val2017"), ("VOC2012/JPEGImages",), ("images/train", "images/val")])
def test_names_of_splits_are_no_classes_and_a_document_beside_them_is_named(
    tmp_path: Path, places: tuple[str, ...]
) -> None:
    for place in places:
        write_photos(tmp_path / "all" / place)
    message = refuse(tmp_path / "all")
    assert f"'{places[0].rpartition('/')[2]}'" in message
    assert "nothing about their tags; put a metadata.csv" in message
    (tmp_path / "all/annotations").mkdir()
    (tmp_path / "all/annotations/instances.json").write_text("{}")
    assert f"name it, as --shards {tmp_path}/all/annotations/instances.json" in refuse(tmp_path / "all")


def test_one_class_among_names_of_splits_is_enough(tmp_path: Path) -> None:
    write_photos(tmp_path / "all/train/dog")
    write_photos(tmp_path / "all/test")
    shards, _ = find(tmp_path / "all", tmp_path / "index")
    assert {sample.tags for sample in read_samples(shards)} == {("dog",), ("test",)}


def test_photos_with_texts_beside_them_are_refused_with_the_command_that_packs_them(folder: Path) -> None:
    for key in PHOTOS:
        (folder / f"{key}.txt").write_text("dog")
    assert f"tar --sort=name -cf photos.tar -C {folder} ." in refuse(folder)


def test_table_of_another_name_beside_photos_is_named(folder: Path) -> None:
    write_csv(folder / "labels.csv")
    assert f"name the table instead, as --shards {folder}/labels.csv" in refuse(folder)


def test_two_metadata_tables_of_a_folder_are_refused(folder: Path) -> None:
    write_csv(folder / "metadata.csv")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.jpg", "tags": []}')
    assert "'metadata.csv' and 'metadata.jsonl'; keep one" in refuse(folder)


def test_shards_and_a_collection_are_two_runs(folder: Path, tmp_path: Path) -> None:
    write_csv(folder / "metadata.csv")
    shard = write_tar(tmp_path / "photos.tar")
    index = IndexPlace(str(tmp_path / "index"), is_begun=False)
    with pytest.raises(ShardError, match="label shards and collections under two --out"):
        find_inputs([str(folder), str(shard)], InputConfig(), index, print, print)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\na.jpg,cat\n", "no column 'tags'; name the column of tags by --inputs.tags-field: "),
        ("number,tags\n1,cat\n", "has no column of paths"),
        ("file_name,tags\na.jpg,cat\nb.jpg,cat,dog\n", "has 3 cells in line 3, its header 2; quote cells"),
        ('file_name,tags\na.jpg,"cat\ndog"\nb.jpg\n', "has 1 cells in line 4, its header 2; complete the line"),
        ("\nfile_name,tags\na.jpg,cat\n", "begins with an empty line"),
        ("a.jpg,cat\nb.jpg,dog\n", "its first line looks like a row: 'a.jpg', 'cat'; write its column names there"),
        ("file_name,path,tags\ngone.jpg,a.jpg,cat\n", "or another column of paths by --inputs.image-column"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer; run 'git lfs"),
        ("<!doctype html><html><body>Sign in</body></html>", "is an HTML page; a login or error page"),
        ('file_name,tags\na.jpg,"cat\n', "is broken at line 2"),
        ("file_name,tags,tags\na.jpg,cat,dog\n", "several columns 'tags'"),
        ("file_name,tags\n", "holds no row"),
        ("", "holds no row"),
        ("file_name,tags\nx/a.jpg,cat\n", "none of its 1 images exists, such as 'x/a.jpg'; its paths start at"),
    ],
)
def test_broken_csv_is_refused_by_its_line(folder: Path, text: str, message: str) -> None:
    (folder / "list.csv").write_text(text)
    assert message in refuse(folder / "list.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "a.jpg", "tags": []}\n\n{"path": \n', "line 3 is not JSON"),
        ('["a.jpg"]\n', "line 1 holds a list"),
        ('{"path": 7, "tags": []}\n', "line 1: 'path' holds a int"),
    ],
)
def test_broken_json_lines_are_refused_by_their_number(folder: Path, text: str, message: str) -> None:
    (folder / "list.jsonl").write_text(text)
    assert message in refuse(folder / "list.jsonl")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"images": [{"id": 1, "file_name": "a.jpg"}]}, "no list of annotations and categories"),
        (
            {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1}], "categories": []},
            "no COCO file of instances",
        ),
        (
            {
                "images": [{"id": 1, "file_name": "a.jpg"}],
                "annotations": [{"image_id": 1, "category_id": 3}],
                "categories": [{"id": 1, "name": "cat"}],
            },
            "category_id 3, which its categories do not have",
        ),
        (
            {
                "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}],
                "annotations": [{"image_id": 1, "category_id": 1}],
                "categories": [{"id": 1, "name": "cat"}],
            },
            "image id 1 stands for 'a.jpg' and for 'b.jpg'",
        ),
        (
            {
                "images": [{"id": 1, "file_name": "a.jpg"}],
                "annotations": [{"image_id": 1, "category_id": 1}],
                "categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}],
            },
            "category id 1 stands for 'cat' and for 'dog'",
        ),
        (
            {
                "images": [{"id": 1, "coco_url": "https://host/a.jpg"}],
                "annotations": [],
                "categories": [{"id": 1, "name": "cat"}],
            },
            "none of its 1 rows names a path; name the column of paths by --inputs.image-column",
        ),
        ({"file_name": {"0": "a.jpg"}}, "neither a COCO file nor a list of records"),
    ],
)
def test_json_that_is_no_collection_is_refused(folder: Path, document: object, message: str) -> None:
    (folder / "all.json").write_text(json.dumps(document))
    assert message in refuse(folder / "all.json")


def test_utf_16_with_its_mark_is_read_and_other_encodings_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "wide.csv").write_text("file_name,tags\na.jpg,cat\n", encoding="utf-16")
    shards, _ = find(folder / "wide.csv", tmp_path / "index")
    assert [sample.tags for sample in read_samples(shards)] == [("cat",)]
    (folder / "bare.csv").write_text("file_name,tags\na.jpg,cat\n", encoding="utf-16-le")
    assert "UTF-16 without a byte order mark; save it as UTF-8" in refuse(folder / "bare.csv")
    (folder / "latin.csv").write_text("file_name,tags\na.jpg,bébé\n", encoding="latin-1")
    assert "is not UTF-8" in refuse(folder / "latin.csv")


def test_json_lines_and_pages_in_place_of_json_are_named(folder: Path) -> None:
    records = [{"file_name": "a.jpg", "tags": ["cat"]}] * 2
    (folder / "lines.json").write_text("\n".join(map(json.dumps, records)))
    assert "holds more than one JSON document; if each of its lines is one, name it *.jsonl" in refuse(
        folder / "lines.json"
    )
    (folder / "page.json").write_text("<html><body>404</body></html>")
    assert "is an HTML page" in refuse(folder / "page.json")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (gzip.compress(b"file_name,tags\na.jpg,cat\n"), "is compressed with gzip; name it *.csv.gz"),
        (PHOTOS["a"], "is an image; write it as text in UTF-8"),
        (b"PK\x03\x04" + bytes(22) + b"\x13\0\0\0[Content_Types].xml\xb5\x94", "is an Excel or Office document"),
    ],
)
def test_table_that_is_no_text_is_named_by_its_kind(folder: Path, payload: bytes, message: str) -> None:
    (folder / "list.csv").write_bytes(payload)
    assert message in refuse(folder / "list.csv")


def test_table_without_a_column_of_paths_beside_photos_is_named_with_the_options(folder: Path) -> None:
    (folder / "classes.csv").write_text("picture,category\na.jpg,cat\n")
    message = refuse(folder)
    assert f"--shards {folder}/classes.csv --inputs.image-column NAME --inputs.tags-field NAME" in message


def test_truncated_gzip_is_named_and_a_whole_one_read(folder: Path, tmp_path: Path) -> None:
    packed = gzip.compress(b"file_name,tags\na.jpg,cat\n")
    (folder / "list.csv.gz").write_bytes(packed[:-6])
    assert "no complete gzip file" in refuse(folder / "list.csv.gz")
    (folder / "list.csv.gz").write_bytes(packed)
    shards, _ = find(folder / "list.csv.gz", tmp_path / "index")
    assert [sample.tags for sample in read_samples(shards)] == [("cat",)]


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.jpg", "https://example.com/a.jpg", "s3://bucket/a.jpg"])
def test_path_out_of_the_root_is_refused_with_the_option_that_allows_it(folder: Path, path: str) -> None:
    (folder / "list.csv").write_text(f"file_name,tags\na.jpg,cat\n{path},dog\n")
    message = refuse(folder / "list.csv")
    assert f"1 of 2 paths lead out of its image root, such as '{path}'" in message
    assert "--inputs.allow-url" in message


def test_absolute_path_below_the_root_is_read(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text(f"file_name,tags\n{folder}/a.jpg,cat\n")
    shards, _ = find(folder / "list.csv", tmp_path / "index")
    assert read_samples(shards)[0].image == PHOTOS["a"]


def test_allowed_folder_outside_the_root_is_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/list.csv").write_text(f"file_name,tags\n{folder}/a.jpg,cat\n../photos/b.jpg,dog\n")
    inputs = {"allow_url": (f"file://{folder}",)}
    shards, _ = find(tmp_path / "tables/list.csv", tmp_path / "index", **inputs)
    assert [sample.image for sample in read_samples(shards, **inputs)] == [PHOTOS["a"], PHOTOS["b"]]


@pytest.mark.parametrize("place", ["example.com", "https://", "file://data", "://x"])
def test_place_without_scheme_and_host_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="is no place; give scheme and host"):
        InputConfig(allow_url=(place,))


def test_missing_photo_and_row_without_path_are_rows_with_a_reason(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,tags\na.jpg,cat\ngone.jpg,dog\n,dog\n")
    shards, said = find(folder, tmp_path / "index")
    samples = read_samples(shards)
    assert [(sample.image is None, sample.image_reason) for sample in samples] == [
        (False, ""),
        (True, Reason.NOT_FOUND),
        (True, Reason.NOT_FOUND),
    ]
    assert any("2 rows are rejected as not_found" in line and "'gone.jpg'" in line for line in said)


def test_photo_that_changed_or_went_after_the_listing_is_a_row_with_a_reason(folder: Path, tmp_path: Path) -> None:
    write_csv(folder / "metadata.csv")
    shards, _ = find(folder, tmp_path / "index")
    (folder / "a.jpg").write_bytes(b"other")
    (folder / "b.jpg").unlink()
    samples = read_samples(shards)
    assert [sample.image_reason for sample in samples[:3]] == [Reason.CHANGED, Reason.NOT_FOUND, ""]
    assert "has 5 bytes" in samples[0].image_error


def test_everything_passed_over_is_counted_and_told(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,tags\na.jpg,cat\n")
    for name in (".hidden.jpg", "__MACOSX/x.jpg", "notes.md", "sub/other.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    _, said = find(folder, tmp_path / "index")
    passed = json.loads((tmp_path / "index/index.json").read_text())["passed_over"]
    assert {kind: entry["count"] for kind, entry in passed.items()} == {
        "hidden files, of names that begin with '.' or '__'": 2,
        "*.md": 1,
        "*.csv": 1,
        "images that no metadata table names": 4,
    }
    assert any("passed over 8 files" in line for line in said)


def test_run_that_has_begun_keeps_its_index_and_refuses_another(folder: Path, tmp_path: Path) -> None:
    write_csv(folder / "metadata.csv")
    shards, _ = find(folder, tmp_path / "index")
    (folder / "metadata.csv").unlink()
    begun = IndexPlace(str(tmp_path / "index"), is_begun=True)
    assert find_inputs([str(folder)], InputConfig(), begun, print, print) == shards
    with pytest.raises(RunConflictError, match=r"index of another collection: .*key_column was None, is 'id'"):
        find_inputs([str(folder)], InputConfig(key_column="id"), begun, print, print)


def test_dry_run_leaves_no_index_below_the_output(folder: Path, tmp_path: Path) -> None:
    write_csv(folder / "metadata.csv")
    place = IndexPlace(str(tmp_path / "out"), is_begun=False, scratch_uri=str(tmp_path / "scratch"))
    shards = find_inputs([str(folder)], InputConfig(), place, print, print)
    assert shards[0].uri.startswith(str(tmp_path / "scratch"))
    assert not (tmp_path / "out").exists()


def test_forged_index_of_a_stranger_is_an_ordinary_parquet_file(folder: Path, tmp_path: Path) -> None:
    write_csv(folder / "metadata.csv")
    shards, _ = find(folder, tmp_path / "index")
    stranger = tmp_path / "index~00000.parquet"
    stranger.write_bytes(Path(shards[0].uri).read_bytes())
    forged = list_shards([str(stranger)])
    assert not forged[0].is_index
    with pytest.raises(ShardError, match="has no column 'image'"):
        read_samples(forged)


def test_chunks_close_by_the_sizes_of_the_index(folder: Path, tmp_path: Path) -> None:
    write_csv(folder / "metadata.csv")
    shards, _ = find(folder, tmp_path / "index")
    config = InputConfig(max_chunk_bytes=len(PHOTOS["a"]) + 1)

    def list_ends() -> list[int]:
        return [piece.end_offset for piece in read_chunks(shards[0], config) if hasattr(piece, "end_offset")]

    before = list_ends()
    (folder / "a.jpg").write_bytes(b"")
    (folder / "c.jpg").unlink()
    assert list_ends() == before
    assert len(before) > 1


def test_path_with_backslashes_does_not_lead_out_of_the_image_root(folder: Path) -> None:
    (folder.parent / "outside.jpg").write_bytes(PHOTOS["b"])
    (folder / "list.csv").write_text("file_name,tags\na.jpg,cat\n..\\outside.jpg,cat\n.\\..\\outside.jpg,cat\n")
    shards, _ = find(folder / "list.csv", folder.parent / "index")
    samples = read_samples(shards)
    assert [sample.image for sample in samples] == [PHOTOS["a"], None, None]
    assert {sample.image_reason for sample in samples[1:]} == {Reason.NOT_FOUND}


@pytest.mark.parametrize(
    "fields",
    [
        {"images": [{"id": [1], "file_name": "a.jpg"}]},
        {"annotations": [["cat"]]},
        {"categories": [{"id": {}, "name": 1}]},
    ],
)
def test_coco_file_of_other_parts_is_refused(folder: Path, fields: dict[str, object]) -> None:
    document = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}
    (folder / "coco.json").write_text(json.dumps(document | fields))
    assert "is no COCO file of instances" in refuse(folder / "coco.json")


def test_table_with_a_row_for_each_tag_is_refused_before_images_get_the_first_one_alone(folder: Path) -> None:
    (folder / "list.csv").write_text("file_name,tags\na.jpg,cat\na.jpg,dog\nb.jpg,dog\n")
    message = refuse(folder / "list.csv")
    assert "1 of 3 rows have the image of an earlier row, with other tags, such as 'a.jpg'" in message
    assert "groupby(...).agg(list)" in message


def test_few_rows_that_come_twice_are_counted_and_told(folder: Path) -> None:
    lines = [f"{key}.jpg,cat" for key in (*PHOTOS, "a", "a")] + [f"x{number}.jpg,cat" for number in range(40)]
    lines.append("b.jpg,dog")
    (folder / "list.csv").write_text("\n".join(["file_name,tags", *lines]))
    shards, said = find(folder / "list.csv", folder.parent / "index")
    assert len(read_samples(shards)) == len(lines)
    what = "all of an earlier row: 2, such as 'a.jpg'; the image of an earlier row, with other tags: 1, such as 'b.jpg'"
    assert f"3 rows have the key of an earlier row; of those in a shard only the first is labelled ({what})" in said


READ_LARGE_PATHS = """
import sys
from itertools import islice
from benchmarks.peak_memory import read_peak_bytes
from pipeline.collections.parquet_tables import read_parquet_table
from pipeline.run.config import InputConfig
rows = list(islice(read_parquet_table(sys.argv[1], InputConfig()), 40))
print(len(rows), read_peak_bytes() // 2**20)
"""


def test_rows_that_share_a_large_path_are_few_at_a_time(tmp_path: Path) -> None:
    path = pa.DictionaryArray.from_arrays(pa.array([0] * 1024, pa.int32()), ["a" * 4_000_000])
    pq.write_table(pa.table({"path": path, "tags": ["cat"] * 1024}), tmp_path / "a.parquet", compression="zstd")
    read = subprocess.run(
        [sys.executable, "-c", READ_LARGE_PATHS, str(tmp_path / "a.parquet")],
        capture_output=True,
        text=True,
        check=True,
    )
    num_rows, peak_mib = map(int, read.stdout.split())
    assert num_rows == 40
    # All 1,024 rows at once take 4 GB.
    assert peak_mib < 1024
