"""Stores and paths that cannot be used: each refusal names the URI and what to do."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest

from pipeline.errors import BucketError, PathError, ShardError, StorageError, UriError
from pipeline.inputs.shards import list_shards
from pipeline.storage.listing import find_object, glob_objects, list_folder, list_objects
from pipeline.storage.outage import is_outage
from pipeline.storage.reading import open_stream, read_bytes, read_head
from pipeline.storage.writing import create_if_absent, put_atomic

USES: list[Callable[[str], object]] = [
    find_object,
    list_objects,
    list_folder,
    glob_objects,
    read_bytes,
    open_stream,
    lambda uri: read_head(uri, 5),
    lambda uri: put_atomic(uri, b"x"),
    lambda uri: create_if_absent(uri, b"x"),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s4://b/a.tar", r"'s4://b/a.tar' has the unknown scheme 's4'; did you mean 's3://'\?"),
        ("mystore://b/a.tar", "has the unknown scheme 'mystore'; schemes such as file, s3, gs, .* are known"),
        ("simplecache::s4://b/a.tar", "has the unknown scheme 's4'"),
        ("://a.tar", "has the unknown scheme ''"),
        ("S3://b/a.tar?versionId=abc", "names a version of an object, which is not supported; leave out"),
        ("driverless://b/a.tar", "needs a driver that is not installed; pip install no-such-driver"),
        ("simplecache::driverless://b/a.tar", "needs a driver that is not installed; pip install no-such-driver"),
    ],
)
def test_uri_of_no_store_is_refused_by_every_use(use: Callable[[str], object], uri: str, message: str) -> None:
    fsspec.register_implementation("driverless", "no_such_driver.FileSystem", clobber=True, errtxt="install it")
    with pytest.raises(UriError, match=message):
        use(uri)


def test_driver_that_does_not_start_is_told_with_its_reason() -> None:
    with pytest.raises(
        StorageError, match=r"'github://a/b' cannot be opened: .*org.*; check the URI and the credentials"
    ):
        read_bytes("github://a/b")


@pytest.mark.parametrize("use", [use for use in USES if use is not glob_objects])
def test_bucket_that_does_not_exist_is_named_by_every_use(s3_folder: str, use: Callable[[str], object]) -> None:
    assert s3_folder
    with pytest.raises(BucketError, match=r"bucket 'no-such-bucket' of 's3://no-such-bucket/a.tar' does not exist"):
        use("s3://no-such-bucket/a.tar")


@pytest.mark.parametrize("pattern", ["", "/a.tar", "/in", "/*.tar", "/**/*.tar", "/a-{0..3}.tar", "/a-{00..30}.tar"])
def test_bucket_that_does_not_exist_is_named_for_every_pattern_of_shards(s3_folder: str, pattern: str) -> None:
    assert s3_folder
    with pytest.raises(BucketError, match="bucket 'no-such-bucket' of .* does not exist; create it, or correct"):
        list_shards([f"S3://no-such-bucket{pattern}"])


class StrictHandler(SimpleHTTPRequestHandler):
    """A server of files that lists no folder and keeps some names to itself."""

    def send_head(self) -> Any:
        for status in (401, 403, 503):
            if str(status) in self.path:
                self.send_error(status)
                return None
        return super().send_head()

    def list_directory(self, path: Any) -> Any:
        if "listed" in str(path):
            return super().list_directory(path)
        self.send_error(403)
        return None

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing."""


@pytest.fixture
def web_folder(tmp_path: Path) -> Iterator[str]:
    """Address of a server of two tars, of which one stands in a folder that is listed."""
    for name in ("a.tar", "listed/b.tar"):
        put_atomic(str(tmp_path / name), bytes(1024))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(StrictHandler, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_files_of_a_web_server_are_shards(web_folder: str) -> None:
    uris = [f"{web_folder}/a.tar", f"{web_folder}/listed/*.tar"]
    assert [shard.name for shard in list_shards([uri.replace("http", "HTTP") for uri in uris])] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none.tar", ShardError, "the server has no such file, and no page that lists files; check the address"),
        ("none/*.tar", ShardError, "matches no file"),
        ("403.tar", StorageError, "cannot be reached: 403, .*Forbidden.*; check the address, .* whether it asks for a"),
        ("401.tar", StorageError, "cannot be reached: 401, .*Unauthorized"),
        ("503.tar", StorageError, "cannot be reached: 503, "),
        ("*.tar", StorageError, "cannot be reached: 403, .*Forbidden"),
    ],
)
def test_answer_of_a_web_server_is_told(web_folder: str, name: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message) as refusal:
        list_shards([f"{web_folder}/{name}"])
    assert is_outage(refusal.value) == ("503" in name)


@pytest.mark.parametrize("uri", ["http://", "https:///a.tar"])
def test_address_without_a_host_is_refused_and_not_waited_for(uri: str) -> None:
    with pytest.raises(UriError, match=f"'{uri}' is no valid address; check its host and port") as refusal:
        list_shards([uri])
    assert not is_outage(refusal.value)


def test_empty_pattern_is_not_the_current_folder() -> None:
    with pytest.raises(ShardError, match="a pattern of shards is empty"):
        list_shards([""])


@pytest.mark.parametrize("name", ["a.tar", "*.tar", "a-{0..2}.tar"])
def test_web_server_that_is_down_is_an_outage(name: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        uri = f"http://127.0.0.1:{server.server_port}/{name}"
    with pytest.raises(StorageError, match="cannot be reached: Cannot connect to host 127.0.0.1") as refusal:
        list_shards([uri])
    assert is_outage(refusal.value)


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that the user of this process may not enter; root becomes another user."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == tmp_path.owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o755)
    folder = tmp_path / "closed"
    put_atomic(str(folder / "a.tar"), bytes(1024))
    folder.chmod(0o000)
    if is_root := os.geteuid() == 0:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    folder.chmod(0o755)


@pytest.mark.parametrize("pattern", ["", "/a.tar", "/*.tar", "/a-{0..3}.tar", "/a-{00..30}.tar"])
def test_folder_without_permission_is_told_for_every_pattern(closed_folder: Path, pattern: str) -> None:
    with pytest.raises(PathError, match=f"'{closed_folder}.*' cannot be read: Permission denied; give this user the"):
        list_shards([f"{closed_folder}{pattern}"])


def test_file_without_permission_is_told_when_read_and_written(closed_folder: Path) -> None:
    with pytest.raises(PathError, match="a.tar' cannot be read: Permission denied"):
        read_bytes(f"{closed_folder}/a.tar")
    with pytest.raises(PathError, match="' cannot be written: Permission denied"):
        put_atomic(f"{closed_folder}/b.tar", b"x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "cannot be read: Is a directory; it is a folder, so name a file"),
        ("a.tar/b.tar", "cannot be read: Not a directory; check the path"),
        ("x" * 300, "cannot be read: File name too long; check the path"),
    ],
)
def test_local_path_that_is_no_file_is_told(tmp_path: Path, name: str, message: str) -> None:
    put_atomic(str(tmp_path / "a.tar"), b"x")
    with pytest.raises(PathError, match=message) as refusal:
        read_bytes(str(tmp_path / name))
    assert not is_outage(refusal.value)


def test_output_below_a_file_or_a_broken_link_is_told(tmp_path: Path) -> None:
    put_atomic(str(tmp_path / "file"), b"x")
    (tmp_path / "link").symlink_to("/nowhere/folder")
    for name in ("file", "link"):
        with pytest.raises(PathError, match=f"/{name}' cannot be written: File exists; it is a file or a broken link"):
            create_if_absent(str(tmp_path / name / "run.json"), b"x")
