"""Atomic files on a local disk: written under a hidden name, synced, then renamed or linked."""

import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY_PREFIX = ".tmp-"
"""Prefix of unfinished files, which are never listed."""


def put_file(path: Path, payload: bytes) -> None:
    """Write or replace a file."""
    temporary = _write_temporary(path, payload)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def create_file(path: Path, payload: bytes) -> bool:
    """Write a file unless it exists; True if it was written. Of several concurrent writers one succeeds."""
    temporary = _write_temporary(path, payload)
    try:
        # A hard link is atomic and fails if the name exists; a rename would replace the file.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_folder(path.parent)
    return True


class AtomicFile:
    """A writable file with a hidden name until it is closed. If it is never closed, it never appears."""

    def __init__(self, path: Path) -> None:
        """Open a hidden file that moves to `path` on close."""
        self._path = path
        self._temporary, self._file = _open_temporary(path)

    @property
    def closed(self) -> bool:
        """Whether the file has its final name."""
        return self._file.closed

    def write(self, payload: Any) -> int:
        """Write bytes; return their number."""
        return self._file.write(payload)

    def tell(self) -> int:
        """Number of bytes written."""
        return self._file.tell()

    def flush(self) -> None:
        """Pass the written bytes to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Sync the file and move it to its final name."""
        if not self._file.closed:
            _finish_temporary(self._file)
            self._temporary.replace(self._path)
            _sync_folder(self._path.parent)

    def discard(self) -> None:
        """Close the file and delete it; it never appears."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _write_temporary(path: Path, payload: bytes) -> Path:
    """Write and sync a hidden file beside `path`."""
    temporary, file = _open_temporary(path)
    try:
        file.write(payload)
        _finish_temporary(file)
    except OSError:
        file.close()
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    return Path(name), os.fdopen(handle, "wb")


def _finish_temporary(file: BinaryIO) -> None:
    """Sync and close the file."""
    with file:
        file.flush()
        # Temporary files are private; a published file has the permissions of any new file.
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename or link in it survives a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
