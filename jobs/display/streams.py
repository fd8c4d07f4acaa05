"""Standard output and standard error of a job: lines of JSON, or lines above a bar."""

import json
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LEVELS = {"warning: ": "warning", "error: ": "error"}


def format_now() -> str:
    """Write the local time with its zone, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


class LineStream:
    """A text stream that gives each whole line to a function, in place of writing it."""

    def __init__(self, stream: Any, write_line: Callable[[Any, str], None]) -> None:
        """Wrap a stream.

        Args:
            stream: Receives what the function writes.
            write_line: Called with the stream and a line without its end.
        """
        self.wrapped = stream
        self._write_line = write_line
        # Threads print text and line end in two calls.
        self._begun = threading.local()

    def write(self, text: str) -> int:
        """Write text; what follows its last line end waits for the next call."""
        # Not splitlines: only a newline ends a line of a log.
        *lines, self._begun.text = (getattr(self._begun, "text", "") + text).split("\n")
        for line in lines:
            self._write_line(self.wrapped, line)
        return len(text)

    def end_line(self) -> None:
        """Write a line that was begun."""
        if getattr(self._begun, "text", ""):
            self.write("\n")

    def __getattr__(self, name: str) -> Any:
        """All else is that of the stream."""
        return getattr(self.wrapped, name)


class JsonStream(LineStream):
    """A text stream whose lines become JSON objects."""

    def __init__(self, stream: Any) -> None:
        """Wrap a stream."""
        super().__init__(stream, _write_json)


def use_log_format(log_format: LogFormat) -> None:
    """Choose what the job's lines look like, for the rest of this process.

    With json, all that anything in this process prints becomes one JSON object a line.
    """
    if log_format == "text":
        return
    streams: list[Any] = [JsonStream(sys.stdout), JsonStream(sys.stderr)]
    sys.stdout, sys.stderr = streams


def writes_json() -> bool:
    """Tell whether this job writes JSON."""
    return isinstance(sys.stdout, JsonStream)


def write_event(event: str, message: str, fields: Mapping[str, Any]) -> None:
    """Write an event to standard output, as JSON if the job writes JSON, else its message with the time."""
    if isinstance(sys.stdout, JsonStream):
        _put(sys.stdout.wrapped, event, "info", message, fields)
    else:
        print(f"{format_now()} {message}", flush=True)


def describe_in_log(line: str) -> str:
    """Put the time before a line of a log; a terminal shows it as it is, and JSON has its own field."""
    return line if writes_json() or sys.stderr.isatty() else f"{format_now()} {line}"


def _write_json(stream: Any, line: str) -> None:
    if not line.strip():
        return
    start, level = next(((start, level) for start, level in LEVELS.items() if line.startswith(start)), ("", "info"))
    _put(stream, level if start else "line", level, line.removeprefix(start), {})


def _put(stream: Any, event: str, level: str, message: str, fields: Mapping[str, Any]) -> None:
    # ASCII: a terminal obeys some characters, and a reader of lines may end one at others.
    entry = {"time": format_now(), "level": level, "event": event, "message": message, **fields}
    stream.write(json.dumps(entry) + "\n")
    stream.flush()
