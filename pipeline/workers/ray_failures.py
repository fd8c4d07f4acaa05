"""Failures of Ray in one line: what failed and why, without the stack traces of Python and C++."""

import logging
import re

from pipeline.errors import LabellingError
from pipeline.printable import escape_controls

logger = logging.getLogger(__name__)

MAX_LINES = 2
"""Lines of Ray's text to show: what failed, and why."""
MAX_LENGTH = 400
"""Maximum length of a description in characters."""
MAX_CAUSES = 10
"""Maximum depth of nested task errors."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TASK = re.compile(r",?\s*ray::\S.*$")
"""Ray's name of a task: `ray::read() (pid=123, ip=10.0.0.3, repr=...)`."""
_FRAME = re.compile(
    r"""\s                              # code, and Python's frames
    |Traceback\ |Stack\ |File\ "        # Python's, also of a crashed interpreter
    |@|PC:|\#\d+\s|0x[0-9a-fA-F]+       # frames of C++
    |\S+\(\+?(\w+\+)?0x                 # libray.so(+0x12ab) or libray.so(main+0x12)
    |\*\*\*|\[\d{4}-\d\d-\d\d           # signals, headings of stacks, lines of Ray's own log
    |Fatal\ Python|Extension\ modules|Current\ thread|Thread\ 0x
    |The\ above\ exception|During\ handling|Original\ exception
    |To\ change\ retry|Failed\ to\ apply\ UDF""",
    re.VERBOSE,
)
_HEADING = re.compile(r"(ray\.exceptions\.)?(RayTaskError\S*|UserCodeException): ?")
_ADVICE = re.compile(r" *(Some common causes include|To troubleshoot|Refer to https|Check python-core-worker).*$")
_NAMED = re.compile(r"[\w.]+(Error|Exception|Interrupt|Exit)\b")


def describe_ray_failure(error: BaseException) -> str:
    """One line for an error of Ray: its type and its cause. The whole error is logged at level debug.

    For a `LabellingError` raised by a task it is the message alone.
    """
    logger.debug("full error of a failure", exc_info=error)
    cause = _find_cause(error)
    if isinstance(cause, LabellingError):
        return escape_controls(str(cause))
    plain = _COLOUR.sub("", str(cause))
    lines = [line for line in map(_clean_line, plain.splitlines()) if line]
    name = type(cause).__name__
    text = "; ".join(lines[:MAX_LINES]) or "no message"
    described = text if name.startswith("RayTaskError") or _NAMED.match(text) else f"{name}: {text}"
    if place := _find_place(plain):
        described = f"{described} ({place})"
    return escape_controls(described if len(described) <= MAX_LENGTH else f"{described[: MAX_LENGTH - 3]}...")


def _find_cause(error: BaseException) -> BaseException:
    """Unwrap Ray's errors down to the innermost one with its own text."""
    for _ in range(MAX_CAUSES):
        # Ray Train keeps one error per worker, the others have one cause.
        failures = list((getattr(error, "worker_failures", None) or {}).values())
        cause = failures[0] if failures else getattr(error, "cause", None)
        if not isinstance(cause, BaseException) or type(cause).__name__ == "UserCodeException":
            break
        error = cause
    return error


def _clean_line(line: str) -> str:
    """Text of a line; empty for a line of a stack trace and for advice."""
    if _FRAME.match(line):
        return ""
    line = _TASK.sub("", _HEADING.sub("", line))
    if line.startswith("UDF failed to process"):
        return ""
    return _ADVICE.sub("", line).strip().rstrip(".")


def _find_place(text: str) -> str:
    """Process id and host that Ray lists below an actor's error; empty if there are none."""
    found = (re.search(rf"^\s+{name}: (\S+)$", text, re.MULTILINE) for name in ("pid", "ip"))
    return ", ".join(f"{name} {match[1]}" for name, match in zip(("pid", "ip"), found, strict=True) if match)
