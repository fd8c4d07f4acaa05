"""How the page looks and is used: widths, light and dark, motion, focus, names for readers of screens."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.review.made_up_run import HOSTILE, MadeUpRun
from tests.review.test_image_in_full import address_of
from tests.review.test_list_of_images import SHOWN, list_shown

OVERFLOWS = """() => {
    const hidden = one => one.closest(".hidden, .skip, .frame, [hidden], option") || !one.checkVisibility();
    return [...document.querySelectorAll("body *")]
        .filter(one => !hidden(one))
        .filter(one => one.getBoundingClientRect().right > innerWidth + 1 || one.getBoundingClientRect().left < -1)
        .filter(one => !document.querySelector("dialog[open]") || one.closest("dialog[open]"))
        .map(one => `${one.tagName} ${one.className} ${one.textContent}`.slice(0, 90));
}"""
LUMINANCE = """([selector, name]) => {
    const own = getComputedStyle(document.querySelector(selector))[name];
    const context = new OffscreenCanvas(1, 1).getContext("2d");
    context.fillStyle = own;
    context.fillRect(0, 0, 1, 1);
    const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map(one => one / 255);
    const linear = parts.map(one => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}"""


def contrast(page: Any, selector: str, ground: str) -> float:
    """Contrast of a text and what it stands on, from 1 to 21, as WCAG counts it."""
    one, two = page.evaluate(LUMINANCE, [selector, "color"]), page.evaluate(LUMINANCE, [ground, "backgroundColor"])
    return (max(one, two) + 0.05) / (min(one, two) + 0.05)


def open_hostile(open_page: Callable[..., Any], **options: Any) -> tuple[Any, MadeUpRun]:
    """The page of a run whose visible rows all have hostile keys."""
    run = MadeUpRun(num_rows=800)
    page = open_page(run, "#search=+", **options)
    list_shown(page)
    return page, run


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_hostile_texts_break_no_layout_at_any_width(open_page: Callable[..., Any], width: int) -> None:
    page, run = open_hostile(open_page, width=width)
    assert page.evaluate(OVERFLOWS) == []
    keys = set(list_shown(page).values())
    assert any(HOSTILE[0] in key for key in keys) or len(keys) < 8
    assert all("\n" not in key and "\u202e" not in key for key in keys)
    for number in (3, 13, 23, 43, 53, 63):  # Keys of every hostile kind that is long, turned or marked up.
        page.evaluate("hash => location.assign(hash)", address_of(run, number))
        page.wait_for_function(
            "row => [...document.querySelectorAll('#facts .whole')].some(one => one.textContent === row)",
            arg=str(number),
        )
        assert page.evaluate(OVERFLOWS) == [], number
    page.keyboard.press("c")
    page.keyboard.press("m")
    page.locator("#picker .option").first.wait_for()
    assert page.evaluate(OVERFLOWS) == []
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.locator("#help").wait_for()
    assert page.evaluate(OVERFLOWS) == []


def test_a_phone_shows_stage_decisions_and_filters(open_page: Callable[..., Any]) -> None:
    page, _ = open_hostile(open_page, width=360, height=720)
    filters = page.locator("#filters")
    assert not filters.is_visible()
    page.get_by_role("button", name="Filters (1)").click()
    assert filters.is_visible()
    page.get_by_role("button", name="Filters (1)").click()
    page.locator(".tile-button").first.click()
    page.locator("#viewer").wait_for()
    stage, decide = page.locator("#stage").bounding_box(), page.locator("#decide").bounding_box()
    assert stage["height"] > 200
    assert decide["y"] + decide["height"] <= 721, "decisions are always at hand"
    for button in page.locator(".verdict-button").all():
        box = button.bounding_box()
        assert box["width"] >= 44 <= box["height"], "large enough for a thumb"
    controls = page.locator("#controls").bounding_box()
    assert controls["y"] >= stage["y"] + stage["height"] - 1
    assert controls["height"] >= page.locator(".control-row").bounding_box()["height"]


def test_dark_and_light_follow_the_system_until_a_theme_is_chosen(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=60)
    page = open_page(run, scheme="dark")
    list_shown(page)
    ground = [page.evaluate(LUMINANCE, ["body", "backgroundColor"])]
    for _ in range(3):
        page.locator("#theme").click()
        ground.append(page.evaluate(LUMINANCE, ["body", "backgroundColor"]))
    dark, light, chosen_dark, again = ground
    assert dark == chosen_dark == again < 0.05 < 0.8 < light
    page.locator("#theme").click()
    page.reload()
    list_shown(page)
    assert page.evaluate(LUMINANCE, ["body", "backgroundColor"]) == light
    assert page.locator("#theme").get_attribute("aria-label") == "Light colours"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(open_page: Callable[..., Any], scheme: str) -> None:
    run = MadeUpRun(num_rows=60)
    page = open_page(run, scheme=scheme)
    list_shown(page)
    page.locator(".chip-count").first.wait_for()
    for text, ground in (
        ("#total", "#status"),
        ("#session", "#status"),
        (".chip-name", ".chip"),
        (".chip-count", ".chip"),
        (".tile-key", ".tile-button"),
        (".quality", ".tile-button"),
    ):
        assert contrast(page, text, ground) >= 4.5, text
    page.locator("#filters .chip").first.click()
    page.locator('#filters .chip[aria-pressed="true"]').wait_for()
    assert contrast(page, '.chip[aria-pressed="true"]', '.chip[aria-pressed="true"]') >= 4.5
    page.locator(".tile-button").first.click()
    page.locator("#facts .datum p").first.wait_for()
    assert contrast(page, "#facts .datum p", "#facts") >= 4.5


def test_nothing_moves_for_those_who_ask_for_it(open_page: Callable[..., Any]) -> None:
    page = open_page(MadeUpRun(num_rows=60, gates={"GET /api/image": threading.Event()}))
    page.locator('.picture[data-state="loading"]').first.wait_for()
    name = "getComputedStyle(document.querySelector('.picture'), '::after').animationName"
    assert page.evaluate(name) == "breathe"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(name) == "none"


def test_every_control_has_a_name_and_a_visible_focus(open_page: Callable[..., Any]) -> None:
    page = open_page(MadeUpRun(num_rows=60))
    list_shown(page)
    page.locator(".chip-count").first.wait_for()
    stops: list[tuple[str, bool, str, str]] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
                const one = document.activeElement;
                const name = one.getAttribute("aria-label") || one.textContent || one.title || one.placeholder;
                const outline = getComputedStyle(one).outlineStyle;
                return [one.id || one.className, one.matches(":focus-visible"), outline, name.trim()];
            }"""
        )
        if stop[0] == "skip" and stops:
            break
        stops.append(tuple(stop))
    order = [name for name, *_ in stops]
    assert order[0] == "skip"
    assert order.index("search") < order.index("order") < order.index("help-open") < order.index("tile-button")
    assert order.count("tile-button") == 1, "one stop for the whole list; arrows go on from there"
    for name, is_focus_visible, outline, label in stops:
        if name:  # The body itself, between the last and the first.
            assert (is_focus_visible, outline) == (True, "solid"), name
            assert label, name


def test_arrow_keys_walk_the_list_and_enter_opens(open_page: Callable[..., Any]) -> None:
    page = open_page(MadeUpRun(num_rows=3000))
    list_shown(page)
    columns = page.evaluate(
        "new Set([...document.querySelectorAll('.tile')].map(one => one.getBoundingClientRect().left)).size"
    )
    place = "Number(document.activeElement.closest('.tile')?.getAttribute('aria-posinset'))"
    page.keyboard.press("ArrowRight")  # The first key only takes the focus to the list.
    for key, step in (
        ("ArrowRight", 1),
        ("j", 1),
        ("ArrowDown", columns),
        ("k", -1),
        ("ArrowUp", -columns),
        ("ArrowLeft", -1),
    ):
        before = page.evaluate(place)
        page.keyboard.press(key)
        assert page.evaluate(place) == max(1, before + step), key
    page.keyboard.press("PageDown")
    assert page.evaluate(place) > columns
    page.keyboard.press("End")
    assert page.evaluate(place) == 3000
    box = page.evaluate("document.activeElement.getBoundingClientRect().toJSON()")
    assert 0 < box["top"] < box["bottom"] <= 640
    page.keyboard.press("Home")
    page.wait_for_function(
        "() => document.activeElement.closest('.tile').querySelector('.tile-key').textContent !== ''"
    )
    page.keyboard.press("Enter")
    page.locator("#viewer-place").get_by_text("1 of 3,000").wait_for()


def test_focus_stays_when_its_tile_is_scrolled_away(open_page: Callable[..., Any]) -> None:
    page = open_page(MadeUpRun(num_rows=3000))
    list_shown(page)
    page.keyboard.press("j")
    page.evaluate("document.getElementById('list').scrollTop = 30000")
    page.wait_for_function(f"() => Math.max(...Object.keys(({SHOWN})()).map(Number)) > 200")
    list_shown(page)
    assert page.evaluate("document.activeElement.closest('.tile')?.getAttribute('aria-posinset')") == "1"
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.closest('.tile')?.getAttribute('aria-posinset')") == "2"
    assert page.evaluate("document.getElementById('list').scrollTop") < 500


def test_keys_are_listed_and_named_for_readers_of_screens(open_page: Callable[..., Any]) -> None:
    page = open_page(MadeUpRun(num_rows=60))
    list_shown(page)
    page.keyboard.press("?")
    listed = set(page.locator("#help kbd").all_text_contents())
    assert set("armwdujk?/fvcho[]0zn,.") <= listed
    page.keyboard.press("Escape")
    page.locator("#help").wait_for(state="hidden")
    tile = page.locator('.tile[aria-posinset="1"]')
    assert tile.get_attribute("aria-setsize") == "60"
    assert "quality 0.00" in tile.locator("button").first.get_attribute("aria-label")
    page.keyboard.press("j")
    page.keyboard.press("a")
    page.locator("#announcer").get_by_text("Accept. 2 of 60").wait_for(state="attached")
