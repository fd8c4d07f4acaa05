"""Buckets of Google and containers of Azure that do not exist.

Their clients are optional. The stores here raise what gcsfs and adlfs were seen to raise at emulators of both; where
gcsfs and its emulator are installed, they are used, too.
"""

import socket
import uuid
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from pipeline.errors import BucketError, ShardError
from pipeline.inputs.shards import list_shards
from pipeline.storage.listing import list_objects, require_bucket
from pipeline.storage.outage import is_outage
from pipeline.storage.reading import read_bytes
from pipeline.storage.writing import create_if_absent, put_atomic


class ResourceNotFoundError(Exception):
    """As Azure's: the code tells a missing container from a missing blob."""

    def __init__(self, error_code: str) -> None:
        """Keep the code."""
        super().__init__(f"The specified resource does not exist. ErrorCode:{error_code}")
        self.error_code = error_code


class BucketStore(MemoryFileSystem):
    """A store with the buckets `there` and `empty`, as gcsfs shows it: a missing bucket is a missing file."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    buckets: ClassVar[tuple[str, ...]] = ("there", "empty")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).rpartition("://")[2].strip("/")

    def info(self, path: str, **options: Any) -> Any:
        """Describe a file or folder; a bucket may be empty."""
        bucket, _, rest = self._strip_protocol(path).partition("/")
        if bucket in self.buckets and not rest:
            return {"name": bucket, "size": 0, "type": "directory"}
        return super().info(path, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> Any:
        """Write a file below a bucket."""
        if self._strip_protocol(path).partition("/")[0] not in self.buckets:
            self._fail(path)
        return super().pipe_file(path, value, mode=mode, **options)

    def _fail(self, path: str) -> None:
        raise FileNotFoundError(path)


class ContainerStore(BucketStore):
    """The same as adlfs shows it: a write fails with Azure's own exception."""

    def _fail(self, path: str) -> None:
        raise ResourceNotFoundError("ContainerNotFound")


@pytest.fixture(params=["gs", "az", "abfs"])
def scheme(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A scheme whose client shows two buckets."""
    monkeypatch.setitem(_registry, request.param, BucketStore if request.param == "gs" else ContainerStore)
    return str(request.param)


@pytest.mark.parametrize("pattern", ["", "/a.tar", "/in", "/*.tar", "/a-{0..3}.tar", "/a-{00..30}.tar"])
def test_bucket_that_does_not_exist_is_named_for_every_pattern(scheme: str, pattern: str) -> None:
    kind = "bucket" if scheme == "gs" else "container"
    with pytest.raises(
        BucketError, match=f"{kind} 'none' of '{scheme}://none.*' does not exist; create it, or"
    ) as told:
        list_shards([f"{scheme}://none{pattern}"])
    assert not is_outage(told.value)


def test_bucket_that_does_not_exist_is_named_by_every_write(scheme: str) -> None:
    for write in (put_atomic, create_if_absent):
        with pytest.raises(BucketError, match=f"'none' of '{scheme}://none/run.json' does not exist"):
            write(f"{scheme}://none/run.json", b"x")


def test_bucket_that_exists_is_not_blamed(scheme: str) -> None:
    for bucket in ("there", "empty"):
        require_bucket(f"{scheme}://{bucket}/in")
    with pytest.raises(ShardError, match=r"no shard at '.*://there/none.tar': it is neither a file nor a folder"):
        list_shards([f"{scheme}://there/none.tar"])
    put_atomic(f"{scheme}://there/run/a.tar", bytes(1024))
    assert [shard.name for shard in list_shards([f"{scheme}://there/run"])] == ["a"]


def test_container_is_named_without_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry, "abfs", ContainerStore)
    with pytest.raises(BucketError, match=r"container 'none' of 'abfs://none@a"):
        put_atomic("abfs://none@account.dfs.core.windows.net/a.tar", b"x")


def test_google_s_own_client_names_a_missing_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="there")
    server.start()
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        uri = f"gs://there/{uuid.uuid4().hex}/a.tar"
        put_atomic(uri, bytes(1024))
        assert read_bytes(uri) == bytes(1024)
        assert [item.uri for item in list_objects(uri.rpartition("/")[0])] == [uri]
        assert [shard.uri for shard in list_shards([uri.replace("a.tar", "*.tar")])] == [uri]
        for use in (lambda uri: list_shards([uri]), lambda uri: put_atomic(uri, b"x")):
            with pytest.raises(BucketError, match="bucket 'no-such-bucket' of 'gs://no-such-bucket/a.tar' does not"):
                use("gs://no-such-bucket/a.tar")
    finally:
        server.stop()
        fsspec.get_filesystem_class("gs").clear_instance_cache()
