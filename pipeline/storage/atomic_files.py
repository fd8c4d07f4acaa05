"""Files on a local disk that appear whole: written under a hidden name, synced, then renamed or linked."""

import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY_PREFIX = ".tmp-"
"""Names of files that are not finished; never listed."""


def put_file(path: Path, payload: bytes) -> None:
    """Write a file, in place of the one that may be there."""
    temporary = _write_temporary(path, payload)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def create_file(path: Path, payload: bytes) -> bool:
    """Write a file unless there is one; True when it was written. Of several writers at once one wins."""
    temporary = _write_temporary(path, payload)
    try:
        # A hard link is exclusive and shows the whole file at once; a rename would replace.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_folder(path.parent)
    return True


class AtomicFile:
    """A file to write to, under a hidden name until it is closed. One that is never closed is never seen."""

    def __init__(self, path: Path) -> None:
        """Open the file that will be at `path`."""
        self._path = path
        self._temporary, self._file = _open_temporary(path)

    @property
    def closed(self) -> bool:
        """Whether it is at its place."""
        return self._file.closed

    def write(self, payload: Any) -> int:
        """Write some bytes; give how many."""
        return self._file.write(payload)

    def tell(self) -> int:
        """Say how many bytes are written."""
        return self._file.tell()

    def flush(self) -> None:
        """Hand what is written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Put the file at its place."""
        if not self._file.closed:
            _finish_temporary(self._file)
            self._temporary.replace(self._path)
            _sync_folder(self._path.parent)


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
    """Make what was written last, and close the file."""
    with file:
        file.flush()
        # Temporary files are private; what is published has the rights that any new file would have.
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename or link in a folder last through a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
