"""Files that name class numbers: lists, mappings, COCO's categories, or text with a name a line."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.documents import DocumentError, parse_json_or_yaml, show_value
from pipeline.errors import VocabularyError
from pipeline.run.config import NAMES, NAMES_PREFIX, InputConfig
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.reading import read_bytes

MAX_NAMES = 100_000
"""Maximum number of names: all are part of the run's configuration."""
MAX_NUMBER = 10**9
MAX_FILE_BYTES = 256 * 2**20
"""Maximum size of a file: COCO's annotations stand in the same file as its categories."""
DOCUMENT_SUFFIXES = (".json", ".yaml", ".yml")
HOLDERS = ("categories", "names", "classes", "thing_classes", "stuff_classes", "id2label")
"""Keys under which files of COCO, YOLO, Detectron and Hugging Face keep their names."""


def settle_inputs(config: InputConfig, vocabulary: Vocabulary) -> InputConfig:
    """Read the file of `names:FILE` into the configuration, so that workers need no file.

    Places of vectors are named by the vocabulary unless a file names them.

    Raises:
        VocabularyError: The file is missing or unusable; the message contains the file.
    """
    if config.class_numbers is not None and config.class_numbers.startswith(NAMES_PREFIX):
        uri = config.class_numbers.removeprefix(NAMES_PREFIX)
        return replace(config, class_numbers=NAMES, class_names=load_class_names(uri))
    if config.multi_hot and config.class_names is None:
        return replace(config, class_names=tuple(enumerate(vocabulary.classes, config.first_class_number)))
    return config


def load_class_names(uri: str) -> tuple[tuple[int, str], ...]:
    """Read class numbers and their names, ascending; numbers may have gaps.

    Raises:
        VocabularyError: The file is missing or unusable; the message contains the file.
    """
    try:
        payload = read_bytes(uri)
        names = _parse_names(payload, uri)
    except FileNotFoundError as error:
        raise VocabularyError(f"file of class names '{uri}' does not exist; check --inputs.class-numbers") from error
    except (DocumentError, VocabularyError) as error:
        raise VocabularyError(f"file of class names '{uri}': {error}") from error
    if not names:
        raise VocabularyError(f"file of class names '{uri}' has no names; list them, the name of number 0 first")
    if len(names) > MAX_NAMES:
        raise VocabularyError(f"file of class names '{uri}' has {len(names)} names, limit {MAX_NAMES}")
    return tuple(sorted(names.items()))


def _parse_names(payload: bytes, uri: str) -> dict[int, str]:
    name = uri.lower()
    starts_like_json = payload.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    if name.endswith(DOCUMENT_SUFFIXES) or starts_like_json:
        return _read_names(parse_json_or_yaml(payload, uri, max_bytes=MAX_FILE_BYTES))
    if len(payload) > MAX_FILE_BYTES:
        raise DocumentError(f"it has {len(payload)} bytes, need at most {MAX_FILE_BYTES}")
    try:
        lines = payload.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if "" in (stripped := [line.strip() for line in lines]):
        raise VocabularyError(f"line {stripped.index('') + 1} is empty; need a name a line, as the line is the number")
    return dict(enumerate(stripped))


def _read_names(fields: Any) -> dict[int, str]:
    """Read the names of a document: a list, a mapping, records with id and name, or one of these under a usual key."""
    if isinstance(fields, list):
        if fields and all(isinstance(item, Mapping) for item in fields):
            return _read_records(fields)
        return {number: _require_name(number, name) for number, name in enumerate(fields)}
    if not isinstance(fields, Mapping):
        raise VocabularyError(f"need a list of names or a mapping from numbers to names, got {show_value(fields)}")
    holder = next((key for key in HOLDERS if isinstance(fields.get(key), list | Mapping)), None)
    if holder is not None:
        return _read_names(fields[holder])
    names: dict[int, str] = {}
    # label2id of Hugging Face maps the other way round.
    is_reversed = bool(fields) and all(isinstance(value, int) for value in fields.values())
    for key, value in fields.items():
        number, name = (value, key) if is_reversed else (key, value)
        _add_name(names, number, name)
    return names


def _read_records(records: list[Mapping[str, Any]]) -> dict[int, str]:
    names: dict[int, str] = {}
    for record in records:
        if "id" not in record or "name" not in record:
            raise VocabularyError(f"need records with id and name, got {show_value(dict(record))}")
        _add_name(names, record["id"], record["name"])
    return names


def _add_name(names: dict[int, str], number: Any, name: Any) -> None:
    text = str(number).strip()
    if isinstance(number, bool) or not (text.isascii() and text.isdecimal() and int(text) <= MAX_NUMBER):
        raise VocabularyError(f"need whole numbers from 0 for names, got {show_value(number)} for {show_value(name)}")
    if int(text) in names:
        raise VocabularyError(f"number {int(text)} has two names, {names[int(text)]!r} and {name!r}; keep one of them")
    names[int(text)] = _require_name(number, name)


def _require_name(number: Any, name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise VocabularyError(f"number {number} has the name {show_value(name)}; need text, in quotes if it is YAML")
    return name.strip()
