"""The server of the page: HTTP around `api`, for the machine that it runs on.

Every answer but the page itself needs the token, which the first address has. The page's own requests bring it as a
cookie, which the browser sends to no other site and for no other site.
"""

import hmac
import json
import logging
import socket
from collections.abc import Callable, Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from pipeline.errors import LabellingError
from pipeline.review.api import NotThereError, ReviewApi
from pipeline.review.page_files import PAGE_HEADERS, read_page_file
from pipeline.review.pictures import Picture, PictureError
from pipeline.review.queries import RowQuery

logger = logging.getLogger(__name__)

TOKEN_HEADER = "X-Tagmask-Token"
MAX_BODY_BYTES = 64 * 2**10
IDLE_TIMEOUT_S = 60.0
"""After which a connection without a request is closed."""
JSON_TYPE = "application/json"
FLAGS = ("doubtful", "suggested", "disagree")
NUM_ROWS = 100


class Answer(NamedTuple):
    """What is sent."""

    status: int
    content: bytes
    media_type: str = JSON_TYPE
    headers: Mapping[str, str] = {}


class RequestError(Exception):
    """A request that is refused, with its status."""

    def __init__(self, status: int, said: str) -> None:
        """Keep both."""
        super().__init__(said)
        self.status = status


class ReviewServer(ThreadingHTTPServer):
    """Serves the page of one review."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, api: ReviewApi, host: str, port: int, token: str) -> None:
        """Listen, and answer nothing yet.

        Args:
            api: What answers.
            host: Name or address of this machine to listen at.
            port: 0: any that is free.
            token: Secret that requests have to bring.

        Raises:
            OSError: The address is unknown or in use.
        """
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)
        self.api = api
        self.token = token
        self.host = host

    @property
    def address(self) -> str:
        """The address that opens the page."""
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname(), "": socket.gethostname()}.get(
            self.host, self.host
        )
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.server_address[1]}/?token={quote(self.token, safe='')}"

    @property
    def cookie_name(self) -> str:
        """Cookies of a host are those of all its ports."""
        return f"tagmask-{self.server_address[1]}"

    def is_own_name(self, name: str) -> bool:
        """Whether a Host header names this server: a page of others may let its own name lead here."""
        try:
            parts = urlsplit(f"//{name}")
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if port is not None and port != self.server_address[1]:
            return False
        return _is_address(host) or host in {"localhost", self.host.lower(), socket.gethostname().lower()}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers close connections that they no longer want; that is no error."""
        logger.debug("a connection ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: ReviewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tagmask", ""
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    url: SplitResult
    query: Mapping[str, str]

    def do_GET(self) -> None:
        """Answer a request to read."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answer a request to store a decision."""
        self._answer(self._post)

    def do_DELETE(self) -> None:
        """Answer a request to take a decision back."""
        self._answer(self._delete)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are nothing to report."""
        logger.debug(format, *args)

    def _answer(self, make: Callable[[], Answer]) -> None:
        try:
            self.url = urlsplit(self.path)
            self.query = {name: values[-1] for name, values in parse_qs(self.url.query).items()}
            self.body = self._read_body()
            self._require_own_name()
            answer = make()
        except RequestError as error:
            answer = _refuse(error.status, error)
        except NotThereError as error:
            answer = _refuse(404, error)
        except PictureError as error:
            answer = _refuse(422, error)
        except ValueError as error:
            answer = _refuse(400, error)
        except (LabellingError, OSError) as error:
            # The store or an input: the next request may succeed.
            answer = _refuse(502, error)
        except Exception as error:  # one bad row must not end the review of the others
            logger.exception("the request '%s' failed", self.path)
            answer = _refuse(500, error)
        self._send(answer)

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise RequestError(413, f"need a body of at most {MAX_BODY_BYTES} bytes")
        return self.rfile.read(int(length))

    def _require_own_name(self) -> None:
        if not self.server.is_own_name(self.headers.get("Host", "")):
            raise RequestError(403, "the address names another server; open the one that the command printed")

    def _require_token(self) -> None:
        given = [self.headers.get(TOKEN_HEADER), self.query.get("token")]
        try:
            morsel = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie_name)
            given.append(morsel.value if morsel is not None else None)
        except CookieError:
            pass
        wanted = self.server.token.encode()
        if not any(hmac.compare_digest((one or "").encode("utf-8", "replace"), wanted) for one in given):
            raise RequestError(403, "the token is missing or wrong; open the address that the command printed")

    def _require_writer(self) -> None:
        self._require_token()
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != self.headers.get("Host"):
            raise RequestError(403, "the request comes from another site")

    def _get(self) -> Answer:
        if self.url.path == "/":
            return self._get_file("index.html")
        parts = [unquote(part) for part in self.url.path.split("/")[1:]]
        if parts[0] == "static" and len(parts) == 2:
            return self._get_file(parts[1])
        if parts[0] != "api":
            raise RequestError(404, f"there is nothing at '{self.url.path}'")
        self._require_token()
        if len(parts) == 3 and parts[1] in ("image", "mask", "truth", "corrected", "maps"):
            return self._get_picture(parts[1], parts[2])
        return _to_json(self._get_fields(parts[1:]))

    def _get_file(self, name: str) -> Answer:
        try:
            file = read_page_file(name)
        except KeyError:
            raise RequestError(404, f"the page has no file '{name}'") from None
        headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
        if name == "index.html" and "token" in self.query:
            self._require_token()
            cookie = f"{self.server.cookie_name}={quote(self.server.token, safe='')}"
            headers["Set-Cookie"] = f"{cookie}; HttpOnly; SameSite=Strict; Path=/"
        elif self.headers.get("If-None-Match") == file.etag:
            return Answer(304, b"", file.media_type, headers)
        return Answer(200, file.content, file.media_type, headers)

    def _get_fields(self, parts: list[str]) -> dict[str, Any]:
        api = self.server.api
        if parts == ["run"]:
            return api.describe_run()
        if parts == ["rows"]:
            order, offset = self.query.get("order", "quality"), self._get_number("offset", 0)
            return api.list_rows(self._parse_query(), order, offset or 0, self._get_number("limit", NUM_ROWS) or 0)
        if parts == ["facets"]:
            return api.count(self._parse_query())
        if parts == ["decisions", "summary"]:
            return api.summarise()
        if len(parts) == 2 and parts[0] == "row":
            return api.show_row(parts[1])
        raise RequestError(404, f"there is nothing at '{self.url.path}'")

    def _get_picture(self, kind: str, row_id: str) -> Answer:
        # Pictures are those of this server until it ends: the token is in the tag, so that another run at the same
        # port is another picture.
        tag = f'"{sha256(f"{self.server.token} {self.path}".encode("utf-8", "surrogatepass")).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if self.headers.get("If-None-Match") == tag:
            return Answer(304, b"", "image/png", headers)
        picture = self._make_picture(kind, row_id)
        return Answer(200, picture.content, picture.media_type, headers)

    def _make_picture(self, kind: str, row_id: str) -> Picture:
        api, size_px = self.server.api, self._get_number("size")
        if kind == "image":
            return api.show_image(row_id, size_px)
        if kind == "mask":
            is_overlay = self.query.get("overlay") == "1"
            return api.show_mask(row_id, self._get_number("run", 0) or 0, size_px, is_overlay=is_overlay)
        if kind == "corrected":
            return api.show_corrected(row_id)
        return api.show_truth(row_id) if kind == "truth" else api.show_map(row_id, self._get_number("class", 0) or 0)

    def _post(self) -> Answer:
        self._require_writer()
        if self.url.path != "/api/decisions":
            raise RequestError(404, f"there is nothing at '{self.url.path}'")
        if self.headers.get_content_type() != JSON_TYPE:
            raise RequestError(415, f"need a body of {JSON_TYPE}")
        try:
            fields = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"the body is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise RequestError(400, "the body is no JSON object")
        return _to_json(self.server.api.decide(fields))

    def _delete(self) -> Answer:
        self._require_writer()
        parts = [unquote(part) for part in self.url.path.split("/")[1:]]
        if len(parts) != 3 or parts[:2] != ["api", "decisions"]:
            raise RequestError(404, f"there is nothing at '{self.url.path}'")
        return _to_json(self.server.api.withdraw(parts[2]))

    def _parse_query(self) -> RowQuery:
        return RowQuery(
            class_id=self._get_number("class"),
            status=self.query.get("status"),
            reason=self.query.get("reason"),
            decision=self.query.get("decision"),
            search=self.query.get("search"),
            **{name: self.query.get(name) == "1" for name in FLAGS},
        )

    def _get_number(self, name: str, default: int | None = None) -> int | None:
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise RequestError(400, f"need a whole number as {name}, got {text[:40]!r}")
        return int(text)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**PAGE_HEADERS, "Cache-Control": "no-store", **answer.headers}.items():
            self.send_header(name, value)
        if answer.status != 304:
            self.send_header("Content-Type", answer.media_type)
            self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host.partition("%")[0]))
    except ValueError:
        return False


def _to_json(fields: Mapping[str, Any]) -> Answer:
    return Answer(200, json.dumps(fields, allow_nan=False, default=str).encode("utf-8", "surrogatepass"))


def _refuse(status: int, error: Exception) -> Answer:
    return Answer(status, json.dumps({"error": str(error)}).encode())
