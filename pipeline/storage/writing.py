"""Write files and objects atomically, create them unless they exist, delete them.

On a local disk a put is a hidden temporary file, synced and renamed; on an object store it is one request.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.errors import NO_SPACE, BucketError, StorageError
from pipeline.storage.atomic_files import AtomicFile, create_file, put_file
from pipeline.storage.filesystems import is_s3, open_filesystem
from pipeline.storage.listing import exists, list_objects
from pipeline.storage.store_errors import describe_missing_bucket, translate_errors, translate_local_errors
from pipeline.storage.uris import BUCKET_SCHEMES, get_local_path

CREATE_ATTEMPTS = 5
ONE_REQUEST_BYTES = 32 * 2**20
"""Largest streamed object that is sent from memory, in one request."""


def put_atomic(uri: str, payload: bytes) -> None:
    """Write or replace a file or object atomically: no reader sees a part of it."""
    if (path := get_local_path(uri)) is None:
        filesystem, name = open_filesystem(uri)
        with _explain_missing_bucket(uri):
            filesystem.pipe_file(name, payload)
        return
    with _explain_errors(path):
        put_file(path, payload)


@contextmanager
def open_atomic(uri: str) -> Iterator[BinaryIO]:
    """Open a file or object for sequential writes; it appears, whole, when the context ends without an error.

    On an object store the content waits in a temporary file of this machine.
    """
    path = get_local_path(uri)
    if path is None:
        with tempfile.NamedTemporaryFile(prefix="tagmask-") as spool:
            yield cast(BinaryIO, spool)
            spool.flush()
            _send(uri, spool.name)
        return
    with _explain_errors(path):
        file = AtomicFile(path)
    try:
        yield cast(BinaryIO, file)
    except BaseException:
        file.discard()
        raise
    with _explain_errors(path):
        file.close()


def _send(uri: str, local_name: str) -> None:
    local = Path(local_name)
    if local.stat().st_size <= ONE_REQUEST_BYTES:
        put_atomic(uri, local.read_bytes())
        return
    filesystem, name = open_filesystem(uri)
    with _explain_missing_bucket(uri):
        filesystem.put_file(local_name, name)


def create_if_absent(uri: str, payload: bytes) -> bool:
    """Write a file or object unless it exists. Of several concurrent writers one succeeds.

    Returns:
        True when it was written. False when it exists; its content is not checked. It may be our own: when the
        reply to a write is lost, the repeated request finds the object that the first one wrote.
    """
    path = get_local_path(uri)
    if path is None:
        return _create_remote(uri, payload)
    with _explain_errors(path):
        return create_file(path, payload)


def _create_remote(uri: str, payload: bytes) -> bool:
    filesystem, name = open_filesystem(uri)
    for attempt in range(CREATE_ATTEMPTS):
        try:
            with _explain_missing_bucket(uri):
                filesystem.pipe_file(name, payload, mode="create")
        except FileExistsError:
            return False
        except OSError:
            # S3 answers 409 while another conditional write is in progress; the first of the two has won by then.
            if exists(uri):
                return False
            if attempt == CREATE_ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
        else:
            return True
    raise AssertionError("the last attempt returns or raises")


def delete_folder(uri: str) -> None:
    """Delete all files below a folder; on a local disk also the folder itself and temporary files."""
    if (path := get_local_path(uri)) is None:
        delete(item.uri for item in list_objects(uri))
    elif path.is_dir():
        shutil.rmtree(path)


def delete(uris: Iterable[str]) -> None:
    """Delete files or objects, in as few requests as the store allows. Missing ones are ignored."""
    remote: dict[str, list[str]] = {}
    for uri in uris:
        if (path := get_local_path(uri)) is not None:
            path.unlink(missing_ok=True)
        else:
            remote.setdefault(uri.partition("://")[0], []).append(uri)
    for group in remote.values():
        filesystem, _ = open_filesystem(group[0])
        names = [filesystem._strip_protocol(uri) for uri in group]
        with translate_errors(group[0]):
            if is_s3(filesystem):
                _delete_in_bulk(filesystem, names)
            else:
                for name in names:
                    _delete_one(filesystem, name)


def _delete_in_bulk(filesystem: Any, names: list[str]) -> None:
    """Delete objects of S3 by its bulk request, which takes 1000 keys of one bucket and ignores missing ones."""
    by_bucket: dict[str, list[str]] = {}
    for name in names:
        by_bucket.setdefault(name.partition("/")[0], []).append(name)
    for bucket, group in by_bucket.items():
        for start in range(0, len(group), 1000):
            keys = [{"Key": name.partition("/")[2]} for name in group[start : start + 1000]]
            # bulk_delete of s3fs does not report the keys that could not be deleted.
            answer = filesystem.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if answer.get("Errors"):
                first = answer["Errors"][0]
                raise OSError(f"'s3://{bucket}/{first.get('Key')}' cannot be deleted: {first.get('Message')}")


def _delete_one(filesystem: Any, name: str) -> None:
    try:
        filesystem.rm_file(name)
    except FileNotFoundError:
        return


@contextmanager
def _explain_missing_bucket(uri: str) -> Iterator[None]:
    """Turn the errors of a write to a store into ours; a missing file can only be the bucket."""
    try:
        with translate_errors(uri):
            yield
    except FileNotFoundError as error:
        if uri.partition("://")[0] not in BUCKET_SCHEMES:
            raise
        raise BucketError(describe_missing_bucket(uri)) from error


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Turn an error that does not pass into one that contains the file, and for a full disk the free space."""
    try:
        with translate_local_errors(path, "written"):
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
