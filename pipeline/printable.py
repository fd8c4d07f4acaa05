"""Text of others as it may be shown: on a terminal, in a log, in a message."""


def escape_controls(text: str) -> str:
    """Replace every character that is not printable by its Python backslash escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
