"""Vocabulary files, and matching of tags."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import VocabularyError
from pipeline.run.vocabulary import Vocabulary, load_vocabulary, normalise_tag, parse_vocabulary

ANIMALS = {
    "classes": ["cat", "sheep"],
    "aliases": {"cat": ["Kitty", "cat"], "sheep": ["flock of sheep"]},
    "ignored_tags": ["Sunset"],
}


@given(st.data())
def test_match_case_spacing_and_order_do_not_matter(data: st.DataObject) -> None:
    vocabulary = parse_vocabulary(ANIMALS)
    tags = data.draw(st.permutations(["kitty", "flock of sheep", "sunset"]))
    space = data.draw(st.text(" _-", min_size=1, max_size=3))
    change = data.draw(st.sampled_from([str.upper, str.title, str.lower]))
    written = [space + change(tag).replace(" ", space) + space for tag in tags]
    assert vocabulary.match(written) == ((1, 2), ())


@given(st.text())
def test_normalise_tag_twice_is_once(tag: str) -> None:
    assert normalise_tag(normalise_tag(tag)) == normalise_tag(tag)


def test_match_unknown_tags_are_kept_as_written_once() -> None:
    vocabulary = parse_vocabulary(ANIMALS)
    assert vocabulary.match(["Sky", "cat", "Sky", "", "tree"], [1, 7]) == ((1, 2), ("Sky", "tree", "#7"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": []}, "at least one class"),
        ({"classes": ["cat", "sheep", "Cat"]}, "'cat' and 'Cat' are the same"),
        ({"classes": ["cat", 1, "sheep"]}, "need text"),
        ({"classes": ["cat", "sheep"] + [f"c{i}" for i in range(253)]}, "at most 254 classes, got 255"),
        ({"clases": []}, "did you mean 'classes'"),
        ({"aliases": {"sheeps": ["lamb"]}}, "did you mean 'sheep'"),
        ({"aliases": {"cat": ["Lamb"], "sheep": ["lamb"]}}, "'cat' and 'sheep' share the alias 'lamb'"),
        ({"aliases": {"cat": "kitty"}}, "need a list"),
        ({"ignored_tags": ["CAT"]}, "'CAT' is ignored and names class 'cat'"),
        ({"colours": {"cat": "#ff0000"}}, "sheep"),
        ({"colours": {"cat": "red", "sheep": "#00ff00"}}, "class 'cat'"),
    ],
)
def test_unusable_vocabulary_is_refused_with_the_reason(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(ANIMALS | change))
    with pytest.raises(VocabularyError, match=message) as caught:
        load_vocabulary(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["classes: [cat", "", "cat", "- 1", "\x00"])
def test_file_without_a_vocabulary_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vocabulary.yaml"
    path.write_text(text)
    with pytest.raises(VocabularyError):
        load_vocabulary(str(path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="does not exist"):
        load_vocabulary(str(tmp_path / "none.yaml"))


def test_yaml_and_description_give_the_same_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.yaml"
    path.write_text('classes: [cat, sheep]\naliases:\n  cat: [kitty]\ncolors: {cat: "#ff0001", sheep: "#00ff00"}\n')
    vocabulary = load_vocabulary(str(path))
    assert vocabulary.colours == ((255, 0, 1), (0, 255, 0))
    assert parse_vocabulary(vocabulary.describe()).describe() == vocabulary.describe()


def test_classes_without_aliases_match_themselves() -> None:
    assert Vocabulary(classes=("cat", "dog")).match(["DOG"]) == ((2,), ())


def test_emoji_that_json_writes_as_escapes_is_matched(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps({"classes": ["cat"], "aliases": {"cat": ["\N{CAT FACE}"]}}))
    assert load_vocabulary(str(path)).match(["\N{CAT FACE}"]) == ((1,), ())


@pytest.mark.parametrize(
    "text",
    ['{"classes": ["cat", "dog"], "classes": ["dog", "cat"]}', "classes: [cat]\naliases: {cat: [kitty], cat: [Katze]}"],
)
def test_repeated_key_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "vocabulary.yaml"
    path.write_text(text)
    with pytest.raises(VocabularyError, match='the key "c'):
        load_vocabulary(str(path))


@pytest.mark.parametrize(
    ("name", "payload", "message"),
    [
        ("v.json", b'{"classes": ["cat",]}', "not JSON"),
        ("v.json", b"\n", "it is empty; write"),
        ("v.json", '{"classes": ["cat"]}'.encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("v.json", b'{"classes": ["cat", "\\ud83d"]}', "half of a surrogate pair"),
        ("v.yaml", b"classes: [cat, __Background__]", "'__Background__' is not needed"),
        ("v.csv", b"cat\ndog\n", "it is a table"),
        ("v.txt", b"cat,dog\n", 'its only line is "cat,dog"; need one name a line'),
        ("v.txt", b"cat\tkitty\ndog\tpuppy\n", "contains a tab"),
        ("v.names", b"# classes\ncat\ndog\n", "begins with #"),
        ("v.json", b'{"cat": ["kitty"], "dog": []}', "need the key 'classes', got the keys 'cat', 'dog'"),
        ("v.json", b'{"categories": [{"id": 1, "name": "cat"}]}', "need the key 'classes', got the keys 'categories'"),
        ("v.json", b'{"classes": [{"name": "cat"}]}', "write the name alone"),
        ("v.yaml", b'aliases: {cat: ["\\udc31\\ud83d"]}', "half of a surrogate pair"),
    ],
)
def test_unusable_vocabulary_file_is_refused_by_its_kind(
    tmp_path: Path, name: str, payload: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(payload)
    with pytest.raises(VocabularyError, match=message):
        load_vocabulary(str(tmp_path / name))


@pytest.mark.parametrize(("name", "text"), [("v.json", '["cat", "red dog"]'), ("v.txt", "cat\nred dog\n")])
def test_list_of_classes_is_a_vocabulary(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert load_vocabulary(str(tmp_path / name)).classes == ("cat", "red dog")


def test_names_with_commas_are_a_class_a_line(tmp_path: Path) -> None:
    path = tmp_path / "synsets.txt"
    path.write_text("tench, Tinca tinca\ngoldfish, Carassius auratus\nC#\n")
    assert load_vocabulary(str(path)).classes == ("tench, Tinca tinca", "goldfish, Carassius auratus", "C#")


def test_emoji_that_yaml_writes_as_two_escapes_is_matched(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.yaml"
    path.write_text('classes: [cat, dog]\naliases:\n  cat: ["\\ud83d\\udc31"]\n')
    assert load_vocabulary(str(path)).match(["\N{CAT FACE}"]) == ((1,), ())


@pytest.mark.parametrize(
    ("alias", "tag"),
    [
        ("\N{HEAVY BLACK HEART}\ufe0f", "\N{HEAVY BLACK HEART}"),
        ("sheep", "\ufeffsheep"),
        ("sheep", "sheep\u200b"),
        ("sheep", "she\u00adep"),
        ("ne\u200cko", "neko"),
        ("\u845b", "\u845b\U000e0100"),
        ("caf\u00e9", "cafe\u200b\u0301"),
    ],
)
def test_invisible_characters_make_no_difference(alias: str, tag: str) -> None:
    vocabulary = Vocabulary(classes=("cat", "dog"), aliases=((alias,), ()))
    assert vocabulary.match([tag]) == ((1,), ())


def test_flags_that_differ_in_invisible_tags_are_two() -> None:
    england, scotland = (
        "\N{WAVING BLACK FLAG}" + "".join(chr(0xE0000 + ord(c)) for c in name) for name in ("en", "sc")
    )
    vocabulary = Vocabulary(classes=("England", "Scotland"), aliases=((england,), (scotland,)))
    assert vocabulary.match([scotland]) == ((2,), ())


def test_number_from_one_is_the_first_class() -> None:
    assert Vocabulary(classes=("cat", "dog")).match([], [1, 0, 3], first_number=1) == ((1,), ("#0", "#3"))
