"""Fakes at the edges: a store that fails on command, and a cluster in one process."""

import io
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import ChunkReport, Report, read_report
from pipeline.driver.cluster import WaveState
from pipeline.driver.steps import Steps
from pipeline.workers.attempts import AttemptCounter
from pipeline.workers.pulse import MemoryBoard, Reporting

REPORTING = Reporting(board=MemoryBoard(), store_outage_s=0.0)
"""Settings of workers that do not wait for a store in an outage."""


class CrashError(BaseException):
    """A crash of the process. It is not an `Exception`, so that no error handler catches it."""


class FaultyStore(MemoryFileSystem):
    """A memory store (`faulty://`) that fails on command.

    It calls `before_write` and `after_write` around each write, numbered from 0, and `before_read` before each lookup,
    listing, opening and read of a file.
    """

    protocol = "faulty"
    # Separate from `memory://`, which other tests use at the same time.
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    writes: ClassVar[list[str]] = []
    reads: ClassVar[list[tuple[int, int]]] = []
    """Offset and size of each read of an open file."""
    before_read: ClassVar[Callable[[str], None]] = staticmethod(lambda name: None)
    before_write: ClassVar[Callable[[int, str], None]] = staticmethod(lambda number, name: None)
    after_write: ClassVar[Callable[[int, str], None]] = staticmethod(lambda number, name: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("faulty://", "memory://", 1))

    @classmethod
    def reset(cls) -> None:
        """Delete all files, and clear the records and the failures."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.heal()

    @classmethod
    def heal(cls) -> None:
        """Remove the failures; number the writes from 0 again."""
        cls.writes = []
        cls.reads = []
        cls.before_read = staticmethod(lambda name: None)
        cls.before_write = staticmethod(lambda number, name: None)
        cls.after_write = staticmethod(lambda number, name: None)

    def info(self, path: str, **arguments: Any) -> dict[str, Any]:
        """Look up a file or folder."""
        type(self).before_read(path)
        return super().info(path, **arguments)

    def find(self, path: str, *positional: Any, **arguments: Any) -> Any:
        """List all files below a folder."""
        type(self).before_read(path)
        return super().find(path, *positional, **arguments)

    def ls(self, path: str, *positional: Any, **arguments: Any) -> Any:
        """List a folder."""
        type(self).before_read(path)
        return super().ls(path, *positional, **arguments)

    def cat_file(self, path: str, *positional: Any, **arguments: Any) -> bytes:
        """Read a whole file."""
        type(self).before_read(path)
        return super().cat_file(path, *positional, **arguments)

    def _open(self, path: str, mode: str = "rb", **arguments: Any) -> Any:
        opened = super()._open(path, mode, **arguments)
        return FaultyFile(opened, path) if mode == "rb" else opened

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **arguments: Any) -> None:
        """Write a whole file."""
        self._write(path, lambda: super(FaultyStore, self).pipe_file(path, value, mode=mode, **arguments))

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        self._write(path, lambda: super(FaultyStore, self)._rm(self._strip_protocol(path)))

    def _write(self, path: str, write: Callable[[], None]) -> None:
        cls = type(self)
        number = len(cls.writes)
        cls.writes.append(path)
        cls.before_write(number, path)
        write()
        cls.after_write(number, path)


class FaultyFile(io.RawIOBase):
    """An open file of the store that fails on command; its reads are recorded."""

    def __init__(self, file: Any, path: str) -> None:
        """Read from a file of the memory store."""
        self.file, self.path = file, path
        FaultyStore.before_read(path)

    def readable(self) -> bool:
        """True: the file is readable."""
        return True

    def seekable(self) -> bool:
        """True: the file is seekable."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes."""
        FaultyStore.before_read(self.path)
        start = self.file.tell()
        payload: bytes = self.file.read(size)
        FaultyStore.reads.append((start, len(payload)))
        return payload

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a position."""
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        """Return the position."""
        return int(self.file.tell())


fsspec.register_implementation("faulty", FaultyStore, clobber=True)


def fail_reads(part_of_name: str, error: BaseException, num_times: int) -> list[str]:
    """Make the first reads of matching names fail; return the list of failed names, which grows."""
    failed: list[str] = []

    def fail(name: str) -> None:
        if part_of_name in name and len(failed) < num_times:
            failed.append(name)
            raise error

    FaultyStore.before_read = staticmethod(fail)
    return failed


class SerialCluster:
    """Runs the steps of a run in this process, one after the other, in a fixed order."""

    max_wave_shards = 1_000

    def __init__(self) -> None:
        """Start without attempts."""
        self.attempts = AttemptCounter()
        self.labelled: list[str] = []

    def run_chunks(
        self, steps: Steps, work: Sequence[ShardWork], store_outage_s: float
    ) -> Generator[Report | None, None, None]:
        """Read, process and commit chunk by chunk."""
        process = steps.workers.start(REPORTING, self.attempts)
        for row in steps.plan_read(work, REPORTING, AttemptCounter()).read():
            report = read_report(process(row))
            if isinstance(report, ChunkReport):
                self.labelled.append(f"{report.chunk.shard_name}/{report.chunk.part.chunk_index}")
            yield report

    def look(self) -> WaveState:
        """Return no signs: there are no other processes."""
        return WaveState()

    def end_wave(self) -> None:
        """Do nothing: there are no other processes."""

    def submit(self, function: Callable[..., Any], **arguments: Any) -> "Future[Any]":
        """Call the function now."""
        future: Future[Any] = Future()
        future.set_result(function(**arguments, reporting=REPORTING))
        return future
