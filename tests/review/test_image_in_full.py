"""One image in full in a real browser: layers, classes, comparison, zoom, figures, the way back."""

import io
import re
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.review.made_up_run import CLASSES, COLOURS, HOSTILE, MASK_SIZE, TRUTH_SHIFT_PX, MadeUpRun, draw_mask

PIXEL = """([selector, x, y]) => {
    const canvas = document.querySelector(selector);
    const at = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
    return [...canvas.getContext("2d").getImageData(...at, 1, 1).data];
}"""
LEFT, RIGHT = ".layer:first-of-type", ".layer:last-of-type"


def inside(number: int, shift_px: int = 0) -> tuple[float, float]:
    """A place deep within the mask of a row, as shares of the image."""
    image = np.array(Image.open(io.BytesIO(draw_mask(number, 1, shift_px, True))))
    rows, columns = np.nonzero(image == 1)
    return float(np.median(columns) + 0.5) / MASK_SIZE[0], float(np.median(rows) + 0.5) / MASK_SIZE[1]


def edge(number: int) -> tuple[float, float]:
    """The leftmost pixel of the mask of a row."""
    image = np.array(Image.open(io.BytesIO(draw_mask(number, 1, 0, True))))
    rows, columns = np.nonzero(image == 1)
    first = int(np.argmin(columns))
    return float(columns[first] + 0.1) / MASK_SIZE[0], float(rows[first] + 0.5) / MASK_SIZE[1]


def wait_for_pixel(page: Any, selector: str, place: tuple[float, float], wanted: str) -> None:
    """Wait until a pixel of a layer, `[red, green, blue, alpha]` as `pixel`, satisfies an expression."""
    page.wait_for_function(
        f"place => {{ const pixel = ({PIXEL})(place); const [red, green, blue, alpha] = pixel; return {wanted}; }}",
        arg=[selector, *place],
    )


def is_colour(class_id: int, alpha: int | None = None) -> str:
    # The canvas keeps colours multiplied by their alpha: they come back rounded.
    near = " && ".join(
        f"Math.abs({name} - {value}) < 4"
        for name, value in zip(("red", "green", "blue"), COLOURS[class_id - 1], strict=True)
    )
    return f"{near} && {'alpha > 0' if alpha is None else f'Math.abs(alpha - {alpha}) < 3'}"


def first_labelled(run: MadeUpRun, num_classes: int = 1) -> tuple[int, int]:
    """Place and number of the worst labelled row whose key is plain."""
    return next(
        (place, int(number))
        for place, number in enumerate(run.by_quality)
        if not run.is_rejected(int(number)) and len(run.class_ids(int(number))) == num_classes and int(number) % 10 != 3
    )


def address_of(run: MadeUpRun, number: int) -> str:
    return f"#row=shard-{number // 1000}/{number % 1000}"


@pytest.fixture
def opened(open_page: Callable[..., Any]) -> tuple[Any, MadeUpRun, int]:
    """The page with the worst image open, its run, the number of its row."""
    run = MadeUpRun()
    place, number = first_labelled(run)
    page = open_page(run)
    page.locator(f'.tile[aria-posinset="{place + 1}"] button').first.click()
    page.locator("#facts").get_by_text("Stability").first.wait_for()
    wait_for_pixel(page, LEFT, inside(number), is_colour(run.class_ids(number)[0], 128))
    return page, run, number


def test_layers_are_drawn_in_the_colours_opacity_and_outline_that_are_chosen(
    opened: tuple[Any, MadeUpRun, int],
) -> None:
    page, run, number = opened
    class_id, place = run.class_ids(number)[0], inside(number)
    wait_for_pixel(page, LEFT, (0.02, 0.5), "alpha === 0")
    wait_for_pixel(page, LEFT, edge(number), is_colour(class_id, 255))
    page.get_by_label("Outline").uncheck()
    wait_for_pixel(page, LEFT, edge(number), is_colour(class_id, 128))
    page.keyboard.press("o")
    wait_for_pixel(page, LEFT, edge(number), is_colour(class_id, 255))
    page.get_by_label("Opacity").fill("80")
    wait_for_pixel(page, LEFT, place, is_colour(class_id, 204))
    page.locator("#stage").focus()
    page.keyboard.press("]")
    wait_for_pixel(page, LEFT, place, is_colour(class_id, 230))
    page.keyboard.press("h")
    assert not page.locator(LEFT).is_visible()
    page.get_by_role("button", name=re.compile("Hide what lies")).click()
    assert page.locator(LEFT).is_visible()


def test_halo_of_outlines_is_light_and_undecided_pixels_are_hatched(opened: tuple[Any, MadeUpRun, int]) -> None:
    page, _, _ = opened
    colours = page.evaluate(
        "() => { const canvas = document.querySelector('.layer'); const context = canvas.getContext('2d');"
        "const data = context.getImageData(0, 0, canvas.width, canvas.height).data; const found = {};"
        "for (let at = 0; at < data.length; at += 4) {"
        "const key = data.slice(at, at + 4).join(); found[key] = (found[key] ?? 0) + 1; }"
        "return found; }"
    )
    white = sum(num for colour, num in colours.items() if colour.startswith("255,255,255,"))
    assert white > 200
    wait_for_pixel(page, LEFT, (0.5, 0.001), "true")
    row = page.evaluate(
        "[...document.querySelector('.layer').getContext('2d').getImageData(0, 2, 80, 1).data]"
        ".filter((_, at) => at % 4 === 3)"
    )
    assert 0 < sum(alpha > 0 for alpha in row) < len(row) / 2


def test_one_class_at_a_time_is_told_apart_by_id_where_colours_are_alike(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    number = next(
        n for n in range(run.num_rows) if n % 7 == 0 and n % 2 and not run.is_rejected(n) and run.class_ids(n) == [2, 7]
    )
    page = open_page(run, address_of(run, number))
    assert COLOURS[1] == COLOURS[6]
    wait_for_pixel(page, LEFT, inside(number), is_colour(2))
    buttons = page.locator("#controls .classes button")
    assert buttons.all_text_contents() == ["All classes", CLASSES[1], CLASSES[6]]
    page.keyboard.press("2")
    wait_for_pixel(page, LEFT, inside(number), "alpha === 0")
    page.keyboard.press("1")
    wait_for_pixel(page, LEFT, inside(number), is_colour(2))
    buttons.nth(2).click()
    wait_for_pixel(page, LEFT, inside(number), "alpha === 0")
    assert buttons.nth(2).get_attribute("aria-pressed") == "true"
    page.keyboard.press("0")
    wait_for_pixel(page, LEFT, inside(number), is_colour(2))


def test_class_maps_true_mask_and_bare_photo_are_layers(opened: tuple[Any, MadeUpRun, int]) -> None:
    page, run, number = opened
    layer = page.locator('select[title^="Layer"]')
    names = layer.locator("option").all_text_contents()
    assert names == ["Mask of run-0", "Mask of run-1", "Class map", "True mask", "Photo alone"]
    layer.select_option(label="Class map")
    wait_for_pixel(page, LEFT, (0.99, 0.99), "alpha > 110 && red > 240 && green > 230")
    wait_for_pixel(page, LEFT, (0.01, 0.01), "alpha < 40")
    assert any(f"/api/maps/shard-0%2F{number}?class={run.class_ids(number)[0]}" in line for line in run.requests)
    layer.select_option(label="True mask")
    shifted = inside(number, TRUTH_SHIFT_PX)
    wait_for_pixel(page, LEFT, shifted, is_colour(run.class_ids(number)[0]))
    layer.select_option(label="Photo alone")
    wait_for_pixel(page, LEFT, (0, 0), "alpha === 0 && document.querySelector('.layer').width === 1")
    page.locator("#stage").focus()
    page.keyboard.press("v")
    wait_for_pixel(page, LEFT, inside(number), is_colour(run.class_ids(number)[0]))


def test_two_runs_stand_side_by_side_at_a_divider_that_moves(opened: tuple[Any, MadeUpRun, int]) -> None:
    page, run, number = opened
    assert not page.locator(".divider").is_visible()
    page.keyboard.press("c")
    wait_for_pixel(page, RIGHT, inside(number, 20), is_colour(run.class_ids(number)[0]))
    assert page.locator(".side-name").all_text_contents() == ["Mask of run-0", "Mask of run-1"]
    stage, divider = page.locator("#stage").bounding_box(), page.locator(".divider")

    def cut(selector: str) -> float:
        """Where a layer is cut, as a share of the stage."""
        clip = page.locator(selector).evaluate("one => getComputedStyle(one).clipPath")
        box = page.locator(selector).bounding_box()
        right, left = (float(value) / 100 for value in re.findall(r"([\d.]+)%", clip.replace("0px", "0%"))[1::2])
        share = 1 - right if selector == LEFT else left
        return (box["x"] + share * box["width"] - stage["x"]) / stage["width"]

    assert cut(LEFT) == pytest.approx(0.5, abs=0.01) == cut(RIGHT)
    page.mouse.move(stage["x"] + stage["width"] / 2, stage["y"] + 20)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] * 0.3, stage["y"] + 60, steps=3)
    page.mouse.up()
    assert cut(LEFT) == pytest.approx(0.3, abs=0.01) == cut(RIGHT)
    divider.focus()
    page.keyboard.press("ArrowRight")
    assert divider.get_attribute("aria-valuenow") == "35"
    page.keyboard.press(".")
    assert divider.get_attribute("aria-valuenow") == "40"
    page.keyboard.press("c")
    assert not divider.is_visible()
    assert page.locator(LEFT).evaluate("one => getComputedStyle(one).clipPath") == "none"


def test_zoom_and_pan_keep_the_image_on_the_stage_and_layers_on_the_photo(opened: tuple[Any, MadeUpRun, int]) -> None:
    page, _, _ = opened
    stage = page.locator("#stage").bounding_box()

    def box() -> dict[str, float]:
        photo, layer = page.locator(".stage-photo").bounding_box(), page.locator(LEFT).bounding_box()
        assert photo == pytest.approx(layer, abs=0.01)
        return photo

    whole = box()
    assert whole["width"] == pytest.approx(min(stage["width"], stage["height"] * 4 / 3), rel=0.01)
    page.keyboard.press("+")
    assert box()["width"] == pytest.approx(1.5 * whole["width"], abs=0.5)
    page.keyboard.press("-")
    assert box() == pytest.approx(whole, abs=0.5)
    for name, factor in (("Larger", 1.5), ("Smaller", 1.0)):
        page.get_by_role("button", name=re.compile(name)).click()
        assert box()["width"] == pytest.approx(factor * whole["width"], abs=0.5)
    x, y = whole["x"] + whole["width"] * 0.25, whole["y"] + whole["height"] * 0.25
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    page.wait_for_function(
        f"() => document.querySelector('.stage-photo').getBoundingClientRect().width > {1.5 * whole['width']}"
    )
    near = box()
    assert (x - near["x"]) / near["width"] == pytest.approx(0.25, abs=0.01), "the wheel zooms at the pointer"
    page.mouse.down()
    page.mouse.move(x - 60, y - 40, steps=3)
    page.mouse.up()
    assert box()["x"] == pytest.approx(near["x"] - 60, abs=1)
    for _ in range(60):
        page.keyboard.press("Shift+ArrowLeft")
    assert box()["x"] == pytest.approx(stage["x"], abs=1), "the image leaves the stage"
    page.keyboard.press("z")
    assert box() == pytest.approx(whole, abs=0.5)
    page.mouse.dblclick(x, y)
    assert box()["width"] >= 1.9 * whole["width"]
    page.get_by_role("button", name=re.compile("All of the image")).click()
    assert box() == pytest.approx(whole, abs=0.5)


def test_esc_goes_back_to_the_tile_and_never_leaves_the_page(opened: tuple[Any, MadeUpRun, int]) -> None:
    page, _, _ = opened
    for _ in range(3):
        page.keyboard.press("j")
    place = int(page.locator("#viewer-place").text_content().split(" ")[0])
    page.evaluate("for (let i = 0; i < 2; i += 1) document.getElementById('viewer-close').click()")
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.closest('.tile').getAttribute('aria-posinset')") == str(place)
    assert "row=" not in page.evaluate("location.href")
    assert page.evaluate("location.pathname") == "/"
    page.keyboard.press("Enter")
    page.locator("#viewer").wait_for()
    page.go_back()
    page.locator("#viewer").wait_for(state="hidden")


def test_an_address_leads_to_the_image_and_its_figures_say_what_they_mean(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    _, number = first_labelled(run, num_classes=2)
    page = open_page(run, address_of(run, number))
    page.locator("#viewer-key").get_by_text(run.key(number)).wait_for()
    page.locator("#facts").get_by_text("Stability").first.wait_for()
    data = page.locator("#facts section:not(:last-child) .datum").evaluate_all(
        "all => all.map(one => ['dt', 'dd', 'p'].map(name => one.querySelector(name).textContent))"
    )
    assert len(data) >= 5 + 2 * 5
    assert all(name and re.fullmatch(r"[\d.]+( %)?", figure) and len(meaning) > 15 for name, figure, meaning in data)
    assert ["Area", "31.0 %"] in [one[:2] for one in data]
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    page.locator(".tile").first.wait_for()


def test_a_rejected_row_shows_its_reason_and_why_there_is_no_picture(open_page: Callable[..., Any]) -> None:
    run = MadeUpRun()
    page = open_page(run, address_of(run, 59))
    notice = page.locator("#facts .notice")
    notice.get_by_text("No mask: undecodable").wait_for()
    assert f"broken data stream {HOSTILE[0]}" in notice.text_content()
    page.locator(".stage-note").get_by_text("The photo cannot be shown").wait_for()
    assert HOSTILE[1] in page.locator(".stage-note").text_content()
    assert page.locator('select[title^="Layer"]').locator("option").all_text_contents() == ["True mask", "Photo alone"]


def test_a_mask_that_fails_leaves_the_photo_and_no_mask_of_another_image(opened: tuple[Any, MadeUpRun, int]) -> None:
    page, run, _ = opened
    run.failing["GET /api/mask"] = 500
    page.keyboard.press("j")
    page.locator(".stage-note").get_by_text("made-up failure").wait_for()
    wait_for_pixel(page, LEFT, (0, 0), "alpha === 0 && document.querySelector('.layer').width === 1")
    run.failing.clear()
    page.locator(".stage-again").click()
    page.wait_for_function("() => document.querySelector('.layer').width > 100")
    assert not page.locator(".stage-note").is_visible()


DECODE = """async texts => {
    const { decodePng } = await import("/static/png.js");
    const decode = text => decodePng(Uint8Array.from(atob(text), one => one.charCodeAt(0)));
    const masks = await Promise.all(texts.map(decode));
    return masks.map(one => [one.height, one.width, [...one.values]]);
}"""


def encode_png(values: np.ndarray, mode: str, depth: int) -> str:
    image = Image.fromarray(values.astype(bool) if (mode, depth) == ("L", 1) else values.astype(np.uint8))
    if mode == "P":
        image.putpalette(np.arange(3 * 2**depth).astype(np.uint8).tobytes())
    out = io.BytesIO()
    image.save(out, "PNG", **({"bits": depth} if mode == "P" else {}))
    return b64encode(out.getvalue()).decode()


def test_png_values_are_those_of_pillow(open_page: Callable[..., Any]) -> None:
    random = np.random.default_rng(0)
    page = open_page(MadeUpRun(num_rows=0))
    wanted, encoded = [], []
    for mode, depth in (("P", 1), ("P", 2), ("P", 4), ("P", 8), ("L", 1), ("L", 8)):
        for height, width in ((1, 1), (7, 13), (40, 65)):
            smooth = np.add.outer(np.arange(height), np.arange(width)) // 3
            for values in (random.integers(0, 2**depth, (height, width)), smooth % 2**depth):
                encoded.append(encode_png(values, mode, depth))
                wanted.append([height, width, values.ravel().tolist()])
    assert page.evaluate(DECODE, encoded) == wanted
