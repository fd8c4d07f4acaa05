"""The files of the page as the server sends them: no other name leads to a file."""

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of the page and its files: nothing comes from elsewhere, no script stands in the page, no site frames it."""


class PageFile(NamedTuple):
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str
    """Quoted; changes with the content."""


@cache
def list_page_files() -> frozenset[str]:
    """Names of the files of the page."""
    names = (entry.name for entry in files(__package__).joinpath("page").iterdir())
    return frozenset(name for name in names if name[name.rfind(".") :] in MEDIA_TYPES)


@cache
def read_page_file(name: str) -> PageFile:
    """Read a file of the page by its name.

    Raises:
        KeyError: The page has no file of this name; paths are no names.
    """
    if name not in list_page_files():
        raise KeyError(name)
    content = files(__package__).joinpath("page", name).read_bytes()
    media_type = MEDIA_TYPES[name[name.rfind(".") :]]
    return PageFile(content, media_type, f'"{sha256(content).hexdigest()[:16]}"')
