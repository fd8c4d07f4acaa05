"""A real browser and servers of made-up runs for the tests of the page."""

import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.review.browser_page import watch_page
from tests.review.made_up_run import MadeUpRun, Server

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-smooth-scrolling"),
)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="package")
def context(browser: Any) -> Iterator[Any]:
    """One profile of the browser: files of the page are fetched once."""
    opened = browser.new_context()
    yield opened
    opened.close()


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    started = Server(MadeUpRun(num_rows=0))
    threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield started
    started.shutdown()
    started.server_close()


@pytest.fixture
def open_page(context: Any, server: Server) -> Iterator[Callable[..., Any]]:
    """Open the page of a made-up run. At the end: no error in its code, nothing that its own policy forbids."""
    pages: list[Any] = []
    faults: list[list[str]] = []

    def start(
        run: MadeUpRun, fragment: str = "", *, width: int = 1000, height: int = 640, scheme: str = "light"
    ) -> Any:
        server.run = run
        page = context.new_page()
        pages.append(page)
        faults.append(watch_page(page))
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        page.goto(server.address + fragment)
        return page

    yield start
    for gate in server.run.gates.values():
        gate.set()
    broken = []
    for page in pages:
        if page.url.startswith("http"):
            broken.append(page.evaluate("window.broken"))
            page.evaluate("localStorage.clear()")
        page.close()
    assert not any(faults), faults
    assert not any(broken)
