"""A collection that grows: what its run has stays, and what is new is added once."""

import json
import shutil
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from pipeline.commit.manifests import open_manifest
from pipeline.commit.names import locate_manifest
from pipeline.commit.retry import open_retry
from pipeline.errors import RunConflictError, ShardError
from pipeline.kept_maps.kept_run import open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.label import label_run
from pipeline.remask import remask_run
from pipeline.run.run_file import Run
from pipeline.storage.listing import exists
from pipeline.storage.uris import join_uri
from tests.collections.growing import StartDriver, add_photos, check_books, list_keys, write_table
from tests.factories import make_photo, make_tar
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS, read_all


def test_new_images_are_added_and_the_old_files_stay(
    start_driver: StartDriver, photos: Path, folder_uri: str, tmp_path: Path
) -> None:
    driver = start_driver(out_uri=folder_uri)
    driver.label()
    before = read_all(folder_uri)
    add_photos(photos, "cat/a.jpg", "cow/x.jpg", "dog/b.jpg")
    run = driver.label()
    assert run.num_before == 1
    assert driver.said[-1].endswith("3 of 6 rows are new, 3 of these with tags")
    after = read_all(folder_uri)
    assert {name: after[name] for name in before} == before
    added = sorted(name.rpartition(".")[2] for name in after.keys() - before.keys())
    assert added == ["json", "json", "parquet", "parquet"]
    assert list_keys(folder_uri) == [["cat/b.jpg", "cat/d.jpg", "dog/a.jpg"], ["cat/a.jpg", "cow/x.jpg", "dog/b.jpg"]]
    check_books(folder_uri)

    whole = start_driver(out_uri=str(tmp_path / "whole")).label()
    masks = [
        {row["key"]: (row["status"], row["mask"]) for shard in of.shards for row in _read_rows(of, shard.name)}
        for of in (run, whole)
    ]
    assert masks[0] == masks[1]


def _read_rows(run: Run, name: str) -> Any:
    return open_manifest(locate_manifest(run.out_uri, name)).iterate_rows()


def test_grown_run_resumes_with_and_without_the_option(start_driver: StartDriver, photos: Path) -> None:
    driver = start_driver()
    driver.label()
    add_photos(photos, "cat/a.jpg")
    driver.label()
    files = read_all(driver.out_uri)
    for extend in (True, False):
        assert len(driver.label(extend).shards) == 2
        assert read_all(driver.out_uri) == files
    assert driver.said[-2].endswith("none of 4 rows is new")
    assert "using the list of 4 images that this run has; --extend would list them again" in driver.said[-1]


def test_images_that_are_added_without_the_option_wait(start_driver: StartDriver, photos: Path) -> None:
    driver = start_driver()
    driver.label()
    add_photos(photos, "cat/a.jpg")
    files = read_all(driver.out_uri)
    driver.label(extend=False)
    assert read_all(driver.out_uri) == files
    for name in "efg":
        add_photos(photos, f"cat/{name}.jpg")
        driver.label()
    assert list_keys(driver.out_uri)[1:] == [["cat/a.jpg", "cat/e.jpg"], ["cat/f.jpg"], ["cat/g.jpg"]]
    check_books(driver.out_uri)


ROWS = [("1", "cat/b.jpg", "cat"), ("2", "cat/d.jpg", "cat"), ("3", "gone.jpg", "dog")]
HEADER = ("key", "file_name", "tags")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1", "cat/b.jpg", "dog"), *ROWS[1:]], "other tags: 1, such as '1'"),
        (ROWS[1:], "no longer listed: 1, such as '1'"),
        ([ROWS[0], ("2", "dog/a.jpg", "cat"), ROWS[2]], "another path or key: 1, such as '2'"),
        ([("one", "cat/b.jpg", "cat"), *ROWS[1:]], "another path or key: 1, such as 'one'"),
        ([*ROWS, ROWS[1]], "listed once more under the same key and path: 1, such as '2'"),
    ],
)
def test_rows_of_a_table_that_changed_stay_and_are_told(
    start_driver: StartDriver, photos: Path, rows: list[tuple[str, ...]], message: str
) -> None:
    table = write_table(photos / "metadata.csv", ROWS, HEADER)
    driver = start_driver()
    driver.label()
    before = read_all(driver.out_uri)
    write_table(table, rows, HEADER)
    driver.label()
    assert f"the 3 rows of the run stay as they were listed first, but differ now ({message});" in driver.said[-1]
    assert read_all(driver.out_uri) == before
    # A row that is new is added beside them.
    write_table(table, [*rows, ("4", "dog/a.jpg", "dog")], HEADER)
    driver.label()
    assert list_keys(driver.out_uri) == [["1", "2", "3"], ["4"]]
    check_books(driver.out_uri)


def test_images_that_changed_stay_labelled_and_missing_ones_can_be_retried(
    start_driver: StartDriver, photos: Path
) -> None:
    write_table(photos / "metadata.csv", ROWS, HEADER)
    driver = start_driver()
    driver.label()
    add_photos(photos, "gone.jpg")
    (photos / "cat/b.jpg").write_bytes(make_photo(99, (64, 48)))
    (photos / "cat/d.jpg").unlink()
    driver.label()
    for message in (
        "another image, by its size or etag: 1, such as '1'",
        "their image is missing now: 1, such as '2'",
        "their image was missing and is there now: 1, such as '3'",
        "--retry rejected:not_found labels what was missing",
    ):
        assert message in driver.said[-1]
    assert len(list_keys(driver.out_uri)) == 1
    run, order = open_retry(Run(**driver.describe(driver.find(extend=False)), fingerprint=""), ("not_found",))
    label_run(run, OPTIONS, cluster=SerialCluster(), retry=order)
    rows = list(_read_rows(run, "index~00000"))
    assert [(row["key"], row["status"]) for row in rows] == [("1", "labelled"), ("2", "labelled"), ("3", "labelled")]


def test_rows_of_one_key_and_of_no_path_are_matched_one_by_one(start_driver: StartDriver, photos: Path) -> None:
    rows = [("cat/b.jpg", "cat"), ("", "dog"), ("cat/b.jpg", "cat")]
    table = write_table(photos / "metadata.csv", rows)
    driver = start_driver()
    driver.label()
    # The row without a path is now another one of the table, and there is a second one.
    write_table(table, [("cat/d.jpg", "cat"), ("", "dog"), *rows])
    driver.label()
    assert Counter(key.rpartition("/")[2] for key in chain.from_iterable(list_keys(driver.out_uri))) == {
        "b.jpg": 2,
        "d.jpg": 1,
        "metadata.csv, line 3 without a path": 1,
        "metadata.csv, line 5 without a path": 1,
    }
    driver.label()
    assert any(line.endswith("none of 5 rows is new") for line in driver.said)
    check_books(driver.out_uri)


def test_new_image_of_a_key_that_is_still_listed_is_a_row_of_its_own(start_driver: StartDriver, photos: Path) -> None:
    tables = [
        write_table(photos / f"{number}.csv", [(number, path, "cat")], HEADER)
        for number, path in (("1", "cat/b.jpg"), ("2", "cat/d.jpg"))
    ]
    driver = start_driver(*tables)
    driver.label()
    write_table(tables[1], [("2", "cat/d.jpg", "cat"), ("1", "dog/a.jpg", "dog")], HEADER)
    driver.label()
    assert list_keys(driver.out_uri) == [["1", "2"], ["1"]]
    check_books(driver.out_uri)


def test_further_table_is_added_beside_the_old_one_and_not_in_its_place(
    start_driver: StartDriver, photos: Path
) -> None:
    one = write_table(photos / "one.csv", [("cat/b.jpg", "cat")])
    two = write_table(photos / "two.csv", [("dog/a.jpg", "dog"), ("cat/b.jpg", "cat")])
    start_driver(one).label()
    with pytest.raises(RunConflictError, match=r"patterns.*; name the old ones, too, with the same options"):
        start_driver(two).label()
    driver = start_driver(one, two)
    with pytest.raises(RunConflictError, match=r"is the index of another collection.*give the same command as before"):
        driver.label(extend=False)
    driver.label()
    assert "1 of 3 rows are new" in driver.said[0]
    assert list_keys(driver.out_uri) == [["cat/b.jpg"], ["dog/a.jpg"]]
    for patterns in ((one,), (one, two)):
        assert len(start_driver(*patterns).label(extend=False).shards) == 2
    with pytest.raises(RunConflictError, match="name the old ones, too"):
        start_driver(one).label()


def test_new_images_of_which_none_exists_are_refused_and_nothing_is_recorded(
    start_driver: StartDriver, photos: Path
) -> None:
    table = write_table(photos / "metadata.csv", [("cat/b.jpg", "cat")])
    driver = start_driver()
    driver.label()
    write_table(table, [("cat/b.jpg", "cat"), ("later.jpg", "cat")])
    with pytest.raises(ShardError, match=r"what is new in folder .* none of its 1 images exists, such as 'later.jpg'"):
        driver.label()
    assert not exists(join_uri(driver.out_uri, "extensions/000001.json"))
    add_photos(photos, "later.jpg")
    driver.label()
    assert list_keys(driver.out_uri) == [["cat/b.jpg"], ["later.jpg"]]
    check_books(driver.out_uri)


def test_folder_that_became_one_of_shards_is_named(start_driver: StartDriver, photos: Path) -> None:
    driver = start_driver()
    driver.label()
    shutil.rmtree(photos)
    make_tar(photos / "photos.tar", {"a": {"jpg": make_photo(1), "txt": b"cat"}})
    with pytest.raises(ShardError, match="was a collection when this run was begun, and is none now"):
        driver.label()
    driver.label(extend=False)


def test_new_masks_are_made_of_a_grown_run(start_driver: StartDriver, photos: Path, tmp_path: Path) -> None:
    driver = start_driver(keep_maps=True)
    masks_uri = str(tmp_path / "masks")

    def remask(**options: Any) -> None:
        kept = open_kept_run(driver.out_uri)
        remask_run(open_remask(masks_uri, kept, kept.config.maps, **options), cluster=SerialCluster())

    driver.label()
    remask()
    add_photos(photos, "cat/a.jpg")
    driver.label()
    with pytest.raises(RunConflictError, match="add --extend"):
        remask()
    remask(extend=True)
    assert list_keys(masks_uri) == list_keys(driver.out_uri)
    check_books(masks_uri)


def test_record_of_the_growth_counts_what_was_found(start_driver: StartDriver, photos: Path) -> None:
    driver = start_driver()
    driver.label()
    add_photos(photos, "cat/a.jpg")
    (photos / "dog/a.jpg").unlink()
    (photos / "notes.md").write_text("x")
    run = driver.label()
    (path,) = (Path(driver.out_uri) / "inputs").glob("index-*.json")
    record = json.loads(path.read_text())
    assert record["shards"] == [run.shards[1].uri.rpartition("/")[2]]
    assert record["source"] == json.loads((path.parent / "index.json").read_text())["source"]
    assert (record["num_rows"], record["num_rows_before"], record["num_shards_before"]) == (1, 3, 1)
    assert record["rows_before_that_differ"] == {"no longer listed": {"count": 1, "example": "dog/a.jpg"}}
    assert record["passed_over"] == {"*.md": {"count": 1, "example": "notes.md"}}


def test_output_that_was_moved_is_named_and_not_extended_twice(
    start_driver: StartDriver, photos: Path, tmp_path: Path
) -> None:
    driver = start_driver()
    driver.label()
    moved = start_driver(out_uri=str(tmp_path / "moved"))
    shutil.copytree(driver.out_uri, moved.out_uri)
    add_photos(photos, "cat/a.jpg")
    for extend in (True, False):
        with pytest.raises(RunConflictError, match=r"has its index in '.*/out/inputs', and .* in '.*/moved/inputs'"):
            moved.label(extend)


def test_output_may_be_spelled_otherwise(
    start_driver: StartDriver, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start_driver(out_uri="out").label()
    add_photos(photos, "cat/a.jpg")
    assert len(start_driver().label().shards) == 2
    check_books("out")
