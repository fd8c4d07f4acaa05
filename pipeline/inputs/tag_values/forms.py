"""Forms in which tags are written, as plain values: text, lists, class numbers, scores, records, vectors."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from models.documents import show_value
from pipeline.run.config import InputConfig

MAX_CLASS_DIGITS = 9
"""Maximum digits of a class number; a longer number names no class."""

NAME_KEYS = (
    *("name", "label", "tag", "category", "class", "class_name", "category_name", "label_name"),
    *("category_id", "class_id", "label_id"),
    *("names", "labels", "tags", "categories", "classes", "class_names", "category_names", "label_names"),
    *("category_ids", "class_ids", "label_ids"),
)
"""Keys of a record that hold the tag, in the order in which they are searched; case does not matter."""
SCORE_KEYS = (
    *("score", "confidence", "probability", "prob"),
    *("scores", "confidences", "probabilities", "probs"),
)
"""Keys of a record that hold its score."""

CLASS_NUMBERS_ADVICE = (
    "add --inputs.class-numbers zero-based or one-based if they are places in the vocabulary, or names:FILE for a file "
    "of their names"
)
MIN_SCORE_ADVICE = "add --inputs.min-score 0.5, or another number, to take the names of at least that score"
MULTI_HOT_ADVICE = (
    "add --inputs.multi-hot if each place stands for a class, and --inputs.class-numbers for the order of the classes"
)
VECTOR_ADVICE = "for vectors of zeros and ones add --inputs.multi-hot, too"
SCORES_ADVICE = (
    "add --inputs.multi-hot and --inputs.min-score if each place holds the score of a class, and "
    "--inputs.class-numbers for the order of the classes"
)

NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.0*)?")
"""A class number in text."""
DECIMAL = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,3})?")
"""A number in text."""
HASHTAG = re.compile(r"[#＃]([^\s#＃!-,./:-@\[-^`{-~、。，！？；：]+)")
"""A word after a number sign, up to a space or punctuation; emoji, `-` and `_` belong to words."""

MIN_VECTOR = 3
"""Shorter lists of zeros and ones are class numbers."""

Entry: TypeAlias = str | int
"""A tag, or the number of a class as written."""


def list_entries(value: Any, config: InputConfig) -> Iterator[Entry]:
    """List the tags and class numbers of a value; tags are not trimmed.

    Args:
        value: As JSON has it.
        config: How to read it.

    Raises:
        ValueError: The value has no meaning as tags, or needs an option; the message goes on from the name of a field.
    """
    if _is_missing(value):
        return
    if isinstance(value, str):
        yield from _list_text_entries(value, config)
    elif isinstance(value, Mapping):
        yield from _list_mapping_entries(value, config)
    elif isinstance(value, list):
        yield from _list_list_entries(value, config)
    else:
        yield _read_number(value)


def split_text(text: str, config: InputConfig) -> list[str]:
    """Split text into tags at the separators and line breaks, or find its hashtags.

    >>> split_text("cat, red dog;cow", InputConfig())
    ['cat', ' red dog', 'cow']
    >>> split_text("nice #dog!", InputConfig(hashtags=True))
    ['dog']
    """
    if config.hashtags:
        return HASHTAG.findall(text)
    return re.split(f"[{re.escape(config.separators)}\r\n]", text)


def _is_missing(value: Any) -> bool:
    """Whether a value is null; pandas writes the null of a column of numbers as NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _list_text_entries(text: str, config: InputConfig) -> Iterator[Entry]:
    stripped = text.strip()
    if (stripped[:1], stripped[-1:]) in (("[", "]"), ("{", "}")):
        try:
            # A list or mapping that a table without them keeps as text.
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            if re.match(r"""[\[{]\s*['"]""", stripped):
                kind = "a list" if stripped[0] == "[" else "a mapping"
                raise ValueError(f"holds {show_value(text)}, {kind} as Python prints it; write it as JSON") from error
        else:
            yield from list_entries(value, config)
            return
    pieces = split_text(text, config)
    if config.class_numbers is None:
        yield from pieces
        return
    words = [parse_class_number(piece) for piece in pieces if piece.strip()]
    numbers = [word if isinstance(word, int) else _parse_decimal(word) for word in words]
    yield from _list_list_entries(words if len(words) < 2 or None in numbers else numbers, config)


def parse_class_number(word: str) -> Entry:
    """Parse a class number of `.cls` members and other text; other words stay as they are.

    >>> parse_class_number(" 3.0"), parse_class_number("cat")
    (3, 'cat')
    """
    return int(word.strip().partition(".")[0]) if NUMBER.fullmatch(word.strip()) else word


def _parse_decimal(word: str) -> float | None:
    return float(word) if DECIMAL.fullmatch(word.strip()) else None


def _list_list_entries(entries: Sequence[Any], config: InputConfig) -> Iterator[Entry]:
    if config.multi_hot and entries and all(isinstance(entry, bool | int | float) for entry in entries):
        yield from _list_vector_entries(entries, config)
        return
    if entries and all(isinstance(entry, bool) for entry in entries):
        raise ValueError(f"holds {show_value(entries)}, a list of true and false; {MULTI_HOT_ADVICE}")
    if any(isinstance(entry, float) and not (entry.is_integer() or math.isnan(entry)) for entry in entries):
        raise ValueError(f"holds {show_value(entries)}, numbers that are not whole; {SCORES_ADVICE}")
    for entry in entries:
        if isinstance(entry, str):
            yield from HASHTAG.findall(entry) if config.hashtags and entry.lstrip()[:1] in ("#", "＃") else (entry,)
        elif isinstance(entry, Mapping):
            yield from _list_record_entries(entry, config)
        elif _is_missing(entry):
            raise ValueError("holds a list with a null; write text or numbers, or leave it out")
        elif isinstance(entry, list):
            raise ValueError(f"holds a list in a list, {show_value(entry)}; write one list")
        else:
            yield _read_number(entry)


def _read_number(value: Any) -> int:
    """Read a class number; pandas writes whole numbers with gaps as floats."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    kind = "true or false" if isinstance(value, bool) else type(value).__name__
    raise ValueError(f"holds {show_value(value)}, {kind}; need text, whole numbers, or a list of them")


def _list_vector_entries(vector: Sequence[Any], config: InputConfig) -> Iterator[Entry]:
    """List the classes of the places of a vector that are set, or have the least score."""
    numbers = _list_places(len(vector), config)
    is_score = config.min_score is not None and any(value not in (0, 1) for value in vector)
    for number, value in zip(numbers, vector, strict=True):
        if not (0 <= value <= 1 if is_score else value in (0, 1)):
            advice = "need only 0 and 1" if config.min_score is not None else MIN_SCORE_ADVICE
            raise ValueError(f"holds {show_value(value)} in a vector of --inputs.multi-hot; {advice}")
        if value >= (config.min_score or 0) if is_score else value == 1:
            yield number


def _list_places(length: int, config: InputConfig) -> Sequence[int]:
    """Class numbers of the places of a vector, ascending."""
    if config.class_names is None:
        return range(config.first_class_number, config.first_class_number + length)
    if length != len(config.class_names):
        raise ValueError(
            f"holds a vector of length {length}, need {len(config.class_names)}, the number of classes of "
            "--inputs.class-numbers"
        )
    return sorted(number for number, _ in config.class_names)


def _list_mapping_entries(mapping: Mapping[str, Any], config: InputConfig) -> Iterator[Entry]:
    """List the entries of a record, of columns of records, or of a mapping from names to scores."""
    name_key = _find_key(mapping, NAME_KEYS)
    if name_key is not None and _is_record(mapping, name_key):
        yield from _list_record_entries(mapping, config)
        return
    scores = {name: score for name, score in mapping.items() if not _is_missing(score)}
    if all(isinstance(score, bool) for score in scores.values()):
        yield from (name for name, is_true in scores.items() if is_true)
    elif all(isinstance(score, int | float) and not isinstance(score, bool) for score in scores.values()):
        yield from (name for name, score in scores.items() if _has_score(score, config))
    else:
        raise ValueError(
            f"holds {show_value(dict(mapping))}; need scores by name, or a record with one of the keys "
            f"{', '.join(NAME_KEYS[:5])}"
        )


def _is_record(mapping: Mapping[str, Any], name_key: str) -> bool:
    """Whether a mapping is a record with a name or class number, and not scores by name."""
    name = mapping[name_key]
    if isinstance(name, str | list):
        return True
    if isinstance(name, bool) or not isinstance(name, int | float) or name != int(name):
        return False
    others = [value for key, value in mapping.items() if key != name_key and not _is_missing(value)]
    are_scores = others and all(isinstance(value, int | float) and not isinstance(value, bool) for value in others)
    return not are_scores or _find_key(mapping, SCORE_KEYS) is not None


def _list_record_entries(record: Mapping[str, Any], config: InputConfig) -> Iterator[Entry]:
    """List the entries of a record, or of a mapping from the keys of records to lists of equal length."""
    name_key, score_key = _find_key(record, NAME_KEYS), _find_key(record, SCORE_KEYS)
    if name_key is None:
        raise ValueError(
            f"holds {show_value(dict(record))}, a record without name; need one of the keys {', '.join(NAME_KEYS[:5])}"
        )
    names = record[name_key]
    scores = None if score_key is None else record[score_key]
    if not isinstance(names, list):
        names, scores = [names], None if score_key is None else [scores]
    if scores is not None and not (isinstance(scores, list) and len(scores) == len(names)):
        raise ValueError(f"holds {len(names)} names and {show_value(scores)} as '{score_key}'; need a score per name")
    for place, name in enumerate(names):
        if isinstance(name, list | Mapping) or _is_missing(name):
            raise ValueError(f"holds {show_value(name)} as '{name_key}' of a record; need text or a whole number")
        if scores is None or _has_score(scores[place], config):
            yield name if isinstance(name, str) else _read_number(name)


def _find_key(mapping: Mapping[str, Any], wanted: Iterable[str]) -> str | None:
    """Find the first of the wanted keys that is there and not null."""
    by_name = {str(key).casefold(): key for key, value in mapping.items() if not _is_missing(value)}
    return next((by_name[name] for name in wanted if name in by_name), None)


def _has_score(score: Any, config: InputConfig) -> bool:
    if isinstance(score, bool) or not isinstance(score, int | float) or math.isnan(score):
        raise ValueError(f"holds {show_value(score)} as a score; need a number")
    if config.min_score is None:
        raise ValueError(f"holds names with scores; {MIN_SCORE_ADVICE}")
    return bool(score >= config.min_score)
