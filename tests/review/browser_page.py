"""Pages of a real browser: how long tests wait for them, and what must not happen in them."""

from typing import Any

WAIT_MS = 60_000
"""Browser, server and other tests share few cores: only a page that hangs waits so long."""


def watch_page(page: Any) -> list[str]:
    """Give a new page time, and collect errors in its code and what its own policy forbids."""
    faults: list[str] = []

    def read_line(line: Any) -> None:
        if "Security Policy" in line.text:
            faults.append(line.text)

    page.set_default_timeout(WAIT_MS)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", read_line)
    return faults
