"""The first look at tags before workers start."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TagsError
from pipeline.inputs.first_look import look_at_tags, suggest_separators
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.vocabulary import Vocabulary
from tests.factories import make_photo, make_tar

ANIMALS = Vocabulary(classes=("cat", "dog", "cow"))


def look(tmp_path: Path, values: list[Any], vocabulary: Vocabulary = ANIMALS, **options: Any) -> list[str]:
    allow = options.pop("allow_nothing_labelled", False)
    samples = {f"k{i}": {"jpg": b"i", "json": json.dumps({"tags": v}).encode()} for i, v in enumerate(values)}
    shards = list_shards([str(make_tar(tmp_path / "a.tar", samples))])
    return look_at_tags(shards, InputConfig(**options), vocabulary, allow_nothing_labelled=allow)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0, [1, 2]], {}, "each of the first 2 samples cannot be read.*--inputs.class-numbers"),
        ([{"cat": 0.5}], {}, "--inputs.min-score"),
        ([[1, 0, 0], [0, 1, 1]], {"class_numbers": "zero-based"}, "--inputs.multi-hot"),
    ],
)
def test_tags_that_no_sample_has_readable_are_refused(
    tmp_path: Path, values: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TagsError, match=message):
        look(tmp_path, values, **options)
    (warning,) = look(tmp_path, values, **options, allow_nothing_labelled=True)
    assert "a.tar" in warning


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["kat", "doog"], "'kat', 'doog'; the nearest names are 'cat', 'dog'"),
        (["cat|dog"], "--inputs.separators ',;|'"),
        (["cat dog"], "--inputs.separators ' '"),
        (["#cat #dog"], "--inputs.hashtags"),
        ([None, []], "no tags in the first 2 samples"),
        (["['cat']", None], "as Python prints it; write it as JSON); if tags are in another place"),
        (["7", "2.0"], "--inputs.class-numbers zero-based"),
    ],
)
def test_tags_that_no_class_matches_are_a_warning_with_advice(tmp_path: Path, values: list[Any], message: str) -> None:
    (warning,) = look(tmp_path, values)
    assert message in warning


@pytest.mark.parametrize("numbers", [[7], [-1, 3]])
def test_numbers_that_no_class_has_are_a_warning_with_the_numbers_of_the_classes(
    tmp_path: Path, numbers: list[int]
) -> None:
    (warning,) = look(tmp_path, numbers, class_numbers="zero-based")
    assert "the classes of the vocabulary have the numbers 0 to 2" in warning


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.0.jpg": b"i", "a.0.txt": b"cat", "a.1.jpg": b"i", "a.1.txt": b"cat"}, "--inputs.key last-dot"),
        ({"a.heic": b"i", "a.txt": b"cat"}, "no image among the members of this key: 'a.heic', 'a.txt'"),
        ({"a.jpg": b"i", "a.jpg.txt": b"cat"}, "no tags among the members of this key: 'a.jpg', 'a.jpg.txt'"),
        ({"a.jpg": b"i", "b.jpg": b"i", "a.txt": b"cat", "b.txt": b"cat"}, ""),
        ({"images/a.jpg": b"i", "images/b.jpg": b"i"}, "stand apart in the archive, sort its members by name"),
        ({"labels/a.txt": b"cat"}, "stand apart in the archive, sort its members by name"),
    ],
)
def test_archive_without_whole_samples_is_a_warning_that_names_the_first_members(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, payload in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(payload)
            archive.addfile(header, io.BytesIO(payload))
    warnings = look_at_tags(list_shards([str(tmp_path / "a.tar")]), InputConfig(), ANIMALS)
    assert len(warnings) == bool(message)
    assert message in "".join(warnings)


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "an HTML page; a login or error page"),
    ],
)
def test_images_that_are_all_pointers_or_pages_are_refused_and_some_are_not(
    tmp_path: Path, left: bytes, message: str
) -> None:
    def look_at(*images: bytes, allow: bool = False) -> list[str]:
        samples = {f"k{place}": {"jpg": image, "txt": b"cat"} for place, image in enumerate(images)}
        shards = list_shards([str(make_tar(tmp_path / "a.tar", samples))])
        return look_at_tags(shards, InputConfig(), ANIMALS, allow_nothing_labelled=allow)

    with pytest.raises(TagsError, match=f"the image of each of the first 2 samples is .*{message}"):
        look_at(left, left)
    (warning,) = look_at(left, allow=True)
    assert message in warning
    assert look_at(left, make_photo(1)) == []


@pytest.mark.parametrize("values", [["cat", 0], ["x", "y", "dog"], [["cat", "a,b"]]])
def test_one_known_tag_is_enough(tmp_path: Path, values: list[Any]) -> None:
    assert look(tmp_path, values) == []


def test_name_with_a_separator_is_a_warning_unless_the_tags_are_lists(tmp_path: Path) -> None:
    vocabulary = Vocabulary(classes=("tench, Tinca tinca", "cat"))
    (warning,) = look(tmp_path, ["cat"], vocabulary)
    assert "'tench, Tinca tinca'" in warning
    assert look(tmp_path, [["tench, Tinca tinca"]], vocabulary) == []
    assert look(tmp_path, ["cat"], vocabulary, separators="|") == []


def test_plain_unknown_tags_suggest_no_separators() -> None:
    assert suggest_separators(["tree", "sky"], ANIMALS) == ""
