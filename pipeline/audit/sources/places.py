"""Places that the paths of a table lead to, and the spellings of one place."""

import posixpath
import unicodedata
from urllib.parse import unquote

WEB = ("http://", "https://")
LOCAL_SCHEMES = ("file://", "local://")
SEPARATOR = "://"


class Root:
    """Folder that the paths of a table start at."""

    def __init__(self, uri: str | None) -> None:
        """Start at a folder; None: it is that of the first image of the index."""
        self.uri = uri

    def leads_to(self, path: str, base: str, uri: str) -> bool:
        """True if a path is a way to a file.

        Args:
            path: As a table writes it.
            base: Folder below the root that it starts at; may be empty.
            uri: Of the file.
        """
        if self.uri is not None and uri == f"{self.uri}/{base}{'/' if base else ''}{path}":
            return True
        is_absolute = SEPARATOR in path or path.startswith("/")
        tail = path if is_absolute else posixpath.join(base, path)
        spelled = spell(uri)
        if is_absolute:
            return spelled == spell(path)
        if self.uri is None:
            end = "/" + spell(tail)
            if not spelled.endswith(end):
                return False
            self.uri = spelled.removesuffix(end)
            return True
        return spelled == _join(spell(self.uri), spell(tail))


def _join(root: str, tail: str) -> str:
    scheme, separator, folder = root.rpartition(SEPARATOR)
    return scheme + separator + posixpath.normpath(posixpath.join(folder, tail))


def spell(uri: str) -> str:
    """Write a path or URI so that spellings of one place are equal: slashes, dots, Unicode forms, `%20`.

    >>> spell("S3://b/x/../a%20b.jpg"), spell("file:///data//a.jpg"), spell("sub\\\\a.jpg")
    ('s3://b/a b.jpg', '/data/a.jpg', 'sub/a.jpg')
    """
    scheme, separator, path = uri.rpartition(SEPARATOR)
    if not path.isascii():
        path = unicodedata.normalize("NFC", path)
    if "%" in path:
        path = unquote(path)
    path = posixpath.normpath(path.replace("\\", "/"))
    start = scheme.lower() + separator
    return path if start in LOCAL_SCHEMES else start + path


def replace_surrogates(text: str) -> str:
    """Write what is no Unicode as an escape, as an index does; names that differ stay different."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
