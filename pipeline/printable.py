"""Foreign text made safe to print: keys, tags and names may contain terminal escapes."""

import logging
from typing import Any


def escape_controls(text: str) -> str:
    r"""Replace each unprintable character by its backslash escape: controls, newlines, bidirectional overrides.

    >>> escape_controls("Straße \x1b[2J\u202e\n")
    'Straße \\x1b[2J\\u202e\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def show_in_page(value: Any) -> Any:
    """Escape the control characters in a field of a page, for `jinja2.Environment(finalize=)`; keep markup."""
    return escape_controls(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


class EscapingFormatter(logging.Formatter):
    """A log formatter that escapes control characters: one line per record, plus the lines of its traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (its name in logging)
        """Format a record without its traceback, in one line."""
        return escape_controls(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        """Format a traceback; escape each of its lines."""
        return "\n".join(map(escape_controls, super().formatException(ei).split("\n")))  # type: ignore[arg-type]
