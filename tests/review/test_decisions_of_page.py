"""Decisions in a real browser: by keys and buttons, saved or kept until they are, taken back, none lost or skipped."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.review.made_up_run import CLASSES, MadeUpRun
from tests.review.test_image_in_full import address_of
from tests.review.test_list_of_images import SHOWN, expected_key, list_shown, plain, wait_for_total

KEYS = {"a": "accept", "r": "refuse", "d": "redraw"}


def id_at(run: MadeUpRun, place: int) -> str:
    return run.row(int(run.by_quality[place]))["id"]


def saved(page: Any) -> None:
    page.locator('#saving[data-state="idle"]').get_by_text("All saved").wait_for()


def retry_now(page: Any, run: MadeUpRun) -> None:
    """Let the server answer again, and press the button. The page's own next try may come first and hide it."""
    button = page.get_by_role("button", name="Retry now").element_handle()
    run.failing.clear()
    button.dispatch_event("click")


def test_keys_in_the_list_decide_the_current_image_and_go_on(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    page = open_page(run)
    list_shown(page)
    for key in KEYS:
        page.keyboard.press(key)
    saved(page)
    assert {post["id"]: post["decision"] for post in run.posts} == {
        id_at(run, place): decision for place, decision in enumerate(KEYS.values())
    }
    assert page.locator("#session").text_content() == "3 decided in this session✓ 1✕ 1✎ 1"
    signs = page.locator(".tile .verdict:not([hidden])").all_text_contents()
    assert sorted(signs) == ["✎", "✓", "✕"]
    assert page.evaluate("document.activeElement.closest('.tile').getAttribute('aria-posinset')") == "4"
    assert "decided: accept" in page.locator('.tile[aria-posinset="1"] .tile-button').get_attribute("aria-label")


def test_buttons_in_an_image_decide_and_go_on_with_a_note(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    page = open_page(run)
    list_shown(page)
    page.keyboard.press("Enter")
    page.keyboard.press("n")
    page.keyboard.insert_text("ear <b>cut</b> off")
    page.keyboard.press("Enter")
    page.locator("#decide").get_by_role("button", name="Refuse").click()
    page.locator("#viewer-place").get_by_text("2 of").wait_for()
    assert page.locator("#note").input_value() == ""
    page.locator("#decide").get_by_role("button", name="Accept").click()
    page.locator("#viewer-place").get_by_text("3 of").wait_for()
    saved(page)
    assert [(post["decision"], post["note"]) for post in run.posts] == [
        ("refuse", "ear <b>cut</b> off"),
        ("accept", ""),
    ]
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.locator("#facts .decided").get_by_text("Decided: refuse").wait_for()
    assert "ear <b>cut</b> off" in page.locator("#facts .decided").text_content()
    assert page.locator('#decide [aria-pressed="true"]').all_text_contents() == ["✕Refuser"]


def test_a_key_that_is_held_down_decides_once(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    page = open_page(run)
    list_shown(page)
    for _ in range(5):
        page.keyboard.down("a")  # Without an "up" between them these repeat.
    page.keyboard.up("a")
    saved(page)
    assert len(run.posts) == 1


def test_wrong_tag_names_the_only_tag_or_asks_which(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    one = next(n for n in range(run.num_rows) if len(run.class_ids(n)) == 1 and not run.is_rejected(n))
    page = open_page(run, address_of(run, one))
    page.locator("#facts").get_by_text("Stability").first.wait_for()
    page.keyboard.press("w")
    saved(page)
    assert run.posts[-1]["classes"] == [CLASSES[run.class_ids(one)[0] - 1]]
    two = next(n for n in range(run.num_rows) if run.class_ids(n) == [1, 8] and not run.is_rejected(n))
    page = open_page(run, address_of(run, two))
    page.locator("#facts").get_by_text("Stability").first.wait_for()
    page.keyboard.press("w")
    page.locator("#picker").get_by_text("Which tags are wrong?").wait_for()
    page.keyboard.press("Escape")
    page.locator("#picker").wait_for(state="hidden")
    assert page.locator("#viewer").is_visible()
    page.keyboard.press("w")
    page.locator("#picker .option").filter(has_text="xxx").locator("input").check()
    page.locator("#picker").get_by_role("button", name="Save (1)").click()
    saved(page)
    assert run.posts[-1] == {"id": f"shard-0/{two}", "decision": "wrong_tag", "classes": [CLASSES[7]], "note": ""}


def test_missing_tag_offers_what_the_model_sees_first_and_takes_keys_alone(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    number = next(n for n in range(run.num_rows) if run.row(n)["suggested_class_ids"] and not run.is_rejected(n))
    suggested = CLASSES[run.row(number)["suggested_class_ids"][0] - 1]
    page = open_page(run, address_of(run, number))
    page.locator("#facts").get_by_text("Stability").first.wait_for()
    page.keyboard.press("m")
    options = page.locator("#picker .option bdi")
    options.first.wait_for()
    assert options.first.text_content() == suggested
    assert set(options.all_text_contents()) == set(CLASSES) - set(run.row(number)["tags"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowUp")
    page.keyboard.insert_text("onerror")
    page.keyboard.press("Enter")
    page.locator("#picker").get_by_role("button", name="Save (2)").wait_for()
    page.keyboard.press("Enter")
    saved(page)
    assert sorted(run.posts[-1]["classes"]) == sorted([suggested, CLASSES[6]])


def test_undo_takes_back_in_order_and_restores_what_was_before(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    run.decisions[id_at(run, 0)] = {"decision": "redraw", "classes": [], "note": "by another", "reviewer": "bob"}
    page = open_page(run)
    list_shown(page)
    page.keyboard.press("a")
    page.keyboard.press("r")
    saved(page)
    page.keyboard.press("u")
    page.wait_for_function("() => document.activeElement.closest('.tile')?.getAttribute('aria-posinset') === '2'")
    page.keyboard.press("u")
    page.wait_for_function("() => document.activeElement.closest('.tile')?.getAttribute('aria-posinset') === '1'")
    saved(page)
    assert list(run.decisions) == [id_at(run, 0)]
    assert (run.decisions[id_at(run, 0)]["decision"], run.decisions[id_at(run, 0)]["note"]) == ("redraw", "by another")
    assert page.locator("#session").text_content() == "0 decided in this session"
    page.keyboard.press("u")
    page.get_by_text("Nothing to take back").wait_for(state="attached")


def test_decisions_wait_for_a_server_that_is_away_and_the_page_says_so(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(failing={"POST": 0, "DELETE": 0})
    page = open_page(run)
    list_shown(page)
    for key in "ard":
        page.keyboard.press(key)
    page.keyboard.press("u")
    page.locator('#saving[data-state="waiting"]').get_by_text("3 not saved: the server does not answer").wait_for()
    assert page.locator(".verdict.unsaved:not([hidden])").count() == 2
    page.on("dialog", lambda dialog: dialog.dismiss())
    with page.expect_event("dialog") as asked:
        page.close(run_before_unload=True)
    assert asked.value.type == "beforeunload"
    retry_now(page, run)
    saved(page)
    assert [post["decision"] for post in run.posts] == ["accept", "refuse"]
    assert len(run.decisions) == 2


def test_decisions_that_are_not_saved_outlive_the_page(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(failing={"POST": 503})
    page = open_page(run)
    list_shown(page)
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.locator('#saving[data-state="waiting"]').wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto("about:blank")
    assert run.posts == []
    run.failing.clear()
    again = open_page(run)
    saved(again)
    assert {post["id"]: post["decision"] for post in run.posts} == {id_at(run, 0): "accept", id_at(run, 1): "refuse"}


def test_the_newest_of_two_unsaved_decisions_of_an_image_is_saved(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(failing={"POST": 503})
    page = open_page(run)
    list_shown(page)
    page.keyboard.press("a")
    page.keyboard.press("k")
    page.keyboard.press("r")
    page.locator('#saving[data-state="waiting"]').get_by_text("1 not saved").wait_for()
    retry_now(page, run)
    saved(page)
    assert [post["decision"] for post in run.posts] == ["refuse"]


def test_what_the_server_refuses_is_shown_kept_and_can_be_discarded(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    page = open_page(run)
    list_shown(page)
    run.token = "another"
    page.keyboard.press("a")
    refused = page.locator('#saving[data-state="refused"]')
    refused.get_by_text("1 not saved: wrong token; open the page again by the address").wait_for()
    page.get_by_role("button", name="Discard").click()
    page.locator('#saving[data-state="idle"]').wait_for(state="attached")
    assert page.locator("#session").text_content() == "0 decided in this session"
    assert page.locator(".verdict:not([hidden])").count() == 0
    assert run.posts == []


@pytest.mark.parametrize("first", ["none", "accept"])
def test_deciding_within_a_filter_of_decisions_skips_no_row(open_page: Callable[..., Any], first: str) -> None:
    """The server's list gets shorter with each decision, while the rows stay at their places in the page."""
    run = MadeUpRun(num_rows=130)
    if first == "accept":
        run.decisions = {run.row(n)["id"]: {"decision": "accept"} for n in range(130)}
    page = open_page(run, f"#decision={first}", width=1300, height=900)
    wait_for_total(page, 130)
    for key in "rrdrdrrrdd":
        page.keyboard.press(key)
    saved(page)
    for _ in range(2):
        page.keyboard.press("u")
    saved(page)
    seen = dict(list_shown(page))
    while 130 not in seen:
        page.evaluate("document.getElementById('list').scrollTop += 700")
        seen |= list_shown(page)  # Less than a screen further: no row is missed.
    assert seen == {place: plain(expected_key(run, place)) for place in range(1, 131)}
    assert page.locator("#total").text_content() == "130 images"


def test_stepping_beyond_the_loaded_rows_waits_for_them(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun(num_rows=250)
    page = open_page(run)
    list_shown(page)
    page.keyboard.press("End")
    page.wait_for_function(f"() => (({SHOWN})()['250'] ?? [])[1] === true")
    list_shown(page)
    page.keyboard.press("Enter")
    page.locator("#viewer-place").get_by_text("250 of 250").wait_for()
    page.keyboard.press("j")
    page.get_by_text("This is the last image").wait_for(state="attached")
    page.reload()
    page.locator("#viewer-place").get_by_text("250 of 250").wait_for()
    for place in range(249, 239, -1):
        page.keyboard.press("ArrowLeft")
        page.locator("#viewer-place").get_by_text(re.compile(f"^{place} of")).wait_for()
    assert page.locator("#viewer-key").text_content() == plain(expected_key(run, 240))
