"""A collection that grows while drivers are killed, lose replies, or list it at the same time."""

import contextlib
from itertools import chain
from pathlib import Path

import pytest

from jobs.execution.inputs import open_listed_run
from pipeline.errors import GrowthConflictError
from pipeline.run.records import InputShard
from pipeline.run.run_file import Run
from tests.collections.growing import Driver, StartDriver, add_photos, check_books, list_keys
from tests.fakes import CrashError, FaultyStore
from tests.small_run import read_all

OUT = "faulty://out"
NUM_WRITES = 11
"""The index shard and its record, the attempt at run.json, the extension, a heartbeat, 2 parts and their deletion and a
manifest, and the heartbeat's end."""


def grow_in_faulty_store(start_driver: StartDriver, photos: Path) -> tuple[Driver, dict[str, bytes]]:
    """A published run whose folder has grown; all that it left, by name."""
    driver = start_driver(out_uri=OUT)
    driver.label()
    before = read_all(OUT)
    add_photos(photos, "cat/a.jpg", "cat/c.jpg", "dog/b.jpg")
    FaultyStore.heal()
    return driver, before


def test_growth_is_committed_by_the_extension_after_its_index(
    start_driver: StartDriver, photos: Path, faulty_uri: str
) -> None:
    driver, _ = grow_in_faulty_store(start_driver, photos)
    driver.label()
    names = [name.rpartition("/")[2] for name in FaultyStore.writes]
    assert [name.rpartition(".")[2] for name in names[:2]] == ["parquet", "json"]
    assert names[2:5] == ["run.json", "000001.json", "driver.json"]
    assert len(names) == NUM_WRITES


@pytest.mark.parametrize("moment", ["before_write", "after_write"])
@pytest.mark.parametrize(
    ("number", "more"),
    [*((number, ()) for number in range(NUM_WRITES)), *((number, ("cow/e.jpg",)) for number in range(4))],
)
def test_growth_resumes_after_a_crash_at_any_write_with_each_image_in_one_row(
    start_driver: StartDriver, photos: Path, faulty_uri: str, moment: str, number: int, more: tuple[str, ...]
) -> None:
    driver, before = grow_in_faulty_store(start_driver, photos)

    def crash(count: int, name: str) -> None:
        if count == number:
            raise CrashError(name)

    setattr(FaultyStore, moment, staticmethod(crash))
    with contextlib.suppress(CrashError):
        driver.label()
    FaultyStore.heal()
    # Without a further image the bytes are the same; with one the listing is another one.
    add_photos(photos, *more)
    driver.label()
    after = read_all(OUT)
    assert {name: after[name] for name in before} == before
    wanted = ["cat/a.jpg", "cat/b.jpg", "cat/c.jpg", "cat/d.jpg", *more, "dog/a.jpg", "dog/b.jpg"]
    assert sorted(chain.from_iterable(list_keys(OUT))) == wanted
    check_books(OUT)
    if not more:
        assert len(after) == len(before) + 4


def test_growth_whose_replies_are_lost_is_not_repeated(
    start_driver: StartDriver, photos: Path, faulty_uri: str
) -> None:
    driver, before = grow_in_faulty_store(start_driver, photos)
    lost: set[str] = set()

    def lose_reply(number: int, name: str) -> None:
        if name not in lost and ("extensions" in name or "inputs" in name):
            lost.add(name)
            raise ConnectionResetError("reply lost")

    FaultyStore.after_write = staticmethod(lose_reply)
    driver.label()
    assert len(lost) == 3
    assert len(read_all(OUT)) == len(before) + 4
    check_books(OUT)


@pytest.mark.parametrize("moment", ["inputs/index-", "extensions/"])
def test_drivers_that_list_a_growing_folder_at_the_same_time_add_each_image_once(
    start_driver: StartDriver, photos: Path, faulty_uri: str, moment: str
) -> None:
    driver, _ = grow_in_faulty_store(start_driver, photos)
    rival = start_driver(out_uri=OUT)

    def list_first(number: int, name: str) -> None:
        if moment in name:
            FaultyStore.heal()
            # An image that the other driver has seen is gone, and there are others.
            (photos / "cat/c.jpg").unlink()
            add_photos(photos, "cow/e.jpg")
            rival.label()
            add_photos(photos, "cat/c.jpg", "cow/f.jpg")

    FaultyStore.before_write = staticmethod(list_first)
    driver.label()
    assert any("another driver listed the collection" in line for line in driver.said)
    assert list_keys(OUT)[1:] == [["cat/a.jpg", "cow/e.jpg", "dog/b.jpg"], ["cat/c.jpg", "cow/f.jpg"]]
    check_books(OUT)
    for one in (driver, rival):
        assert one.label(extend=False).num_before == 3


def test_drivers_with_the_same_listing_add_it_once(start_driver: StartDriver, photos: Path, faulty_uri: str) -> None:
    driver, before = grow_in_faulty_store(start_driver, photos)

    def list_first(number: int, name: str) -> None:
        if "extensions/" in name:
            FaultyStore.heal()
            start_driver(out_uri=OUT).label()

    FaultyStore.before_write = staticmethod(list_first)
    driver.label()
    assert len(read_all(OUT)) == len(before) + 4
    assert len(list_keys(OUT)) == 2
    check_books(OUT)


def test_drivers_that_begin_at_the_same_time_with_other_listings_label_each_image_once(
    start_driver: StartDriver, photos: Path, faulty_uri: str
) -> None:
    driver, rival = (start_driver(out_uri=OUT) for _ in range(2))

    def begin_first(number: int, name: str) -> None:
        if name.endswith("run.json"):
            FaultyStore.heal()
            add_photos(photos, "cat/a.jpg")
            rival.label(extend=False)

    FaultyStore.before_write = staticmethod(begin_first)
    driver.label(extend=False)
    assert list_keys(OUT) == [["cat/a.jpg", "cat/b.jpg", "cat/d.jpg", "dog/a.jpg"]]
    check_books(OUT)


def test_driver_that_is_always_too_late_ends_with_an_error(start_driver: StartDriver, photos: Path) -> None:
    driver = start_driver()

    def lose(shards: tuple[InputShard, ...]) -> Run:
        raise GrowthConflictError("another driver listed the collection at the same time; run the same command again")

    with pytest.raises(GrowthConflictError, match="run the same command again"):
        open_listed_run(driver.find(), driver.find, lose, driver.said.append)
