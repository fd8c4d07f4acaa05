"""The page in a real browser, with the real server of a small real run: what the made-up one cannot prove."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.images.orientation import ORIENTATIONS
from pipeline.published.decisions import RowId, read_decisions
from tests.corrected_masks import correct
from tests.review.browser_page import watch_page
from tests.review.real_run import HOSTILE_KEYS, MODES, Client, make_reviewed_run, make_square, make_truth, serve
from tests.review.test_list_of_images import list_shown, plain, wait_for_total

NUM_ROWS = len(ORIENTATIONS) + len(HOSTILE_KEYS) + 3 + len(MODES)
AGREEMENT = """() => {
    const [photo, layer] = [document.querySelector(".stage-photo"), document.querySelector(".layer")];
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: layer.width, height: layer.height });
    const context = canvas.getContext("2d");
    context.drawImage(photo, 0, 0, canvas.width, canvas.height);
    const read = one => one.getContext("2d").getImageData(0, 0, layer.width, layer.height).data;
    const [pixels, mask] = [read(canvas), read(layer)];
    let [same, all, marked] = [0, 0, 0];
    for (let at = 0; at < mask.length; at += 4) {
        all += 1;
        marked += mask[at + 3] > 0;
        same += (pixels[at] > 128) === (mask[at + 3] > 0);
    }
    return [same / all, marked / all];
}"""
"""Share of pixels where the photo is light exactly where the mask is, and share of the mask."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("review")
    truth = make_truth(folder / "truth")
    uri = make_reviewed_run(folder, str(folder / "out"))
    correct(uri, {("turned", place): 2 * make_square(place + 1)[1] for place in range(len(ORIENTATIONS))})
    with serve(uri, uri, truth=truth) as opened:
        yield opened


@pytest.fixture
def page(context: Any, client: Client) -> Iterator[Any]:
    """The page, whose code met no error and broke no policy."""
    opened = context.new_page()
    faults = watch_page(opened)
    opened.goto(client.server.address)
    yield opened
    opened.evaluate("localStorage.clear()")
    opened.close()
    assert not faults


def test_rows_chips_and_search_of_a_real_run(page: Any) -> None:
    wait_for_total(page, NUM_ROWS)
    assert "token" not in page.evaluate("location.href")
    page.locator('.tile .picture[data-state="ready"]').first.wait_for()
    for key in HOSTILE_KEYS:
        page.locator("#search").fill(key.partition("\n")[0])  # A field of one line takes no more.
        page.wait_for_function(
            "key => document.getElementById('total').textContent === '1 image' && "
            "document.querySelector('.tile-key')?.textContent === key",
            arg=plain(key),
        )
    page.locator("#search").fill("")
    wait_for_total(page, NUM_ROWS)
    page.locator("#filters .chip").filter(has_text="rejected").click()
    wait_for_total(page, 1)
    assert list_shown(page) == {1: "broken"}
    page.reload()
    wait_for_total(page, 1)


@pytest.mark.parametrize("layer", ["Mask of out", "True mask", "Corrected mask"])
def test_masks_and_truth_lie_over_photos_of_every_orientation(page: Any, layer: str) -> None:
    wait_for_total(page, NUM_ROWS)
    for place in range(len(ORIENTATIONS)):
        page.evaluate("hash => location.assign(hash)", f"#row=turned/{place}")
        page.locator("#viewer-key").get_by_text(f"photo-{place + 1}").wait_for()
        page.locator('select[title^="Layer"] option').filter(has_text=layer).first.wait_for(state="attached")
        layer_id = {"True mask": "truth", "Corrected mask": "corrected"}.get(layer, "run0")
        page.locator('select[title^="Layer"]').select_option(layer_id)
        page.get_by_label("Outline").uncheck()
        page.locator('#stage[data-state="ready"]').wait_for()
        page.wait_for_function(
            f"() => {{ const [same, marked] = ({AGREEMENT})(); return same > 0.97 && marked > 0.1; }}"
        )


def test_rows_with_a_corrected_mask_say_so(page: Any) -> None:
    wait_for_total(page, NUM_ROWS)
    page.locator(".flag.corrected").first.wait_for()
    page.evaluate("hash => location.assign(hash)", "#row=turned/2")
    page.locator("#facts").get_by_text("in cvat by ada").wait_for()
    page.evaluate("hash => location.assign(hash)", "#row=kinds/0")
    page.locator("#viewer-key").get_by_text(next(iter(MODES)), exact=True).wait_for()
    assert not page.locator("#facts").get_by_text("in cvat by ada").count()
    assert not page.locator('select[title^="Layer"] option').filter(has_text="Corrected").count()


def test_photos_of_every_kind_are_shown_and_maps_too(page: Any) -> None:
    wait_for_total(page, NUM_ROWS)
    for place in range(len(MODES)):
        page.evaluate("hash => location.assign(hash)", f"#row=kinds/{place}")
        page.locator("#viewer-key").get_by_text(list(MODES)[place], exact=True).wait_for()
        page.locator('#stage[data-state="ready"]').wait_for()
    page.locator('select[title^="Layer"]').select_option("map")
    page.wait_for_function("() => document.querySelector('.layer').width === 3")
    page.locator("#facts").get_by_text("Stability").first.wait_for()


def test_decisions_reach_the_table_beside_the_run(page: Any, client: Client) -> None:
    wait_for_total(page, NUM_ROWS)
    page.evaluate("hash => location.assign(hash)", "#row=hostile/1")
    page.locator("#facts").get_by_text("Stability").first.wait_for()
    page.keyboard.press("w")
    page.locator('#saving[data-state="idle"]').get_by_text("All saved").wait_for()
    uri = client.server.api.run.uri
    assert (Path(uri) / "reviews").is_dir()
    stored = read_decisions(uri)[RowId("hostile", 1)]
    assert (str(stored.decision), list(stored.classes)) == ("wrong_tag", ["cat"])
    page.keyboard.press("u")
    page.locator("#session").get_by_text("0 decided").wait_for()
    page.locator('#saving[data-state="idle"]').get_by_text("All saved").wait_for()
    assert RowId("hostile", 1) not in read_decisions(uri)
