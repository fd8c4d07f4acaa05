"""Text of others as text to show: keys, tags and names may hold characters that a terminal obeys."""

import logging


def escape_controls(text: str) -> str:
    r"""Replace every character that is not printable by its backslash escape: controls, newlines, bidi overrides.

    >>> escape_controls("Straße \x1b[2J\u202e\n")
    'Straße \\x1b[2J\\u202e\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


class EscapingFormatter(logging.Formatter):
    """Writes a log record in one line with every control character escaped; the lines of a traceback stay lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (its name in logging)
        """Write the record without its traceback."""
        return escape_controls(super().formatMessage(record))

    def formatException(self, ei: object) -> str:  # noqa: N802
        """Write a traceback, its lines escaped one by one."""
        return "\n".join(map(escape_controls, super().formatException(ei).split("\n")))  # type: ignore[arg-type]
