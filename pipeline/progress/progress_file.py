"""`OUT/progress.json`: how far a run is, every few seconds, for whoever watches. No decision depends on it."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import ConfigDict

from models.documents import DocumentError, check_fields, parse_json
from pipeline.driver.ledger import Progress
from pipeline.driver.silence import NOTICE_PERIOD_S, WaitNotices
from pipeline.errors import LabellingError
from pipeline.progress.pace import Pace
from pipeline.storage.reading import read_bytes
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic

PROGRESS_FILE = "progress.json"
PROGRESS_VERSION = 1
PERIOD_S = 5.0
END_WAIT_S = 1.0
"""Longest wait for the last write: a stopped job has two or three seconds, and the store may be what failed."""
MAX_WARNING_CHARACTERS = 1000


class RunState(StrEnum):
    """What an invocation does, as it says itself."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class ProgressRecord:
    """The content of progress.json."""

    # Later versions may have more fields.
    __pydantic_config__ = ConfigDict(extra="ignore", strict=True)

    version: int = PROGRESS_VERSION
    state: str
    command: str
    """label, remask or export."""
    started: str
    """Start of the invocation, ISO 8601 in UTC."""
    updated: str
    """Time of this record, likewise."""
    host: str
    pid: int
    num_shards: int = 0
    num_sealed: int = 0
    """Published or exported shards of the run, also those of earlier invocations."""
    num_failed: int = 0
    """Shards that this invocation gave up."""
    num_images: int = 0
    """Images of this invocation, rejected ones too."""
    num_rejected: int = 0
    rejected_by_reason: dict[str, int] = field(default_factory=dict)
    num_left_out: int = 0
    """Rows that an export leaves out, by its filters above all."""
    left_out_by_reason: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0
    num_bytes_done: int = 0
    images_per_s: float | None = None
    """Average since the start; None before the first image."""
    seconds_left: float | None = None
    last_warning: str | None = None

    def enter(self, progress: Progress, pace: Pace) -> "ProgressRecord":
        """The record of a later state of the same invocation."""
        counts = progress.counts
        filters = self.command == "export"
        reasons = dict(sorted(counts.rejected_by_reason.items()))
        return replace(
            self,
            num_shards=progress.num_shards,
            num_sealed=progress.num_sealed,
            num_failed=progress.num_failed,
            num_images=counts.num_read,
            num_rejected=0 if filters else counts.num_rejected,
            rejected_by_reason={} if filters else reasons,
            num_left_out=counts.num_rejected if filters else 0,
            left_out_by_reason=reasons if filters else {},
            num_bytes=progress.num_bytes,
            num_bytes_done=progress.num_bytes_done,
            images_per_s=_round(pace.images_per_s),
            seconds_left=_round(pace.seconds_left),
        )


def read_progress(out_uri: str) -> ProgressRecord | None:
    """Read the progress of a run; None if there is none, or one that cannot be understood.

    Raises:
        OSError: The store failed.
    """
    try:
        fields = parse_json(read_bytes(join_uri(out_uri, PROGRESS_FILE)))
        record: ProgressRecord = check_fields(ProgressRecord, fields)
        parse_time(record.updated), parse_time(record.started)
        RunState(record.state)
    except (FileNotFoundError, DocumentError, ValueError):
        return None
    return record


def format_time(unix_s: float) -> str:
    """Write a time as ISO 8601 in UTC.

    >>> format_time(1.5)
    '1970-01-01T00:00:01+00:00'
    """
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def parse_time(text: str) -> float:
    """Parse a time with its zone to Unix seconds.

    Raises:
        ValueError: It is no time, or has no zone.
    """
    time_of_text = datetime.fromisoformat(text)
    if time_of_text.tzinfo is None:
        raise ValueError(f"need a zone in '{text}'")
    return time_of_text.timestamp()


class ProgressFile:
    """Writes the progress of one invocation.

    A thread writes, so that a slow store does not hold the driver up. A failure is noted once a minute and ends
    nothing.
    """

    def __init__(
        self,
        out_uri: str,
        command: str,
        on_warning: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare to write to `out_uri`; nothing is written before the first state.

        Args:
            out_uri: Output folder of the run.
            command: Name of the command that drives the run.
            on_warning: Receives warnings of store failures.
            clock: Unix time in seconds.
        """
        self._uri = join_uri(out_uri, PROGRESS_FILE)
        self._notices = WaitNotices(on_warning)
        self._clock = clock
        self._pace = Pace()
        now = format_time(clock())
        self.record = ProgressRecord(
            state=RunState.RUNNING,
            command=command,
            started=now,
            updated=now,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        self._next_s = 0.0
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()
        self._error: Exception | None = None

    def enter(self, progress: Progress) -> None:
        """Enter a state of the run; write it if a write is due."""
        self._pace.enter(progress)
        self.record = self.record.enter(progress, self._pace)
        if self._clock() < self._next_s or (self._writer is not None and self._writer.is_alive()):
            return
        if self._writer is not None:
            error = self._error
            self._notices.note(None if error is None else f"progress.json cannot be written, the run goes on: {error}")
        self._next_s = self._clock() + (PERIOD_S if self._error is None else NOTICE_PERIOD_S)
        self._write()

    def warn(self, warning: str) -> None:
        """Record the last warning."""
        self.record = replace(self.record, last_warning=warning[:MAX_WARNING_CHARACTERS])

    def end(self, state: RunState) -> None:
        """Write how the invocation ended; wait only a moment for it. One that had nothing to do is not recorded."""
        if self._writer is None and state == RunState.DONE:
            return
        self.record = replace(self.record, state=state, seconds_left=None)
        self._write()
        self.wait(END_WAIT_S)

    def wait(self, timeout_s: float) -> None:
        """Wait for the write that is under way, if there is one, for some seconds at most."""
        if self._writer is not None:
            self._writer.join(timeout_s)

    def _write(self) -> None:
        record = replace(self.record, updated=format_time(self._clock()))
        payload = json.dumps(asdict(record), indent=2).encode()

        def write() -> None:
            # In order: an older state does not replace a newer one.
            with self._lock:
                try:
                    put_atomic(self._uri, payload)
                    self._error = None
                except (OSError, LabellingError) as error:
                    self._error = error

        self._writer = threading.Thread(target=write, name="progress", daemon=True)
        self._writer.start()


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
