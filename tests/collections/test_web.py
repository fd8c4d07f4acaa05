"""Images of a web server: read if its place is allowed, and a row with a reason if it does not deliver one."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import ClassVar

import pytest

from pipeline.commit.retry import open_retry, parse_reasons
from pipeline.errors import StorageError
from pipeline.label import label_run
from pipeline.run.config import InputConfig
from pipeline.run.records import Reason
from pipeline.storage.bulk.web import OversizedFileError, WebFileError, read_web_file
from tests.collections.forms import PHOTOS, find, read_samples
from tests.collections.test_labelling import label, model, open_collection, read_rows  # noqa: F401 (a fixture)
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS


class _Server(BaseHTTPRequestHandler):
    is_over = Event()
    """Set when the server of a test ends."""
    asked: ClassVar[set[str]] = set()
    """Addresses that a first request did not get."""

    def do_GET(self) -> None:
        assert isinstance(self.server, ThreadingHTTPServer)
        if self.path == "/stalling":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nx")
            self.is_over.wait()
            return
        if self.path == "/late.jpg" and self.path not in self.asked:
            self.asked.add(self.path)
            self.send_error(404)
            return
        other = f"http://localhost:{self.server.server_port}/a.jpg"
        status, headers, body = {
            "/a.jpg": (200, {}, PHOTOS["a"]),
            "/late.jpg": (200, {}, PHOTOS["b"]),
            "/b%20c.jpg": (200, {}, PHOTOS["b"]),
            "/moved": (302, {"Location": "/a.jpg"}, b""),
            "/elsewhere": (302, {"Location": other}, b""),
            "/local": (302, {"Location": "file:///etc/passwd"}, b""),
            "/large": (200, {}, bytes(10_000)),
            "/busy": (503, {}, b""),
        }.get(self.path, (404, {}, b"no"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a web server."""
    _Server.is_over.clear()
    _Server.asked.clear()
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    _Server.is_over.set()
    running.shutdown()
    thread.join()
    running.server_close()


def test_urls_of_an_allowed_server_are_read_and_failures_are_rows(server: str, tmp_path: Path) -> None:
    names = ["a.jpg", "b c.jpg", "moved", "gone.jpg", "elsewhere", "local", "large"]
    lines = "".join(f"{server}/{name},cat\n" for name in names)
    (tmp_path / "list.csv").write_text(f"URL,tags\n{lines}")
    inputs = {"allow_url": (server,), "max_image_bytes": 9_000}
    shards, _ = find(tmp_path / "list.csv", tmp_path / "index", **inputs)
    samples = read_samples(shards, **inputs)
    assert [sample.image for sample in samples] == [PHOTOS["a"], PHOTOS["b"], PHOTOS["a"], None, None, None, None]
    assert [sample.download_error.partition(": ")[2] for sample in samples[3:5]] == [
        "HTTP 404 Not Found",
        f"the server redirects to '{server.replace('127.0.0.1', 'localhost')}/a.jpg', "
        "which --inputs.allow-url does not allow",
    ]
    assert "file:///etc/passwd" in samples[5].download_error
    assert samples[6].image_reason == Reason.TOO_LARGE


def test_image_root_on_a_web_server_needs_no_listing(server: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,tags\na.jpg,cat\ngone.jpg,cat\n")
    shards, _ = find(tmp_path / "list.csv", tmp_path / "index", image_root=server)
    samples = read_samples(shards, image_root=server)
    assert samples[0].image == PHOTOS["a"]
    assert "HTTP 404" in samples[1].download_error


def test_overloaded_or_absent_server_is_a_failure_of_its_store(server: str) -> None:
    with pytest.raises(StorageError, match="HTTP 503"):
        read_web_file(f"{server}/busy", 1000, lambda url: True, pause_s=0.0)
    with pytest.raises(StorageError, match="check network and address"):
        read_web_file("http://127.0.0.1:9/a.jpg", 1000, lambda url: True, pause_s=0.0)


def test_file_above_the_limit_is_not_read(server: str) -> None:
    with pytest.raises(OversizedFileError):
        read_web_file(f"{server}/large", 100, lambda url: True)
    with pytest.raises(WebFileError):
        read_web_file(f"{server}/gone", 100, lambda url: True)


def test_file_of_a_server_that_sends_single_bytes_fails_when_its_time_is_over(server: str) -> None:
    with pytest.raises(WebFileError, match="1 bytes after 0 s"):
        read_web_file(f"{server}/stalling", 100, lambda url: True, pause_s=0.0, total_timeout_s=0.0)


def test_image_that_its_server_delivers_later_is_labelled_by_a_retry(
    server: str,
    tmp_path: Path,
    model: str,  # noqa: F811
) -> None:
    (tmp_path / "list.csv").write_text(f"url,tags\n{server}/a.jpg,cat\n{server}/late.jpg,dog\n")
    run = open_collection(tmp_path / "list.csv", str(tmp_path / "out"), model, InputConfig(allow_url=(server,)))
    label(run)
    first = read_rows(run)
    retried, order = open_retry(run, parse_reasons("rejected:download_failed"))
    label_run(retried, OPTIONS, retry=order, cluster=SerialCluster())
    assert [row["reason"] for row in first] == [None, "download_failed"]
    assert read_rows(run)[0] == first[0]
    assert [row["status"] for row in read_rows(run)] == ["labelled", "labelled"]
