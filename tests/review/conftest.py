"""A real browser and servers of made-up runs for the tests of the page."""

import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.review.made_up_run import MadeUpRun, Server

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
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


@pytest.fixture
def serve() -> Iterator[Callable[[MadeUpRun], str]]:
    """Serve a made-up run; returns the address of its page."""
    servers = []

    def start(run: MadeUpRun) -> str:
        servers.append(Server(run))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return servers[-1].address

    yield start
    for server in servers:
        for gate in server.run.gates.values():
            gate.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def open_page(browser: Any, serve: Callable[[MadeUpRun], str]) -> Iterator[Callable[..., Any]]:
    """Open the page of a made-up run. At the end: no error in its code, nothing that its own policy forbids."""
    contexts, faults = [], []

    def start(run: MadeUpRun, fragment: str = "", *, width: int = 1280, height: int = 800, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(8000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: "Security Policy" in line.text and faults.append(line.text))
        page.goto(serve(run) + fragment)
        return page

    yield start
    broken = [page.evaluate("window.broken") for context in contexts for page in context.pages if not page.is_closed()]
    for context in contexts:
        context.close()
    assert not faults
    assert not any(broken)
