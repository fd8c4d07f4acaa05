"""Places that data may name: stores and servers that the command line allows."""

import posixpath
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

ABSOLUTE_URI = "://"
WEB_SCHEMES = frozenset({"http", "https"})
SAME_SCHEMES = {"s3a": "s3", "gcs": "gs", "local": "file"}
DEFAULT_PORTS = {"http": 80, "https": 443}


class _Place(NamedTuple):
    scheme: str
    host: str
    path: str


def is_web_uri(uri: str) -> bool:
    """Check whether a URI is an address of the web.

    >>> is_web_uri("HTTPS://example.com/a.jpg"), is_web_uri("s3://bucket/a.jpg")
    (True, False)
    """
    return uri.partition(ABSOLUTE_URI)[0].lower() in WEB_SCHEMES


def is_allowed(uri: str, allowed: Sequence[str]) -> bool:
    """Check whether a URI or absolute path lies in one of the allowed places.

    >>> is_allowed("https://images.example.com/a/b.jpg", ["https://images.example.com"])
    True
    >>> is_allowed("https://images.example.com.evil.net/b.jpg", ["https://images.example.com"])
    False
    >>> is_allowed("/data/../etc/passwd", ["file:///data"]), is_allowed("/data/a.jpg", ["file:///data"])
    (False, True)

    Args:
        uri: Of a file.
        allowed: Each `scheme://host` or `scheme://host/folder`; `file:///folder` for local paths.
    """
    place = _split(uri)
    return place is not None and any(_contains(_split(entry), place) for entry in allowed)


def suggest_place(uri: str) -> str:
    """Shortest place that would allow a URI: its scheme and host, or the folder of a local file.

    >>> suggest_place("https://example.com/a/b.jpg"), suggest_place("/data/a/b.jpg")
    ('https://example.com', 'file:///data/a')
    """
    place = _split(uri)
    if place is None:
        return uri
    return f"file://{posixpath.dirname(place.path)}" if place.scheme == "file" else f"{place.scheme}://{place.host}"


def _split(uri: str) -> _Place | None:
    """Parts of a URI in one spelling; None for one that is never allowed: with a login, or of several links."""
    scheme, separator, rest = uri.partition(ABSOLUTE_URI)
    if not separator:
        scheme, rest = "file", uri
    scheme = SAME_SCHEMES.get(scheme.lower(), scheme.lower())
    if "::" in uri:
        return None
    if scheme == "file":
        return _Place(scheme, "", posixpath.normpath(rest)) if rest.startswith("/") else None
    if scheme not in WEB_SCHEMES:
        host, _, path = rest.partition("/")
        return _Place(scheme, host, _normalise(path)) if host else None
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.username is not None or "\\" in uri:
        return None
    host = parts.hostname if port in (None, DEFAULT_PORTS[scheme]) else f"{parts.hostname}:{port}"
    return _Place(scheme, host, _normalise(unquote(parts.path)))


def _normalise(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def _contains(folder: _Place | None, file: _Place) -> bool:
    if folder is None or (folder.scheme, folder.host) != (file.scheme, file.host):
        return False
    return file.path == folder.path or file.path.startswith(folder.path.rstrip("/") + "/")
