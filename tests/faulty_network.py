"""A network between a client and S3 that fails on command, and S3 clients with short timeouts."""

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import fsspec
import s3fs

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>Try again.</Message></Error>"


class Fault(StrEnum):
    """A failure of a request."""

    SLOW_DOWN = "slow_down"
    """The server answers 503 and does nothing."""
    CONFLICT = "conflict"
    """The server answers 409 and does nothing: another conditional write is in progress."""
    RESET = "reset"
    """The connection breaks before the request reaches the server."""
    HANG = "hang"
    """The server never answers."""
    LOST_REPLY = "lost_reply"
    """The server executes the request; the connection breaks before the reply."""
    TRUNCATED_REPLY = "truncated_reply"
    """The server executes the request; the connection breaks in the middle of the reply."""


@dataclass(frozen=True)
class Request:
    """A request that passed the proxy."""

    method: str
    path: str
    num_bytes: int
    """Size of the reply's body."""

    @property
    def kind(self) -> str:
        """The operation of S3: get, head, put, list, delete."""
        if self.method == "GET" and "list-type" in parse_qs(urlsplit(self.path).query, keep_blank_values=True):
            return "list"
        return {"POST": "delete"}.get(self.method, self.method.lower())


@dataclass(frozen=True)
class Refusal:
    """A store's answer to all requests; Ceph RGW sends no message with some codes."""

    status: int
    code: str
    message: str | None

    def write(self) -> bytes:
        """Body of the answer."""
        message = "" if self.message is None else f"<Message>{self.message}</Message>"
        return f"<?xml version='1.0'?><Error><Code>{self.code}</Code>{message}</Error>".encode()


@dataclass
class FaultyNetwork:
    """An HTTP proxy in front of a server: it records requests and fails those that `choose` selects.

    Like Ceph RGW 16 it refuses uploads without a length.
    """

    endpoint: str
    choose: Callable[[str, str], Fault | None] = lambda method, path: None
    certificate: Path | None = None
    """Certificate and key of the proxy; None: no TLS."""
    refusal: Refusal | None = None
    """Answer to every request; None: requests are forwarded."""
    num_without_length: int = 0
    """Number of uploads refused because they had no length."""
    requests: list[Request] = field(default_factory=list)
    num_faults: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "FaultyNetwork":
        network = self

        class Handler(_ProxyHandler):
            proxied = network

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """URL for clients."""
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}"


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxied: ClassVar[FaultyNetwork]

    def _forward(self) -> None:
        if self.command in ("PUT", "POST") and self._has_no_length():
            self.proxied.num_without_length += 1
            self.close_connection = True
            self._answer(411, {}, Refusal(411, "MissingContentLength", None).write())
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.proxied.refusal is not None:
            self._answer(self.proxied.refusal.status, {}, self.proxied.refusal.write())
            return
        fault = self.proxied.choose(self.command, self.path)
        if fault is not None:
            self.proxied.num_faults += 1
        if fault in (Fault.RESET, Fault.HANG):
            self.proxied.closing.wait(0 if fault == Fault.RESET else 10)
            self.close_connection = True
            return
        if fault in (Fault.SLOW_DOWN, Fault.CONFLICT):
            self._answer(
                503 if fault == Fault.SLOW_DOWN else 409, {}, SLOW_DOWN if fault == Fault.SLOW_DOWN else CONFLICT
            )
            return
        connection = http.client.HTTPConnection(urlsplit(self.proxied.endpoint).netloc, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        reply = connection.getresponse()
        payload = reply.read()
        connection.close()
        self.proxied.requests.append(Request(self.command, self.path, len(payload)))
        if fault == Fault.LOST_REPLY:
            self.close_connection = True
            return
        headers = dict(reply.getheaders())
        if fault == Fault.TRUNCATED_REPLY:
            self.close_connection = True
            self._answer(reply.status, headers | {"Content-Length": str(len(payload))}, payload[: len(payload) // 2])
            return
        self._answer(reply.status, headers, payload)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward  # noqa: N815 (names of http.server)

    def _has_no_length(self) -> bool:
        return "Content-Length" not in self.headers or "chunked" in (
            self.headers.get("Transfer-Encoding", "") + self.headers.get("Content-Encoding", "")
        )

    def _answer(self, status: int, headers: dict[str, str], payload: bytes) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length")
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class HastyS3(s3fs.S3FileSystem):
    """The S3 client with a read timeout of seconds instead of a minute."""

    settings: ClassVar[dict[str, Any]] = {"read_timeout": 5}

    def __init__(self, *positional: Any, config_kwargs: dict[str, Any] | None = None, **arguments: Any) -> None:
        """Override some of the settings."""
        super().__init__(*positional, config_kwargs=(config_kwargs or {}) | self.settings, **arguments)


class OneTryS3(HastyS3):
    """The S3 client without retries."""

    retries = 1
    settings: ClassVar[dict[str, Any]] = {"read_timeout": 5, "retries": {"mode": "standard", "max_attempts": 1}}


@contextmanager
def use_s3_client(client: type[s3fs.S3FileSystem]) -> Iterator[None]:
    """Use another client for `s3://` inside the context."""
    usual = fsspec.get_filesystem_class("s3")
    fsspec.register_implementation("s3", client, clobber=True)
    client.clear_instance_cache()
    try:
        yield
    finally:
        fsspec.register_implementation("s3", usual, clobber=True)
