"""The page in a real browser: mask and truth side by side at any width, nothing beyond its edge, controls by key."""

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.truth import open_truth
from pipeline.inputs.shards import list_shards
from pipeline.reports.label_report import build_report
from pipeline.storage.writing import put_atomic
from tests.factories import make_labelled_row, make_mask_png, make_photo, make_run, make_tar

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
LONG = "x" * 300
CLASSES = ("cat", "dog" + LONG)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page of two photos, one wide and one tall, with long keys, classes and tags."""
    folder = tmp_path_factory.mktemp("page")
    photos = {f"wide{LONG}"[:250]: make_photo(0, size=(64, 32)), "tall": make_photo(1, size=(32, 64))}
    make_tar(folder / "photos.tar", {key: {"jpg": photo} for key, photo in photos.items()})
    rows = []
    for key, photo in photos.items():
        mask = np.zeros((32, 64) if key != "tall" else (64, 32), np.uint8)
        mask[8:20, 8:20] = 1
        put_atomic(str(folder / "truth" / f"{key}.png"), make_mask_png(mask))
        maps = np.random.default_rng(0).uniform(0, 1, (2, 3, 4))
        rows.append(make_labelled_row(key, mask, [1, 2], maps, photo=photo, tags_unknown=[LONG, "sky"]))
    make_run(str(folder / "run"), CLASSES, {list_shards([str(folder / "photos.tar")])[0]: rows})
    html = build_report(str(folder / "run"), find_truth=open_truth(str(folder / "truth")))
    (folder / "page.html").write_text(html, "utf-8")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        opened = browser.new_page()
        opened.goto((folder / "page.html").as_uri())
        yield opened
        browser.close()


@pytest.mark.parametrize("width", [360, 768, 1440, 2000])
def test_mask_and_truth_are_side_by_side_and_nothing_overflows(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.add_style_tag(content=".example { content-visibility: visible !important; }")
    sides = page.evaluate(
        "[...document.querySelectorAll('.example')].map(one => ['mask', 'truth'].map("
        "name => one.querySelector(`img[alt=${name}]`).getBoundingClientRect().toJSON()))"
    )
    assert len(sides) == 2
    for mask, truth in sides:
        assert mask["top"] == pytest.approx(truth["top"], abs=1)
        assert mask["width"] == pytest.approx(truth["width"], abs=1)
        assert mask["right"] <= truth["left"] < truth["right"] <= width
        assert mask["width"] > min(120, width / 4)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(one => !one.closest('.scroller') "
        "&& one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"
    )
    assert beyond == []


def test_dark_mode_is_dark_and_its_text_light(page: Any) -> None:
    def brightness(css: str) -> float:
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate(f"getComputedStyle(document.body).{css}")
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3

    values = {}
    for scheme in ("light", "dark"):
        values[scheme] = (brightness("backgroundColor"), brightness("color"))
    assert values["light"][0] > 200 > 60 > values["light"][1]
    assert values["dark"][0] < 60 < 200 < values["dark"][1]


def test_class_maps_open_by_key_and_focus_is_seen(page: Any) -> None:
    page.reload()
    summary = page.locator("summary").first
    for _ in range(40):
        page.keyboard.press("Tab")
        if summary.evaluate("one => one === document.activeElement"):
            break
    assert summary.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    assert not page.locator('img[alt="map: cat"]').first.is_visible()
    page.keyboard.press("Enter")
    assert page.locator('img[alt="map: cat"]').first.is_visible()
