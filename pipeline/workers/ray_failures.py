"""Failures of Ray in our words: what failed and why, without the stacks of Ray's Python and C++."""

import logging
import re

from pipeline.errors import LabellingError
from pipeline.printable import escape_controls

logger = logging.getLogger(__name__)

MAX_LINES = 2
"""Lines of Ray's text that are shown: what failed, and why."""
MAX_LENGTH = 400
"""Characters of a description at the most."""
MAX_CAUSES = 10
"""Errors of tasks in errors of tasks that are looked through."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TASK = re.compile(r",?\s*ray::\S.*$")
"""A task by Ray's name: `ray::read() (pid=123, ip=10.0.0.3, repr=...)`."""
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


def describe_failure(error: BaseException) -> str:
    """Describe an error of Ray in one line: its type and its cause. The log has all of it at level debug.

    An error of ours that a task raised is its message alone.
    """
    logger.debug("all that is known of a failure", exc_info=error)
    cause = _find_cause(error)
    if isinstance(cause, LabellingError):
        return escape_controls(str(cause))
    plain = _COLOUR.sub("", str(cause))
    lines = [line for line in map(_clean, plain.splitlines()) if line]
    name = type(cause).__name__
    text = "; ".join(lines[:MAX_LINES]) or "no message"
    described = text if name.startswith("RayTaskError") or _NAMED.match(text) else f"{name}: {text}"
    if place := _find_place(plain):
        described = f"{described} ({place})"
    return escape_controls(described if len(described) <= MAX_LENGTH else f"{described[: MAX_LENGTH - 3]}...")


def _find_cause(error: BaseException) -> BaseException:
    """Follow the errors that Ray wraps around what a task raised, as far as they lead to one with words of its own."""
    for _ in range(MAX_CAUSES):
        # Ray Train lists what happened by worker, the others hold one cause.
        failures = list((getattr(error, "worker_failures", None) or {}).values())
        cause = failures[0] if failures else getattr(error, "cause", None)
        if not isinstance(cause, BaseException) or type(cause).__name__ == "UserCodeException":
            break
        error = cause
    return error


def _clean(line: str) -> str:
    """Give what a line says; empty for a line of a stack and for advice."""
    if _FRAME.match(line):
        return ""
    line = _TASK.sub("", _HEADING.sub("", line))
    if line.startswith("UDF failed to process"):
        return ""
    return _ADVICE.sub("", line).strip().rstrip(".")


def _find_place(text: str) -> str:
    """Name the process and the host that Ray lists below an error of an actor; empty if it lists none."""
    found = (re.search(rf"^\s+{name}: (\S+)$", text, re.MULTILINE) for name in ("pid", "ip"))
    return ", ".join(f"{name} {match[1]}" for name, match in zip(("pid", "ip"), found, strict=True) if match)
