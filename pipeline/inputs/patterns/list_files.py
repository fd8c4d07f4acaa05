"""List files: text files with one pattern of shards a line, given as `@FILE`."""

import codecs
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import ShardError
from pipeline.inputs.patterns.file_kinds import HEAD_BYTES, IN_PLACE_OF_TEXT, FileKind, recognise_kind
from pipeline.storage.listing import find_object, list_folder
from pipeline.storage.reading import read_bytes, read_head
from pipeline.storage.uris import get_local_path, identify_place, normalise_uri, require_no_password

MARK = "@"
"""First character of a pattern that is the name of a list file."""
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # The mark of UTF-32 begins with the mark of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LINE_END = re.compile(r"\r\n|\n|\r")
"""End of a line. `str.splitlines` also splits at characters that names may contain."""
PLAIN_KINDS = frozenset({FileKind.TEXT, FileKind.TABLE, FileKind.EMPTY})
"""Kinds of files that may be lists: a brace pattern contains commas."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """One pattern of shards, and the line of the list that contains it."""

    text: str
    origin: str = ""
    """List and line, for messages; empty if the pattern was given directly."""

    def explain(self, error: Exception) -> str:
        """Message of an error, with the origin of the pattern."""
        return f"{self.origin}: {error}" if self.origin else str(error)


def read_patterns(patterns: Sequence[str]) -> Iterator[Pattern]:
    """Replace each list file by its lines. Empty lines and lines whose first visible character is `#` are comments.

    Raises:
        ShardError: A list does not exist, is a folder or no text, contains no pattern, or names another list.
    """
    for pattern in patterns:
        if pattern.startswith(MARK):
            yield from _read_list(normalise_uri(pattern.removeprefix(MARK)))
        else:
            yield Pattern(text=pattern)


def _read_list(uri: str) -> Iterator[Pattern]:
    uri = os.path.expanduser(uri) if get_local_path(uri) else uri  # noqa: PTH111 (no shell expands '@~')
    is_empty = True
    for number, line in enumerate(LINE_END.split(_decode(uri, _read(uri))), start=1):
        # Lists that were joined have marks in the middle.
        text = line.strip().removeprefix("\ufeff").strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith(MARK):
            require_no_password(text.removeprefix(MARK))
            if identify_place(text.removeprefix(MARK)) == identify_place(uri):
                raise ShardError(f"line {number} of list '{uri}' names the list itself; delete the line")
            raise ShardError(
                f"line {number} of list '{uri}' names another list, '{text}', which is not supported; "
                f"give each list by itself, as in --shards {MARK}{uri} {text}"
            )
        is_empty = False
        yield Pattern(text=text, origin=f"line {number} of list '{uri}'")
    if is_empty:
        raise ShardError(f"list '{uri}' names no shard: it is empty or all comments; write one pattern a line")


def _read(uri: str) -> bytes:
    """Read a list whose first bytes are those of a text.

    Raises:
        ShardError: The list is a folder, does not exist or is no text.
    """
    if not uri:
        raise ShardError(f"'{MARK}' alone names no list; write the name of a text file after it")
    if find_object(uri) is None:
        path = get_local_path(uri)
        if list_folder(uri) if path is None else path.is_dir():
            raise ShardError(
                f"'{MARK}{uri}' is no list: a folder follows '{MARK}'; leave out the '{MARK}' to read its shards"
            )
        raise ShardError(f"list of shards '{uri}' does not exist; check the path")
    head = read_head(uri, HEAD_BYTES)
    kind = recognise_kind(head)
    if kind in (FileKind.TAR, FileKind.PARQUET):
        raise ShardError(f"'{MARK}{uri}' is no list: the file is {kind}; leave out the '{MARK}' to read it as a shard")
    if kind not in PLAIN_KINDS and not _looks_encoded(head):
        advice = kind.advice if kind in IN_PLACE_OF_TEXT else "write one path or URI of a shard a line"
        raise ShardError(f"list '{uri}' is {kind}, not a text; {advice}")
    return read_bytes(uri)


def _looks_encoded(head: bytes) -> bool:
    """Check for text in another encoding than UTF-8, which has a message of its own."""
    return head.startswith(tuple(BYTE_ORDER_MARKS)) or recognise_kind(head) == FileKind.UNKNOWN


def _decode(uri: str, content: bytes) -> str:
    """Decode a list: UTF-8, or what its byte order mark says.

    Raises:
        ShardError: It is in another encoding.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        if encoding in ("utf-8", "utf-8-sig"):
            guess = "UTF-16 without a byte order mark" if b"\0" in content else "Latin-1 or Windows-1252"
            raise ShardError(
                f"list '{uri}' is not UTF-8 but probably {guess}: byte 0x{content[error.start]:02x} at offset "
                f"{error.start}, in line {line}; save it as UTF-8"
            ) from error
        raise ShardError(
            f"list '{uri}' has the byte order mark of {encoding.upper()} but is not {encoding.upper()}: "
            f"{error.reason} at offset {error.start}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ShardError(
            f"list '{uri}' contains a zero byte at offset {content.index(0)}, so it is probably UTF-16 without a byte "
            "order mark, or no text; save it as UTF-8"
        )
    return text
