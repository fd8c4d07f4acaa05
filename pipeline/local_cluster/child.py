"""A child process as its driver sees it: start, connection, end."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import ChunkReport, Report
from pipeline.local_cluster.messages import Setup

EXIT_TIMEOUT_S = 10.0
"""Maximum seconds until a killed process is gone."""
LAST_LINES = 3
"""Lines of its log that the message about a dead process shows."""
OUR_FOLDER = str(Path(__file__).parents[2])
"""Folder of the project's packages."""
PROGRAM = "import sys; sys.path[:] = {path!r}; from pipeline.local_cluster.worker import serve; serve({fd})"


class Child:
    """A child process. It gets one shard at a time."""

    def __init__(self, setup: Setup) -> None:
        """Start the process: a program of its own, because a fork would copy locks of the driver's threads."""
        ours, theirs = socket.socketpair()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (`end` closes it)
        program = PROGRAM.format(path=list_import_path(), fd=theirs.fileno())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                # Ctrl-C reaches the driver alone, which stops in order; and the group dies as a whole.
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.connection: Connection = Connection(ours.detach())
        self.is_ready = False
        self.work: ShardWork | None = None
        """The shard that it has."""
        self.open_attempts: set[str] = set()
        """Chunks and reads that it has begun and not finished."""
        self.send(setup)

    def send(self, message: Any) -> None:
        """Send a message. That the process is dead shows when it is heard."""
        try:
            self.connection.send(message)
        except OSError:
            return

    def note(self, report: Report) -> None:
        """Take a committed chunk off the work, which another process may have to go on with."""
        if self.work is not None and isinstance(report, ChunkReport):
            parts = tuple(sorted({*self.work.committed, report.chunk.part}))
            self.work = replace(self.work, committed=parts)

    def end(self) -> str:
        """Kill the process and its own children; return how it ended, for messages."""
        with suppress(ProcessLookupError):
            # No other process group can have this number before the process is waited for.
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait(EXIT_TIMEOUT_S)
        self.connection.close()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        self._log.close()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"process {self._process.pid} ended with {how}; {'; '.join(lines[-LAST_LINES:]) or 'it logged nothing'}"


def list_import_path() -> list[str]:
    """Where a child process finds packages: ours are those of the driver.

    Without the current folder, in which a user may have packages of the same names; the driver may have ours from
    there, or by a hook of an editable installation.
    """
    path = [entry for entry in sys.path if entry]
    return path if OUR_FOLDER in path else [OUR_FOLDER, *path]
