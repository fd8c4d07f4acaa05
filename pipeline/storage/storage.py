"""The one door to bytes: list, read, put atomically, create if absent, delete.

A URI is a plain local path, or what fsspec knows: `file://`, `s3://`, `memory://` and others. On a local
disk a put is a hidden temporary file, synced and renamed; on an object store it is one request.
Nothing is cached between calls: other machines write to the same folders.
"""

import glob
import io
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import fsspec

from pipeline.errors import NO_SPACE, BucketError, StorageError
from pipeline.storage.atomic_files import create_file, put_file
from pipeline.storage.secrets import require_no_password
from pipeline.storage.store_errors import describe_failure, is_bucket_missing
from pipeline.storage.stored_objects import StoredObject, describe_listed, describe_local, describe_remote, walk

READAHEAD_BYTES = 8 * 2**20
"""What one request of a sequential read from an object store fetches."""

S3_OPTIONS = {
    # botocore's standard mode waits longer after each try, with jitter; it takes up throttling (503), timeouts and
    # broken connections. s3fs tries five times on top of that.
    "config_kwargs": {
        "retries": {"mode": "standard", "max_attempts": 4},
        "connect_timeout": 10,
        "read_timeout": 60,
        # Else an upload over TLS is sent in chunks that end in a checksum, without a length: Ceph RGW 16 refuses that.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    },
}
"""How S3 is asked. Endpoint, region and credentials come from the usual chain of AWS and from nowhere else."""

CREATE_ATTEMPTS = 5


@runtime_checkable
class ByteStream(Protocol):
    """What all stores' files have in common."""

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes; none at the end."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a position."""

    def tell(self) -> int:
        """Say where the stream is."""

    def close(self) -> None:
        """Let go of what the stream holds."""


def get_local_path(uri: str) -> Path | None:
    """Give the path of a URI on a local disk; None when it is elsewhere.

    >>> get_local_path("s3://bucket/a.tar") is None
    True
    """
    if uri.startswith(("file://", "local://")):
        return Path(uri.partition("://")[2])
    return None if "://" in uri else Path(uri)


def join_uri(base: str, *parts: str) -> str:
    """Append parts to a URI.

    >>> join_uri("s3://bucket/run/", "labels", "a.parquet")
    's3://bucket/run/labels/a.parquet'
    """
    if not parts:
        return base
    scheme, separator, path = base.rpartition("://")
    tail = "/".join(part.strip("/") for part in parts)
    # The root folder must not lose its slash, nor memory:// its scheme.
    head = f"{path.rstrip('/')}/" if path.strip("/") else path[:1]
    return scheme + separator + head + tail


def find_object(uri: str) -> StoredObject | None:
    """Look one file or object up; None when there is none, or a folder."""
    if (path := get_local_path(uri)) is not None:
        return describe_local(uri, path) if path.is_file() else None
    filesystem, name = _open_filesystem(uri)
    try:
        with _telling(uri):
            found = filesystem.info(name)
    except FileNotFoundError:
        return None
    return None if found["type"] == "directory" else describe_remote(uri, found)


def exists(uri: str) -> bool:
    """Tell whether there is a file or object at the URI; a folder is none."""
    return find_object(uri) is not None


def list_objects(folder_uri: str) -> list[StoredObject]:
    """List everything below a folder, sorted by URI. A folder that is not there is empty."""
    if (folder := get_local_path(folder_uri)) is not None:
        found = describe_listed((_rebase(folder_uri, folder, path), path) for path in walk(folder))
    else:
        filesystem, name = _open_filesystem(folder_uri)
        with _telling(folder_uri):
            entries = filesystem.find(name, detail=True).values()
        found = _describe_all(folder_uri, name, entries)
    return sorted(found, key=lambda item: item.uri)


def list_folder(uri: str) -> list[StoredObject]:
    """List the files directly in a folder, sorted by URI. A folder that is not there is empty."""
    if (folder := get_local_path(uri)) is not None:
        paths = folder.iterdir() if folder.is_dir() else ()
        found = describe_listed((_rebase(uri, folder, path), path) for path in paths)
    else:
        filesystem, name = _open_filesystem(uri)
        try:
            with _telling(uri):
                entries = filesystem.ls(name, detail=True)
        except FileNotFoundError:
            entries = []
        found = _describe_all(uri, name, entries)
    return sorted(found, key=lambda item: item.uri)


def glob_objects(pattern: str) -> list[StoredObject]:
    """List the files whose URI matches a pattern with `*`, `?`, `[...]` or `**`, sorted by URI."""
    if (local := get_local_path(pattern)) is not None:
        prefix = pattern[: len(pattern) - len(str(local))] if "://" in pattern else ""
        names = glob.glob(str(local), recursive=True)  # noqa: PTH207 (Path refuses absolute patterns)
        found = describe_listed((prefix + name, Path(name)) for name in names)
    else:
        filesystem, name = _open_filesystem(pattern)
        scheme = pattern.partition("://")[0]
        with _telling(pattern):
            entries = cast("dict[str, Any]", filesystem.glob(name, detail=True))
        found = [
            describe_remote(f"{scheme}://{path.lstrip('/')}", entry)
            for path, entry in entries.items()
            if entry["type"] == "file" and not path.endswith("/")
        ]
    return sorted(found, key=lambda item: item.uri)


def read_bytes(uri: str) -> bytes:
    """Read a whole file or object.

    Raises:
        FileNotFoundError: There is none; the message holds the URI.
    """
    try:
        if (path := get_local_path(uri)) is not None:
            return path.read_bytes()
        filesystem, name = _open_filesystem(uri)
        # s3fs asks for the size first if it may split the read, which is twice the requests for a small object.
        options = {"max_concurrency": 1} if _is_s3(filesystem) else {}
        with _telling(uri):
            return cast(bytes, filesystem.cat_file(name, **options))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"'{uri}' does not exist") from error


def open_stream(uri: str, offset: int = 0) -> ByteStream:
    """Open a file or object for one sequential read that starts at a byte offset.

    Raises:
        FileNotFoundError: There is none; the message holds the URI.
    """
    stream = _open(uri, block_size=READAHEAD_BYTES, cache_type="readahead")
    stream.seek(offset)
    return stream


def open_random(uri: str) -> ByteStream:
    """Open a file or object for reads here and there; each fetches what it asks for and no more.

    Raises:
        FileNotFoundError: There is none; the message holds the URI.
    """
    return _open(uri, cache_type="none")


def _open(uri: str, **options: Any) -> ByteStream:
    try:
        if (path := get_local_path(uri)) is not None:
            return path.open("rb", buffering=2**20)
        filesystem, name = _open_filesystem(uri)
        with _telling(uri):
            return _RemoteStream(uri, filesystem.open(name, "rb", **options))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"'{uri}' does not exist") from error


class _RemoteStream(io.RawIOBase):
    """A file of a store whose errors name it, as those of the other calls do."""

    def __init__(self, uri: str, file: Any) -> None:
        self._uri = uri
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        with _telling(self._uri):
            return cast(bytes, self._file.read(size))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return cast(int, self._file.seek(offset, whence))

    def tell(self) -> int:
        return cast(int, self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


def put_atomic(uri: str, payload: bytes) -> None:
    """Write a file or object: afterwards readers see all of it, before that nothing of it."""
    if (path := get_local_path(uri)) is None:
        filesystem, name = _open_filesystem(uri)
        with _telling(uri):
            filesystem.pipe_file(name, payload)
        return
    with _telling_space(path):
        put_file(path, payload)


def create_if_absent(uri: str, payload: bytes) -> bool:
    """Write a file or object unless there is one already, also when several writers try at once.

    Returns:
        True when it was written. False when there was one, whatever it holds: read it. It may be our own:
        when the reply to a write is lost, the repeated request finds what the first one wrote.
    """
    path = get_local_path(uri)
    if path is None:
        return _create_remote(uri, payload)
    with _telling_space(path):
        return create_file(path, payload)


def _create_remote(uri: str, payload: bytes) -> bool:
    filesystem, name = _open_filesystem(uri)
    for attempt in range(CREATE_ATTEMPTS):
        try:
            with _telling(uri):
                filesystem.pipe_file(name, payload, mode="create")
        except FileExistsError:
            return False
        except OSError:
            # S3 answers 409 while another conditional write is under way: whoever was first has won by then.
            if exists(uri):
                return False
            if attempt == CREATE_ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
        else:
            return True
    raise AssertionError("the last attempt returns or raises")


def is_folder(uri: str) -> bool:
    """Tell whether anything is below a URI; on a local disk an empty folder is one, too."""
    path = get_local_path(uri)
    return bool(list_objects(uri)) if path is None else path.is_dir()


def delete_folder(uri: str) -> None:
    """Delete all that is below a folder; on a local disk the folder, too, and files that were never finished."""
    if (path := get_local_path(uri)) is None:
        delete(item.uri for item in list_objects(uri))
    elif path.is_dir():
        shutil.rmtree(path)


def delete(uris: Iterable[str]) -> None:
    """Delete files or objects, in as few requests as the store allows. Those that are gone already are no error."""
    remote: dict[str, list[str]] = {}
    for uri in uris:
        if (path := get_local_path(uri)) is not None:
            path.unlink(missing_ok=True)
        else:
            remote.setdefault(uri.partition("://")[0], []).append(uri)
    for group in remote.values():
        filesystem, _ = _open_filesystem(group[0])
        names = [filesystem._strip_protocol(uri) for uri in group]
        with _telling(group[0]):
            if _is_s3(filesystem):
                _delete_in_bulk(filesystem, names)
            else:
                for name in names:
                    _delete_one(filesystem, name)


def _delete_in_bulk(filesystem: Any, names: list[str]) -> None:
    """Delete from S3, whose bulk request takes 1000 names of one bucket and does not mind missing ones."""
    by_bucket: dict[str, list[str]] = {}
    for name in names:
        by_bucket.setdefault(name.partition("/")[0], []).append(name)
    for bucket, group in by_bucket.items():
        for start in range(0, len(group), 1000):
            keys = [{"Key": name.partition("/")[2]} for name in group[start : start + 1000]]
            # bulk_delete of s3fs does not tell what could not be deleted.
            answer = filesystem.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if answer.get("Errors"):
                first = answer["Errors"][0]
                raise OSError(f"'s3://{bucket}/{first.get('Key')}' cannot be deleted: {first.get('Message')}")


def _delete_one(filesystem: Any, name: str) -> None:
    try:
        filesystem.rm_file(name)
    except FileNotFoundError:
        return


def _open_filesystem(uri: str) -> tuple[Any, str]:
    """Give the file system of a URI and the URI's name in it."""
    require_no_password(uri)
    options = S3_OPTIONS if uri.startswith(("s3://", "s3a://")) else {}
    filesystem, name = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
    return filesystem, cast(str, name)


@contextmanager
def _telling(uri: str) -> Iterator[None]:
    """Turn what a store's client raises into one kind of error that names the URI."""
    try:
        yield
    except Exception as error:  # every client has exceptions of its own, and not all of them are an OSError
        if is_bucket_missing(error):
            bucket = uri.partition("://")[2].partition("/")[0]
            raise BucketError(
                f"bucket '{bucket}' of '{uri}' does not exist; create it, or correct its name or the endpoint"
            ) from error
        if isinstance(error, FileNotFoundError | FileExistsError):
            raise
        raise StorageError(
            f"'{uri}' cannot be reached: {describe_failure(error)}; check network, endpoint and credentials"
        ) from error


@contextmanager
def _telling_space(path: Path) -> Iterator[None]:
    """Let the error of a full disk tell what is written and how much space there is."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        folder = next(parent for parent in path.absolute().parents if parent.is_dir())
        space = shutil.disk_usage(folder)
        raise StorageError(
            f"'{path}' cannot be written: {error.strerror}, {space.free} of {space.total} bytes of the disk are free; "
            "make space"
        ) from error


def _is_s3(filesystem: Any) -> bool:
    return hasattr(filesystem, "call_s3")


def _describe_all(folder_uri: str, folder_name: str, entries: Iterable[Mapping[str, Any]]) -> list[StoredObject]:
    """Describe the files among entries below a folder, under URIs that start as the folder's does."""
    root = folder_name.rstrip("/") + "/"
    found = []
    for entry in entries:
        name = str(entry["name"])
        # Some tools mark folders by empty objects that end in a slash.
        if entry["type"] == "file" and name.startswith(root) and not name.endswith("/"):
            found.append(describe_remote(join_uri(folder_uri, name[len(root) :]), entry))
    return found


def _rebase(folder_uri: str, folder: Path, path: Path) -> str:
    return join_uri(folder_uri, path.relative_to(folder).as_posix())
