"""The list of images in a real browser: order, a million rows, slow and failing stores, filters, hostile texts."""

import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.review.made_up_run import CLASSES, HOSTILE, MadeUpRun

SHOWN = """() => Object.fromEntries([...document.querySelectorAll(".tile")].map(tile => {
    const [box, list] = [tile.getBoundingClientRect(), document.getElementById("list").getBoundingClientRect()];
    const isBeside = box.right > list.right + 1 || box.left < list.left;
    const inside = box.bottom > list.top && box.top < list.bottom && !isBeside;
    return [tile.getAttribute("aria-posinset"), [tile.querySelector(".tile-key").textContent, inside]];
}))"""
"""Place from 1 -> key and whether the tile is in view, of all tiles that exist."""


FILLED = """() => {
    const [list, grid] = ["list", "grid"].map(id => document.getElementById(id).getBoundingClientRect());
    const tiles = [...document.querySelectorAll(".tile")].filter(tile => {
        const box = tile.getBoundingClientRect();
        return box.bottom > list.top && box.top < list.bottom;
    });
    const [tops, bottoms] = ["top", "bottom"].map(side => tiles.map(tile => tile.getBoundingClientRect()[side]));
    const isCovered = Math.min(...tops) <= Math.max(list.top, grid.top) + 15
        && Math.max(...bottoms) >= Math.min(list.bottom, grid.bottom) - 15;
    return tiles.length > 0 && isCovered && tiles.every(tile => tile.querySelector(".tile-key").textContent);
}"""
"""Whether tiles cover the list from its top to its end, but for a gap, and each has its row."""


def wait_for_keys(page: Any) -> None:
    """Wait until the list is drawn where it is scrolled to, and each tile in view has its row."""
    page.wait_for_function(FILLED)


def list_shown(page: Any) -> dict[int, str]:
    wait_for_keys(page)
    return {int(place): key for place, (key, inside) in page.evaluate(SHOWN).items() if inside}


def expected_key(run: MadeUpRun, place: int) -> str:
    return run.key(int(run.by_quality[place - 1]))


def plain(key: str) -> str:
    """A key as the page shows it: controls and marks of direction as symbols."""
    key = re.sub(r"[\x00-\x1f]", lambda match: chr(0x2400 + ord(match[0])), key)
    return re.sub(r"[\u202a-\u202e\u200e\u200f]", lambda match: f"⟨U+{ord(match[0]):04X}⟩", key)


def wait_for_total(page: Any, total: int) -> None:
    page.wait_for_function(
        "text => document.getElementById('total').textContent.startsWith(text + ' ')", arg=f"{total:,}"
    )


def row_requests(run: MadeUpRun) -> list[int]:
    """Offsets of the rows that were requested."""
    queries = [parse_qs(urlsplit(line.split(" ", 1)[1]).query) for line in run.requests if " /api/rows" in line]
    return [int(query["offset"][0]) for query in queries]


def test_the_worst_images_come_first_with_their_figures(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    page = open_page(run)
    shown = list_shown(page)
    assert min(shown) == 1
    assert all(key == plain(expected_key(run, place)) for place, key in shown.items())
    assert page.locator(".tile .quality").first.text_content() == "0.00"
    page.locator('.tile .picture[data-state="ready"]').first.wait_for()


@pytest.mark.parametrize(("num_rows", "width"), [(100_000, 1280), (1_000_000, 360)])
def test_a_long_list_has_few_elements_and_shows_the_right_rows_everywhere(
    open_page: Callable[..., Any], num_rows: int, width: int
) -> None:
    run = MadeUpRun(num_rows=num_rows)
    page = open_page(run, width=width)
    list_shown(page)
    sizes = []
    for share in (0.5, 0.2, 0.999, 1.0, 0.0):
        page.evaluate(
            "share => { const list = document.getElementById('list'); list.scrollTop = share * list.scrollHeight; }",
            share,
        )
        page.wait_for_function(
            f"share => {{ const shown = Object.entries(({SHOWN})()).filter(one => one[1][1]);"
            "const places = shown.map(one => Number(one[0]));"
            f"return places.length && Math.abs(Math.min(...places) / {num_rows} - share) < 0.01; }}",
            arg=share,
        )
        shown = list_shown(page)
        assert all(key == plain(expected_key(run, place)) for place, key in shown.items())
        sizes.append(page.locator("#grid *").count())
    assert max(sizes) < 1500
    assert page.evaluate("document.getElementById('grid').offsetHeight") < 17_000_000
    assert len(row_requests(run)) < 30


TOP = """() => {
    const list = document.getElementById("list").getBoundingClientRect();
    const tiles = [...document.querySelectorAll(".tile")].map(tile => {
        const box = tile.getBoundingClientRect();
        return { line: tile.getAttribute("aria-posinset"), left: box.left, top: box.top, bottom: box.bottom };
    });
    const columns = new Set(tiles.map(tile => tile.left)).size;
    for (const tile of tiles) tile.line = Math.floor((tile.line - 1) / columns);
    const one = tiles.find(tile => tile.bottom > list.top && tile.top < list.bottom);
    const next = tiles.find(tile => tile.line === one.line + 1);
    return one.line * (next.top - one.top) - (one.top - list.top);
}"""
"""Pixels of the whole list above its visible part, as its tiles say."""


def test_a_list_taller_than_browsers_allow_is_walked_row_by_row(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=1_000_000)
    page = open_page(run, width=360)
    list_shown(page)
    page.evaluate("document.getElementById('list').scrollTop = document.getElementById('list').scrollHeight / 3")
    page.wait_for_function(f"() => Math.min(...Object.keys(({SHOWN})()).map(Number)) > 300000")
    before = set(list_shown(page))
    page.mouse.move(180, 500)
    for _ in range(12):
        top = page.evaluate(TOP)
        page.mouse.wheel(0, 300)
        page.wait_for_function(f"top => Math.abs(({TOP})() - top - 300) < 2", arg=top)
        now = set(list_shown(page))
        assert min(now) <= max(before) + 1, "rows were skipped"
        before = now
    page.keyboard.press("End")
    page.wait_for_function(f"() => {num_rows_shown(1_000_000)}")
    page.keyboard.press("Home")
    page.wait_for_function(f"() => {num_rows_shown(1)}")


def num_rows_shown(place: int) -> str:
    return f"(({SHOWN})()['{place}'] ?? [])[1] === true"


def test_requests_of_rows_that_are_scrolled_past_are_cancelled(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=100_000)
    page = open_page(run)
    list_shown(page)
    run.gates["GET /api/rows"] = threading.Event()
    with page.expect_request(lambda request: "/api/rows" in request.url) as asked:
        page.evaluate("document.getElementById('list').scrollTop = 300000")
    with page.expect_event("requestfailed", lambda request: request == asked.value):
        page.evaluate("document.getElementById('list').scrollTop = 900000")
    run.gates.pop("GET /api/rows").set()
    assert all(key == plain(expected_key(run, place)) for place, key in list_shown(page).items())


def test_passing_over_many_rows_requests_only_where_the_list_rests(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=100_000)
    page = open_page(run)
    list_shown(page)
    # In one go: on a busy machine the list would rest between two steps. Requests that are cancelled count as well.
    page.evaluate(
        """() => {
            const [list, own] = [document.getElementById("list"), window.fetch];
            window.asked = [];
            window.fetch = (...request) => (window.asked.push(`GET ${request[0]}`), own(...request));
            for (let step = 1; step <= 40; step += 1) {
                list.scrollTop = step * 20000;
                list.dispatchEvent(new Event("scroll"));
            }
        }"""
    )
    page.wait_for_function(f"() => Math.max(...Object.keys(({SHOWN})()).map(Number)) > 1000")
    first = min(list_shown(page)) - 1
    run.requests = page.evaluate("window.asked")
    assert {offset // 100 for offset in row_requests(run)} <= {first // 100 - 1, first // 100, first // 100 + 1}
    assert row_requests(run)


def test_a_slow_store_holds_up_neither_words_nor_decisions(open_page: Callable[..., Any]) -> None:
    gate = threading.Event()
    run = MadeUpRun(gates={"GET /api/image": gate, "GET /api/mask": gate})
    page = open_page(run)
    list_shown(page)
    assert page.locator('.tile .picture[data-state="loading"]').count() > 4
    for key in "aarrd":
        page.keyboard.press(key)
    page.get_by_text("All saved").wait_for()
    assert [post["decision"] for post in run.posts] == ["accept", "accept", "refuse", "refuse", "redraw"]
    gate.set()
    page.wait_for_function("() => document.querySelectorAll('.picture[data-state=loading]').length === 0")


def test_a_photo_that_fails_says_why_and_loads_on_request(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(failing={"GET /api/image": 503})
    page = open_page(run)
    first = page.locator(".tile").first
    first.get_by_text("made-up failure").wait_for()
    run.failing.clear()
    first.get_by_role("button", name="Try again").click()
    first.locator('.picture[data-state="ready"]').wait_for()


def test_rows_that_fail_say_why_and_load_on_request(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=5000, failing={"GET /api/rows": 500})
    page = open_page(run)
    page.locator("#message").get_by_text("made-up failure").wait_for()
    run.failing.clear()
    page.locator("#message").get_by_role("button", name="Try again").click()
    list_shown(page)
    run.failing["GET /api/rows"] = 0
    page.evaluate("document.getElementById('list').scrollTop = 60000")
    page.get_by_text("the server does not answer").first.wait_for()
    run.failing.clear()
    page.locator(".tile").get_by_role("button", name="Try again").first.click()
    assert all(key == plain(expected_key(run, place)) for place, key in list_shown(page).items())


def test_a_run_that_cannot_be_read_says_why(open_page: Callable[..., Any]) -> None:
    page = open_page(MadeUpRun(failing={"GET /api/run": 500}))
    page.get_by_text("The run cannot be shown: made-up failure").wait_for()


CHIPS = {
    "Undecided": {"decision": "none"},
    "Doubtful tag": {"doubtful": "1"},
    "Suggested class": {"suggested": "1"},
    "Tag against model": {"disagree": "1"},
    "rejected": {"status": "rejected"},
    "undecodable": {"reason": "undecodable"},
    CLASSES[1]: {"class": "2"},
    CLASSES[6]: {"class": "7"},
    CLASSES[7]: {"class": "8"},
}


def test_chips_choose_their_rows_and_the_button_back_shows_all(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=300)
    run.decisions["shard-0/5"] = {"decision": "accept"}
    page = open_page(run)
    wait_for_total(page, 300)
    for label, filters in CHIPS.items():
        chosen = run.choose(filters, "quality")
        assert 0 < len(chosen) < 300
        chip = page.locator("#filters .chip").filter(has=page.get_by_text(label, exact=True))
        chip.locator(".chip-count").get_by_text(str(len(chosen)), exact=True).wait_for()
        chip.click()
        wait_for_total(page, len(chosen))
        assert page.locator('#filters .chip[aria-pressed="true"]').count() == 1
        assert list_shown(page)[1] == plain(run.key(int(chosen[0])))
        page.go_back()
        wait_for_total(page, 300)


def test_an_address_leads_to_the_same_rows(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=700)
    page = open_page(run, "#class=2&suggested=1&search=photo&order=-quality")
    chosen = run.choose({"class": "2", "suggested": "1", "search": "photo"}, "-quality")
    wait_for_total(page, len(chosen))
    assert list_shown(page)[1] == plain(run.key(int(chosen[0])))
    assert page.locator('#filters .chip[aria-pressed="true"]').count() == 2
    assert page.locator("#search").input_value() == "photo"
    assert "token" not in page.evaluate("location.href")


def test_search_finds_keys_by_any_part(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=300)
    page = open_page(run)
    wait_for_total(page, 300)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    for text in ("0000012", *HOSTILE[:4], "b.c d+e%20f", "#a&b=%2F"):
        page.locator("#search").fill(text)
        chosen = run.choose({"search": text}, "quality")
        wait_for_total(page, len(chosen))
        page.wait_for_function(f"key => (({SHOWN})()['1'] ?? [])[0] === key", arg=plain(run.key(int(chosen[0]))))
        assert all(plain(text) in key for key in list_shown(page).values())
    page.locator("#search").fill("no such key")
    page.get_by_text("No image passes these filters.").wait_for()
    page.get_by_role("button", name="Clear all filters").click()
    wait_for_total(page, 300)


def test_orders_are_those_of_the_server(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=700)
    page = open_page(run)
    for order in ("-quality", "key", "quality"):
        page.locator("#order").select_option(order)
        first = plain(run.key(int(run.choose({}, order)[0])))
        page.wait_for_function(f"key => (({SHOWN})()['1'] ?? [])[0] === key", arg=first)
    assert "order" not in page.evaluate("location.href")


def test_shards_that_are_read_later_join_the_list(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=800, indexed=(1, 4))
    page = open_page(run)
    wait_for_total(page, 200)
    page.get_by_text("1 of 4 shards read").wait_for()
    page.keyboard.press("a")  # The reviewer has begun: the list does not move by itself.
    run.indexed = (4, 4)
    page.get_by_role("button", name="Show them").click()
    wait_for_total(page, 800)
    page.locator("#indexing").wait_for(state="hidden")
