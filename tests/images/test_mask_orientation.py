"""Photo and mask stay together in tools that turn pictures by EXIF, and in those that do not.

The photo is a PNG whose pixels are the colours of its mask, so that a tool that turns only one of them is seen.
"""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_image

from pipeline.images.masks import decode_mask, encode_mask, voc_palette
from pipeline.images.orientation import turn_upright
from tests.foreign_readers import run_reader

CHROMIUM = Path("/usr/bin/chromium")
MASKS = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(9, dtype=np.uint8).reshape(3, 3)]
"""One that is not square and one that is; no two pixels are equal."""
PALETTE = voc_palette()
CASES = [(mask, orientation) for mask in MASKS for orientation in range(1, 9)]


def encode_photo(mask: Any, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    png = io.BytesIO()
    Image.fromarray(PALETTE[mask]).save(png, "PNG", exif=exif)
    return png.getvalue()


def read_with_datasets(payload: bytes) -> Any:
    import datasets

    return np.asarray(datasets.Image().decode_example({"bytes": payload, "path": None}).convert("RGB"))


def read_with_pillow(payload: bytes) -> Any:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(payload))).convert("RGB"))


def read_with_pillow_as_stored(payload: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"))


def read_with_opencv(payload: bytes) -> Any:
    return np.asarray(cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR))[..., ::-1]


def read_with_opencv_as_stored(payload: bytes) -> Any:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return np.asarray(cv2.imdecode(np.frombuffer(payload, np.uint8), flags))[..., ::-1]


def read_with_torchvision(payload: bytes) -> Any:
    data = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    return decode_image(data, ImageReadMode.RGB, apply_exif_orientation=True).permute(1, 2, 0).numpy()


def read_with_torchvision_as_stored(payload: bytes) -> Any:
    data = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    return decode_image(data, ImageReadMode.RGB).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("read", "turns"),
    [
        (read_with_datasets, True),
        (read_with_pillow, True),
        (read_with_pillow_as_stored, False),
        (read_with_opencv, True),
        (read_with_opencv_as_stored, False),
        (read_with_torchvision, True),
        (read_with_torchvision_as_stored, False),
    ],
)
def test_photo_and_mask_stay_together(read: Callable[[bytes], Any], turns: bool) -> None:
    for mask, orientation in CASES:
        seen = read(encode_mask(mask, PALETTE, orientation))
        np.testing.assert_array_equal(seen, read(encode_photo(mask, orientation)))
        upright = turn_upright(mask, orientation if turns else 1)
        np.testing.assert_array_equal(seen, PALETTE[upright])


@pytest.mark.parametrize("turns", [True, False])
def test_opencv_5_turns_photo_and_mask_alike(turns: bool) -> None:
    payloads = [encode(*case) for case in CASES for encode in (lambda m, o: encode_mask(m, PALETTE, o), encode_photo)]
    texts = [base64.b64encode(payload).decode() for payload in payloads]
    answer = run_reader("opencv_pixels", images=texts, turns=turns)
    assert answer["version"].startswith("5.")
    for place, (mask, orientation) in enumerate(CASES):
        seen, photo = (np.array(pixels, np.uint8) for pixels in answer["images"][2 * place : 2 * place + 2])
        np.testing.assert_array_equal(seen, photo)
        np.testing.assert_array_equal(seen, PALETTE[turn_upright(mask, orientation if turns else 1)])


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """An empty page in a browser."""
    if not CHROMIUM.exists():
        pytest.skip("this machine has no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        quiet += ["--disable-background-networking", "--disable-component-update"]
        browser = tools.chromium.launch(executable_path=str(CHROMIUM), args=quiet)
        yield browser.new_page()
        browser.close()


READ_PIXELS = """async sources => Promise.all(sources.map(async source => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.width, canvas.height, Array.from(pixels)];
}))"""


def test_chromium_turns_photo_and_mask_alike(page: Any) -> None:
    payloads = [encode(*case) for case in CASES for encode in (lambda m, o: encode_mask(m, PALETTE, o), encode_photo)]
    sources = [f"data:image/png;base64,{base64.b64encode(payload).decode()}" for payload in payloads]
    found = [
        np.array(pixels, np.uint8).reshape(height, width, 4)[..., :3]
        for width, height, pixels in page.evaluate(READ_PIXELS, sources)
    ]
    for place, (mask, orientation) in enumerate(CASES):
        np.testing.assert_array_equal(found[2 * place], found[2 * place + 1])
        np.testing.assert_array_equal(found[2 * place], PALETTE[turn_upright(mask, orientation)])


def test_mask_is_decoded_on_its_stored_pixels_and_costs_38_bytes_if_it_is_turned() -> None:
    for mask, orientation in CASES:
        payload = encode_mask(mask, PALETTE, orientation)
        np.testing.assert_array_equal(decode_mask(payload), mask)
        plain = encode_mask(mask, PALETTE)
        assert b"eXIf" not in plain
        assert len(payload) - len(plain) == (0 if orientation == 1 else 38)
