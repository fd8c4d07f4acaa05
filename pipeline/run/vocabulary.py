"""Tags to classes: vocabulary files, and matching of tags."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from models.documents import DocumentError, decode_text, parse_json_or_yaml, show_value
from pipeline.errors import VocabularyError
from pipeline.storage.reading import read_bytes

MAX_CLASSES = 254
"""Masks are uint8; 0 is background and 255 is ignored."""

MAX_FILE_BYTES = 16 * 2**20

BACKGROUND = "background"
"""Normalised name of what no class may be called."""
TEXT_SUFFIXES = ("txt", "names")
"""Files with a class a line."""
NOT_IN_LINES = frozenset(',;:|\t{}[]"#')
"""Characters of files that are JSON, YAML or a table."""
TABLE_SUFFIXES = ("csv", "tsv", "xlsx", "xls", "parquet")

FILE_KEYS = ("classes", "aliases", "colours", "colors", "ignored_tags")
EXAMPLE = '{"classes": ["cat", "dog"], "aliases": {"cat": ["kitty"]}}'

INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]"
)
"""Characters that no reader sees, among Unicode's default ignorable ones: zero-width spaces and joiners, soft hyphens,
variation selectors such as that of many emoji. The tags of flags are not among them."""


class MatchedTags(NamedTuple):
    """Classes and unknown tags of a sample."""

    class_ids: tuple[int, ...]
    """Ids of the named classes, from 1, ascending, unique."""
    unknown: tuple[str, ...]
    """Tags that are neither known nor ignored, as written, unique, in order."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Classes in the model's order, and the tags that name them."""

    classes: tuple[str, ...]
    """Names of the classes; the first has id 1."""
    aliases: tuple[tuple[str, ...], ...] = ()
    """Additional tags of each class, in the order of the classes; empty: none. A class name always names its class."""
    ignored_tags: tuple[str, ...] = ()
    """Tags that are not reported as unknown."""
    colours: tuple[tuple[int, int, int], ...] | None = None
    """RGB of each class in masks, 0 to 255; None: the palette of PASCAL VOC."""

    def __post_init__(self) -> None:
        _check_classes(self.classes)
        if self.aliases and len(self.aliases) != len(self.classes):
            raise VocabularyError(f"need aliases for each of {len(self.classes)} classes, got {len(self.aliases)}")
        if self.colours is not None and len(self.colours) != len(self.classes):
            raise VocabularyError(
                f"need one colour for each of {len(self.classes)} classes, got {len(self.colours)}; "
                "give all classes a colour, or none"
            )
        taken = self._ids_by_tag
        for tag in self.ignored_tags:
            if normalise_tag(tag) in taken:
                owner = self.classes[taken[normalise_tag(tag)] - 1]
                raise VocabularyError(f"tag {tag!r} is ignored and names class {owner!r}; remove one of the two")

    @cached_property
    def _ids_by_tag(self) -> dict[str, int]:
        """Id of the class that each normalised tag names."""
        aliases = self.aliases or ((),) * len(self.classes)
        ids: dict[str, int] = {}
        for class_id, (name, names) in enumerate(zip(self.classes, aliases, strict=True), start=1):
            for alias in (name, *names):
                normalised = normalise_tag(alias)
                if not normalised:
                    raise VocabularyError(f"class {name!r} has the empty alias {alias!r}; remove it")
                if ids.setdefault(normalised, class_id) != class_id:
                    other = self.classes[ids[normalised] - 1]
                    raise VocabularyError(f"classes {other!r} and {name!r} share the alias {alias!r}; keep it in one")
        return ids

    @cached_property
    def _ignored(self) -> frozenset[str]:
        return frozenset(normalise_tag(tag) for tag in self.ignored_tags)

    def match(self, tags: Sequence[str], class_numbers: Sequence[int] = (), *, first_number: int = 0) -> MatchedTags:
        """Find the classes that tags name.

        Args:
            tags: As written; compared after `normalise_tag`.
            class_numbers: Places of classes; one out of range is unknown, as `#7`.
            first_number: Number of the first class.
        """
        class_ids: set[int] = set()
        unknown: dict[str, None] = {}
        for tag in tags:
            normalised = normalise_tag(tag)
            if normalised in self._ids_by_tag:
                class_ids.add(self._ids_by_tag[normalised])
            elif normalised and normalised not in self._ignored:
                unknown[tag] = None
        for number in class_numbers:
            if 0 <= number - first_number < len(self.classes):
                class_ids.add(number - first_number + 1)
            else:
                unknown[f"#{number}"] = None
        return MatchedTags(tuple(sorted(class_ids)), tuple(unknown))

    def describe(self) -> dict[str, Any]:
        """Convert the vocabulary to plain values for JSON, in the format of `parse_vocabulary`.

        Aliases are normalised and sorted: equivalent files have equal descriptions.
        """
        aliases: dict[str, list[str]] = {name: [] for name in self.classes}
        for tag, class_id in sorted(self._ids_by_tag.items()):
            aliases[self.classes[class_id - 1]].append(tag)
        fields: dict[str, Any] = {
            "classes": list(self.classes),
            "aliases": aliases,
            "ignored_tags": sorted(self._ignored),
        }
        if self.colours is not None:
            fields["colours"] = {
                name: f"#{bytes(colour).hex()}" for name, colour in zip(self.classes, self.colours, strict=True)
            }
        return fields


def normalise_tag(tag: str) -> str:
    """Normalise case, spaces and Unicode form of a tag for comparison; remove invisible characters.

    >>> normalise_tag("  Flock_of--SHEEP ")
    'flock of sheep'
    >>> normalise_tag("Straße") == normalise_tag("STRASSE")
    True
    """
    if not tag.isascii():
        tag = INVISIBLE.sub("", tag)
    # Case folding can undo the normal form, and the normal form can introduce new capitals: "ΐ", "㎒".
    folded = unicodedata.normalize("NFKC", tag).casefold()
    folded = unicodedata.normalize("NFKC", folded).casefold()
    return re.sub(r"[\s_\-‐‑‒–—]+", " ", unicodedata.normalize("NFKC", folded)).strip()


def load_vocabulary(uri: str) -> Vocabulary:
    """Read a vocabulary file: YAML or JSON, or text with a class a line.

    Raises:
        VocabularyError: It is missing or unusable; the message contains the file.
    """
    try:
        fields = _parse_file(read_bytes(uri), uri)
    except FileNotFoundError as error:
        raise VocabularyError(f"vocabulary '{uri}' does not exist; check the path") from error
    except DocumentError as error:
        raise VocabularyError(f"vocabulary '{uri}' cannot be read: {error}") from error
    try:
        vocabulary = parse_vocabulary({"classes": fields} if isinstance(fields, list) else fields)
        for name in vocabulary.classes:
            if normalise_tag(name) == BACKGROUND:
                raise VocabularyError(f"class {name!r} is not needed, as 0 is background in masks already; remove it")
    except VocabularyError as error:
        raise VocabularyError(f"vocabulary '{uri}': {error}") from error
    return vocabulary


def _parse_file(payload: bytes, uri: str) -> Any:
    """Parse a file by its suffix.

    Raises:
        DocumentError: It is a table, or its text is neither JSON nor YAML nor a class a line.
    """
    if not payload.strip():
        raise DocumentError(f"it is empty; write {EXAMPLE}")
    suffix = uri.rpartition(".")[2].lower()
    if suffix in TABLE_SUFFIXES:
        raise DocumentError(
            'it is a table; write its names as JSON, {"classes": ["cat", "dog"]}, or one a line into a .txt file'
        )
    if suffix not in TEXT_SUFFIXES:
        return parse_json_or_yaml(payload, uri, max_bytes=MAX_FILE_BYTES)
    lines = [line.strip() for line in decode_text(payload, MAX_FILE_BYTES).splitlines()]
    lines = [line for line in lines if line]
    if not any(set(line) & NOT_IN_LINES for line in lines):
        return lines
    _require_lines_of_names(lines)
    fields = parse_json_or_yaml(payload, uri, max_bytes=MAX_FILE_BYTES)
    # To YAML, lines without signs of its own are one text.
    return lines if isinstance(fields, str) else fields


def _require_lines_of_names(lines: Sequence[str]) -> None:
    """Check that lines are no table and no comments.

    Raises:
        DocumentError: They are; the message contains the line.
    """
    if lines[0].startswith(("{", "[")):
        return
    for line in lines:
        if line.startswith("#"):
            raise DocumentError(f"the line {show_value(line)} begins with #; a class a line has no comments, remove it")
        if "\t" in line:
            raise DocumentError(
                f"the line {show_value(line)} contains a tab; need one name a line, and aliases as JSON"
            )
    if len(lines) == 1 and set(lines[0]) & set(",;|"):
        raise DocumentError(f"its only line is {show_value(lines[0])}; need one name a line")


def parse_vocabulary(fields: Any) -> Vocabulary:
    """Build a vocabulary from the plain values of its file.

    Raises:
        VocabularyError: A key is unknown or a value is wrong.
    """
    if not isinstance(fields, Mapping):
        raise VocabularyError(
            f"need a mapping with the key 'classes', got {show_value(fields)}; "
            'write {"classes": ["cat", "dog"]}, or a class a line in a .txt file'
        )
    if "classes" not in fields and not difflib.get_close_matches("classes", map(str, fields), n=1, cutoff=0.7):
        found = ", ".join(repr(name) for name in list(fields)[:5]) or "none"
        raise VocabularyError(f"need the key 'classes', got the keys {found}; write {EXAMPLE}")
    _check_known(fields, FILE_KEYS, "key")
    classes = _parse_names(fields.get("classes"), "classes")
    _check_classes(classes)
    return Vocabulary(
        classes=classes,
        aliases=_parse_aliases(fields.get("aliases"), classes),
        ignored_tags=_parse_names(fields.get("ignored_tags"), "ignored_tags"),
        colours=_parse_colours(fields, classes),
    )


def _check_classes(classes: Sequence[str]) -> None:
    if not classes:
        raise VocabularyError("need at least one class, got none; list them under 'classes'")
    if len(classes) > MAX_CLASSES:
        raise VocabularyError(f"need at most {MAX_CLASSES} classes, got {len(classes)}; split the vocabulary")
    first: dict[str, str] = {}
    for name in classes:
        normalised = normalise_tag(name)
        if not normalised:
            raise VocabularyError(f"need classes with names, got {name!r}; name or remove it")
        if normalised in first:
            raise VocabularyError(f"classes {first[normalised]!r} and {name!r} are the same; remove one")
        first[normalised] = name


def _check_known(names: Iterable[Any], known: Sequence[str], kind: str) -> None:
    """Raise for an unknown name; suggest the nearest known one."""
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]!r}" if nearest else f"use one of {', '.join(known[:10])}"
            raise VocabularyError(f"unknown {kind} {name!r}; {hint}")


def _parse_names(names: Any, key: str) -> tuple[str, ...]:
    if names is None:
        return ()
    if not isinstance(names, list):
        raise VocabularyError(
            f"need a list under {key!r}, got {show_value(names)}; write one name a line, each after '- '"
        )
    for name in names:
        # YAML parses no, on and 12 as other types than text; their original spelling is lost.
        if not isinstance(name, str):
            advice = "write the name alone" if isinstance(name, list | Mapping) else "put it into quotes"
            raise VocabularyError(f"need text under {key!r}, got {show_value(name)}; {advice}")
    return tuple(names)


def _parse_aliases(aliases: Any, classes: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    if aliases is None:
        return ()
    if not isinstance(aliases, Mapping):
        raise VocabularyError(f"need a list of tags per class under 'aliases', got {show_value(aliases)}")
    _check_known(aliases, classes, "class under 'aliases':")
    return tuple(_parse_names(aliases.get(name), f"aliases: {name}") for name in classes)


def _parse_colours(fields: Mapping[str, Any], classes: tuple[str, ...]) -> tuple[tuple[int, int, int], ...] | None:
    if "colours" in fields and "colors" in fields:
        raise VocabularyError("need one of the keys 'colours' and 'colors', got both; remove one")
    colours = fields.get("colours", fields.get("colors"))
    if colours is None:
        return None
    if not isinstance(colours, Mapping):
        raise VocabularyError(f"need a colour per class under 'colours', got {show_value(colours)}")
    _check_known(colours, classes, "class under 'colours':")
    missing = [name for name in classes if name not in colours]
    if missing:
        raise VocabularyError(f"classes {missing[:5]} have no colour; give all classes a colour, or none")
    return tuple(_parse_colour(name, colours[name]) for name in classes)


def _parse_colour(name: str, colour: Any) -> tuple[int, int, int]:
    if not isinstance(colour, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        raise VocabularyError(
            f'need a colour such as "#ff8800", in quotes, for class {name!r}, got {show_value(colour)}'
        )
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue
