"""An S3 server with a delay before each reply: moto's, behind a forwarder that keeps the objects it has read.

Moto answers some hundred requests a second, fewer than a client sends. So a second read of an object is answered by the
forwarder from memory, and the client is what is measured.
"""

import asyncio
import http.client
import logging
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_double, c_long
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

END_OF_HEAD = b"\r\n\r\n"
COUNTED = ("GET", "HEAD", "LIST")
BUCKET = "photos"


@dataclass(frozen=True)
class DelayedS3:
    """A running server."""

    url: str
    _delay_s: Any
    _counts: Any

    def set_delay(self, delay_s: float) -> None:
        """Set the delay before each reply, and start counting from zero."""
        self._delay_s.value = delay_s
        for place in range(len(COUNTED)):
            self._counts[place] = 0

    def count_requests(self) -> dict[str, int]:
        """Number of requests since the last `set_delay`: of objects (GET), of their sizes (HEAD), of listings."""
        return dict(zip(COUNTED, self._counts, strict=True))


@contextmanager
def start_delayed_s3() -> Iterator[DelayedS3]:
    """Start the server in a process of its own, with one bucket; point the AWS variables of this process to it."""
    spawning = multiprocessing.get_context("spawn")
    delay_s, counts = spawning.Value(c_double, 0.0), spawning.Array(c_long, len(COUNTED))
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(theirs, delay_s, counts), daemon=True)
    process.start()
    try:
        server = DelayedS3(f"http://127.0.0.1:{ours.recv()}", delay_s, counts)
        os.environ.update(
            AWS_ACCESS_KEY_ID="testing",
            AWS_SECRET_ACCESS_KEY="testing",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_ENDPOINT_URL=server.url,
        )
        yield server
    finally:
        process.terminate()
        process.join()


def _serve(ready: Connection, delay_s: Any, counts: Any) -> None:
    from moto.server import ThreadedMotoServer

    # A line a request, to the standard error.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    connection = http.client.HTTPConnection(host, port)
    connection.request("PUT", f"/{BUCKET}")
    connection.getresponse().read()

    async def run() -> None:
        kept: dict[tuple[bytes, ...], bytes] = {}
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(
            lambda: _Forwarder((host, port), kept, delay_s, counts), "127.0.0.1", 0, backlog=1024
        )
        ready.send(listening.sockets[0].getsockname()[1])
        await listening.serve_forever()

    asyncio.run(run())


class _Forwarder(asyncio.Protocol):
    """A connection of a client, which sends a request after the reply to the one before."""

    def __init__(
        self, target: tuple[str, int], kept: dict[tuple[bytes, ...], bytes], delay_s: Any, counts: Any
    ) -> None:
        self._target, self._kept, self._delay_s, self._counts = target, kept, delay_s.get_obj(), counts.get_obj()
        self._received = bytearray()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(END_OF_HEAD)
        if end < 0:
            return
        first, *lines = bytes(self._received[:end]).split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        size = end + len(END_OF_HEAD) + int(fields.get(b"content-length", 0))
        if len(self._received) < size:
            if fields.get(b"expect"):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        request = bytes(self._received[:size])
        del self._received[:size]
        self._answer(first.split(), fields, request)

    def _answer(self, first: list[bytes], fields: dict[bytes, bytes], request: bytes) -> None:
        method, path = first[0], first[1]
        kind = "LIST" if b"list-type" in path else method.decode()
        if kind in COUNTED:
            self._counts[COUNTED.index(kind)] += 1
        key = (method, path, fields.get(b"range", b""))
        if reply := self._kept.get(key):
            self._reply(reply)
            return
        loop = asyncio.get_running_loop()
        forwarded = loop.run_in_executor(None, _forward, self._target, method, path, fields, request)

        def finish(done: asyncio.Future[bytes]) -> None:
            if kind == "GET":
                self._kept[key] = done.result()
            elif kind == "PUT":
                self._kept.pop((b"GET", path, b""), None)
            self._reply(done.result())

        forwarded.add_done_callback(finish)

    def _reply(self, reply: bytes) -> None:
        if delay_s := self._delay_s.value:
            asyncio.get_running_loop().call_later(delay_s, self._transport.write, reply)
        else:
            self._transport.write(reply)


def _forward(target: tuple[str, int], method: bytes, path: bytes, fields: dict[bytes, bytes], request: bytes) -> bytes:
    """Send a request to moto; return the reply as bytes with a length."""
    connection = http.client.HTTPConnection(*target)
    headers = {
        name.decode(): value.decode() for name, value in fields.items() if name not in (b"expect", b"connection")
    }
    connection.request(method.decode(), path.decode(), request.partition(END_OF_HEAD)[2], headers)
    answer = connection.getresponse()
    payload = answer.read()
    connection.close()
    left_out = ("content-length", "transfer-encoding", "connection")
    lines = [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in left_out]
    size = answer.getheader("Content-Length") if method == b"HEAD" else len(payload)
    head = "\r\n".join([f"HTTP/1.1 {answer.status} {answer.reason}", *lines, f"Content-Length: {size or 0}"])
    return head.encode() + END_OF_HEAD + payload
