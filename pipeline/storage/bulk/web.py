"""Files of web servers whose addresses stand in data: with limits of time and size, and without free redirects."""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from pipeline.errors import StorageError

TIMEOUT_S = 30.0
"""Seconds without a byte after which a request has failed."""
TOTAL_TIMEOUT_S = 300.0
"""Seconds for a whole file: a server that sends single bytes must not stop a shard."""
PIECE_BYTES = 2**18
MAX_ATTEMPTS = 3
PAUSE_S = 0.5
OVERLOADED = frozenset({429, 503})
"""Status codes by which a server asks to wait."""


class WebFileError(Exception):
    """A file that its server does not deliver; the message is the reason. Other files may be there."""


class OversizedFileError(Exception):
    """A file above the limit; `num_bytes` are known of it."""

    def __init__(self, num_bytes: int) -> None:
        """Keep the size.

        Args:
            num_bytes: Size, or the bytes read so far.
        """
        super().__init__(f"{num_bytes} bytes")
        self.num_bytes = num_bytes


def read_web_file(
    url: str,
    max_bytes: int,
    is_allowed: Callable[[str], bool],
    *,
    pause_s: float = PAUSE_S,
    total_timeout_s: float = TOTAL_TIMEOUT_S,
) -> bytes:
    """Read a file of a web server.

    Args:
        url: http or https.
        max_bytes: Reading stops above this size.
        is_allowed: Whether a redirect to an address may be followed.
        pause_s: Pause before the second attempt; twice as long before the third.
        total_timeout_s: Seconds for one attempt to read the whole file.

    Raises:
        WebFileError: The server has no such file, refuses it, redirects elsewhere, or sends it in part only.
        OversizedFileError: It is too large.
        StorageError: The server cannot be reached or is overloaded: a later attempt may succeed.
    """
    for attempt in range(MAX_ATTEMPTS):
        try:
            return _read_once(url, max_bytes, is_allowed, total_timeout_s)
        except (StorageError, WebFileError) as error:
            is_final = isinstance(error, WebFileError) and not isinstance(error, _PassingError)
            if is_final or attempt == MAX_ATTEMPTS - 1:
                raise
        time.sleep(pause_s * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


class _PassingError(WebFileError):
    """A failure of one file that a second attempt may mend."""


class _RefusedRedirectError(Exception):
    """A redirect to a place that is not allowed."""


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects to allowed places only."""

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        self._is_allowed = is_allowed

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not self._is_allowed(newurl):
            raise _RefusedRedirectError(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read_once(url: str, max_bytes: int, is_allowed: Callable[[str], bool], total_timeout_s: float) -> bytes:
    opener = urllib.request.build_opener(_CheckedRedirects(is_allowed))
    # Characters that an address cannot contain are escaped, as browsers do.
    request = urllib.request.Request(
        urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]"), headers={"User-Agent": "tagmask"}
    )
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return _read_answer(answer, max_bytes, total_timeout_s)
    except _RefusedRedirectError as error:
        raise WebFileError(f"the server redirects to '{error}', which --inputs.allow-url does not allow") from error
    except urllib.error.HTTPError as error:
        if error.code in OVERLOADED:
            raise StorageError(f"'{url}' cannot be read: HTTP {error.code} {error.reason}") from error
        kind = _PassingError if error.code >= 500 else WebFileError
        raise kind(f"HTTP {error.code} {error.reason}") from error
    except (http.client.HTTPException, ValueError) as error:
        raise _PassingError(f"{type(error).__name__}: {error}") from error
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise StorageError(f"'{url}' cannot be read: {reason}; check network and address") from error


def _read_answer(answer: Any, max_bytes: int, total_timeout_s: float) -> bytes:
    stated = answer.headers.get("Content-Length") or ""
    if stated.isdecimal() and int(stated) > max_bytes:
        raise OversizedFileError(int(stated))
    stop = time.monotonic() + total_timeout_s
    pieces, num_bytes = [], 0
    # `read` would wait until a piece is full, which single bytes delay beyond any limit.
    while piece := answer.read1(PIECE_BYTES):
        pieces.append(piece)
        num_bytes += len(piece)
        if num_bytes > max_bytes:
            raise OversizedFileError(num_bytes)
        if time.monotonic() > stop:
            raise _PassingError(f"{num_bytes} bytes after {total_timeout_s:g} s")
    if stated.isdecimal() and num_bytes < int(stated):
        raise _PassingError(f"{num_bytes} of {stated} bytes")
    return b"".join(pieces)
