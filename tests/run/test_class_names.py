"""Files that name class numbers."""

from pathlib import Path

import pytest

from pipeline.errors import VocabularyError
from pipeline.run.class_names import load_class_names, settle_inputs
from pipeline.run.config import InputConfig
from pipeline.run.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.json", '["a", "b"]', ((0, "a"), (1, "b"))),
        ("a.json", '{"17": "b", "3": "a"}', ((3, "a"), (17, "b"))),
        ("a.json", '{"annotations": [], "categories": [{"id": 90, "name": "a"}]}', ((90, "a"),)),
        ("a.json", '{"a": 1, "b": 0}', ((0, "b"), (1, "a"))),
        ("a.yaml", "nc: 2\nnames:\n  0: a\n  1: b\n", ((0, "a"), (1, "b"))),
        ("a.txt", "a\nb, c\n\n", ((0, "a"), (1, "b, c"))),
    ],
)
def test_names_of_every_usual_file_become_part_of_the_configuration(
    tmp_path: Path, name: str, text: str, names: tuple[tuple[int, str], ...]
) -> None:
    (tmp_path / name).write_text(text)
    config = settle_inputs(InputConfig(class_numbers=f"names:{tmp_path / name}"), Vocabulary(classes=("a",)))
    assert (config.class_numbers, config.class_names) == ("names", names)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"0": "a", "00": "b"}', "two names"),
        ("a.json", "[]", "no names"),
        ("a.txt", "a\n\nb\n", "line 2 is empty"),
        ("a.yaml", "- a\n- no\n", "in quotes"),
        ("a.json", "3", "need a list"),
        ("a.json", "[", "not JSON"),
    ],
)
def test_unusable_file_of_names_is_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(VocabularyError, match=message):
        load_class_names(str(tmp_path / name))


def test_places_of_vectors_are_those_of_the_vocabulary_without_a_file() -> None:
    config = settle_inputs(InputConfig(class_numbers="one-based", multi_hot=True), Vocabulary(classes=("a", "b")))
    assert config.class_names == ((1, "a"), (2, "b"))
