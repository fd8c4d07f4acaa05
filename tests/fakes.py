"""Fakes at the edges: storage that fails on command, and an cluster without a cluster."""

import io
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import ChunkReport, Report, read_report
from pipeline.driver.cluster import WaveSigns
from pipeline.driver.steps import Steps
from pipeline.workers.attempts import AttemptCounter
from pipeline.workers.pulse import MemoryBoard, Reporting

REPORTING = Reporting(board=MemoryBoard(), store_outage_s=0.0)
"""Nobody waits for a store that is away."""


class CrashError(BaseException):
    """The process is gone. No handler of errors may hold it up, so it is no `Exception`."""


class FaultyStore(MemoryFileSystem):
    """A memory store (`faulty://`) that fails on command.

    It calls `before_write` and `after_write` around every write, numbered from 0, and `before_read` before it looks
    anything up, lists a folder, opens a file or reads from one.
    """

    protocol = "faulty"
    # Apart from `memory://`, which other tests use at the same time.
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    writes: ClassVar[list[str]] = []
    reads: ClassVar[list[tuple[int, int]]] = []
    """Place and size of each read of an open file."""
    before_read: ClassVar[Callable[[str], None]] = staticmethod(lambda name: None)
    before_write: ClassVar[Callable[[int, str], None]] = staticmethod(lambda number, name: None)
    after_write: ClassVar[Callable[[int, str], None]] = staticmethod(lambda number, name: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("faulty://", "memory://", 1))

    @classmethod
    def reset(cls) -> None:
        """Forget what is stored, what was written and what should fail."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.heal()

    @classmethod
    def heal(cls) -> None:
        """Let everything pass from now on; number the writes from 0 again."""
        cls.writes = []
        cls.reads = []
        cls.before_read = staticmethod(lambda name: None)
        cls.before_write = staticmethod(lambda number, name: None)
        cls.after_write = staticmethod(lambda number, name: None)

    def info(self, path: str, **arguments: Any) -> dict[str, Any]:
        """Look a file or folder up."""
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
        """Read a file whole."""
        type(self).before_read(path)
        return super().cat_file(path, *positional, **arguments)

    def _open(self, path: str, mode: str = "rb", **arguments: Any) -> Any:
        opened = super()._open(path, mode, **arguments)
        return FaultyFile(opened, path) if mode == "rb" else opened

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **arguments: Any) -> None:
        """Write a file whole."""
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
    """An open file of the store that fails on command; its reads are noted."""

    def __init__(self, file: Any, path: str) -> None:
        """Read from a file of the memory store."""
        self.file, self.path = file, path
        FaultyStore.before_read(path)

    def readable(self) -> bool:
        """Answer that it can be read."""
        return True

    def seekable(self) -> bool:
        """Answer that it can be read here and there."""
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
    """Let the store fail so many times before it reads what has a name; return the list of the failures."""
    failed: list[str] = []

    def fail(name: str) -> None:
        if part_of_name in name and len(failed) < num_times:
            failed.append(name)
            raise error

    FaultyStore.before_read = staticmethod(fail)
    return failed


class SerialCluster:
    """Runs the steps of a run in this process, in a fixed order, nothing at the same time."""

    max_wave_shards = 1_000

    def __init__(self) -> None:
        """Start with no chunk begun."""
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

    def look(self) -> WaveSigns:
        """See nothing: what is done is done in this process."""
        return WaveSigns()

    def end_wave(self) -> None:
        """End nothing: nothing goes on by itself."""

    def submit(self, function: Callable[..., Any], **arguments: Any) -> "Future[Any]":
        """Call the function now."""
        future: Future[Any] = Future()
        future.set_result(function(**arguments, reporting=REPORTING))
        return future
