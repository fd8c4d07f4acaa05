"""One meaning of each value: the same in the JSON of a tar, in cells of Parquet, and as a plain value."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ColumnError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.sample_tags import SampleTags, read_tag_value
from pipeline.inputs.shards import list_shards
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk
from tests.factories import make_tar

ZERO: dict[str, Any] = {"class_numbers": "zero-based"}
NAMES: dict[str, Any] = {"class_numbers": "names", "class_names": ((1, "person"), (17, "cat"), (90, "toothbrush"))}
TEXTS = pa.list_(pa.string())
RECORDS = pa.list_(pa.struct([("name", pa.string()), ("score", pa.float64())]))
COLUMNS = pa.struct([("labels", TEXTS), ("scores", pa.list_(pa.float64()))])

READABLE: list[tuple[Any, pa.DataType | None, dict[str, Any], tuple[str, ...], tuple[int, ...]]] = [
    (None, pa.string(), {}, (), ()),
    (None, pa.int64(), ZERO, (), ()),
    ([], TEXTS, {}, (), ()),
    ("", pa.string(), {}, (), ()),
    ("cat, red dog;cow\npig", pa.string(), {}, ("cat", "red dog", "cow", "pig"), ()),
    ("cat|red, dog", pa.string(), {"separators": "|"}, ("cat", "red, dog"), ()),
    ("cat，dog、cow", pa.string(), {"separators": "，、"}, ("cat", "dog", "cow"), ()),
    ("nice #dog! #red_cat#cow", pa.string(), {"hashtags": True}, ("dog", "red_cat", "cow"), ()),
    (["tench, Tinca tinca", " ", "a;b"], TEXTS, {}, ("tench, Tinca tinca", "a;b"), ()),
    ('["cat", "red, dog"]', pa.string(), {}, ("cat", "red, dog"), ()),
    ("3", pa.string(), {}, ("3",), ()),
    ("3", pa.string(), ZERO, (), (3,)),
    ("3; 1.0,\n0", pa.string(), ZERO, (), (3, 1, 0)),
    ("cat, 3", pa.string(), ZERO, ("cat",), (3,)),
    ("17", pa.string(), NAMES, ("cat",), ()),
    ("0, 1, 1", pa.string(), NAMES | {"multi_hot": True}, ("cat", "toothbrush"), ()),
    ("0.1, 0.9, 0.5", pa.string(), NAMES | {"multi_hot": True, "min_score": 0.5}, ("cat", "toothbrush"), ()),
    ('{"cat": 0.9, "dog": 0.2}', pa.string(), {"min_score": 0.5}, ("cat",), ()),
    (["#cat#red_dog", "cow #1"], TEXTS, {"hashtags": True}, ("cat", "red_dog", "cow #1"), ()),
    (["3", "cat"], TEXTS, ZERO, ("3", "cat"), ()),
    (3, pa.int64(), ZERO, (), (3,)),
    (3.0, pa.float64(), ZERO, (), (3,)),
    ([3, 7], pa.large_list(pa.int32()), ZERO, (), (3, 7)),
    ([3.0, 7.0], pa.list_(pa.float64(), 2), ZERO, (), (3, 7)),
    (["cat", 3], None, ZERO, ("cat",), (3,)),
    ([0, 1], pa.list_(pa.int64()), ZERO, (), (0, 1)),
    (17, pa.int64(), NAMES, ("cat",), ()),
    ([90, 2], pa.list_(pa.int64()), NAMES, ("toothbrush", "#2"), ()),
    ([0, 1, 1], pa.list_(pa.int64()), NAMES | {"multi_hot": True}, ("cat", "toothbrush"), ()),
    ([True, False, False], pa.list_(pa.bool_()), NAMES | {"multi_hot": True}, ("person",), ()),
    ([0.1, 0.9, 0.5], pa.list_(pa.float64()), NAMES | {"multi_hot": True, "min_score": 0.5}, ("cat", "toothbrush"), ()),
    ({"cat": 0.9, "dog": 0.2}, pa.map_(pa.string(), pa.float64()), {"min_score": 0.5}, ("cat",), ()),
    (
        {"cat": 0.9, "dog": None},
        pa.struct([("cat", pa.float64()), ("dog", pa.float64())]),
        {"min_score": 0.0},
        ("cat",),
        (),
    ),
    ({"cat": True, "dog": False}, pa.map_(pa.string(), pa.bool_()), {}, ("cat",), ()),
    ([{"name": "cat", "score": 0.9}, {"name": "a, b", "score": 0.1}], RECORDS, {"min_score": 0.5}, ("cat",), ()),
    ([{"Label": "cat"}, {"Label": "dog"}], pa.list_(pa.struct([("Label", pa.string())])), {}, ("cat", "dog"), ()),
    ({"label": 17, "source": "a"}, pa.struct([("label", pa.int64()), ("source", pa.string())]), NAMES, ("cat",), ()),
    ({"labels": ["cat", "dog"], "scores": [0.9, 0.1]}, COLUMNS, {"min_score": 0.5}, ("cat",), ()),
    ({"category": [17, 1]}, pa.struct([("category", pa.list_(pa.int64()))]), NAMES, ("cat", "person"), ()),
]
REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (3, {}, "--inputs.class-numbers zero-based"),
    ([0, 2], {}, "--inputs.class-numbers"),
    (True, ZERO, "true or false"),
    (0.5, ZERO, "need text, whole numbers"),
    ([True, False], ZERO, "--inputs.multi-hot"),
    ([1, 0], NAMES | {"multi_hot": True}, "vector of length 2, need 3"),
    ([0.5, 0, 1], NAMES | {"multi_hot": True}, "--inputs.min-score"),
    ([2, 0, 1], NAMES | {"multi_hot": True}, "--inputs.min-score"),
    ({"cat": 0.9}, {}, "--inputs.min-score"),
    ([{"name": "cat", "score": 0.9}], {}, "--inputs.min-score"),
    ({"name": ["cat", "dog"], "score": [0.9]}, {"min_score": 0.5}, "need a score per name"),
    ([{"bbox": [1, 2]}], {}, "without name"),
    ({"cat": "yes"}, {}, "need scores by name"),
    ([["cat"], ["dog"]], {}, "list in a list"),
    (["cat", None], {}, "null"),
    ("['cat', 'dog']", {}, "as Python prints it"),
    ("{'cat': 0.9}", {}, "a mapping as Python prints it"),
    ([0, 1, 0], {}, "for vectors of zeros and ones add --inputs.multi-hot"),
    ([0.1, 0.9], {}, "--inputs.multi-hot and --inputs.min-score"),
    ("0.1, 0.9", ZERO, "--inputs.multi-hot and --inputs.min-score"),
    ("1, 0", NAMES | {"multi_hot": True}, "vector of length 2, need 3"),
]


def read_tar(path: Path, value: Any, config: InputConfig) -> SampleTags:
    make_tar(path, {"a": {"jpg": b"i", "json": json.dumps({"meta": {"tags": value}}).encode()}})
    return read_first(path, config)


def read_first(path: Path, config: InputConfig) -> SampleTags:
    first = next(iter(read_chunks(list_shards([str(path)])[0], config)))
    assert isinstance(first, Chunk)
    (sample,) = first.samples
    return SampleTags(sample.tags, sample.class_numbers, sample.tags_error)


@pytest.mark.parametrize(("value", "kind", "options", "tags", "numbers"), READABLE)
def test_value_means_the_same_in_json_and_in_a_cell(
    tmp_path: Path, value: Any, kind: Any, options: dict[str, Any], tags: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    config = InputConfig(**options, tags_field="meta.tags")
    assert read_tag_value("here", value, config) == SampleTags(tags, numbers)
    assert read_tar(tmp_path / "a.tar", value, config) == SampleTags(tags, numbers)
    if kind is not None:
        cells = [list(value.items())] if pa.types.is_map(kind) else [value]
        table = pa.table({"image": [b"i"], "meta.tags": pa.array(cells, kind)})
        pq.write_table(table, tmp_path / "a.parquet")
        assert read_first(tmp_path / "a.parquet", config) == SampleTags(tags, numbers)


@pytest.mark.parametrize(("value", "options", "message"), REFUSED)
def test_value_without_a_certain_meaning_is_refused_with_what_would_help(
    tmp_path: Path, value: Any, options: dict[str, Any], message: str
) -> None:
    config = InputConfig(**options, tags_field="meta.tags")
    found = read_tar(tmp_path / "a.tar", value, config)
    assert (found.tags, found.class_numbers) == ((), ())
    assert found.error.startswith("'a.json': field 'meta.tags' holds")
    assert message in found.error


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (pa.int64(), "--inputs.class-numbers"),
        (pa.float32(), "--inputs.class-numbers"),
        (pa.list_(pa.int64()), "--inputs.multi-hot"),
        (pa.list_(pa.bool_()), "--inputs.multi-hot"),
        (pa.map_(pa.string(), pa.float32()), "--inputs.min-score"),
        (pa.struct([("cat", pa.float32())]), "--inputs.min-score"),
        (RECORDS, "--inputs.min-score"),
        (pa.bool_(), "need text"),
        (pa.list_(pa.list_(pa.string())), "need text"),
        (pa.binary(), "need text"),
        (pa.timestamp("s"), "need text"),
        (pa.list_(pa.struct([("x", pa.int64())])), "need text"),
    ],
)
def test_column_that_needs_an_option_is_refused_before_any_row(tmp_path: Path, kind: Any, message: str) -> None:
    pq.write_table(pa.table({"image": [b"i"], "tags": pa.nulls(1, kind)}), tmp_path / "a.parquet")
    with pytest.raises(ColumnError, match=message):
        read_first(tmp_path / "a.parquet", InputConfig())


def test_field_of_a_column_of_records_is_refused_with_the_column_that_is_read(tmp_path: Path) -> None:
    table = pa.table({"image": [b"i"], "objects": [{"category": ["cat"], "id": [3]}]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ColumnError, match="give --inputs.tags-field objects"):
        read_first(tmp_path / "a.parquet", InputConfig(tags_field="objects.category"))
    assert read_first(tmp_path / "a.parquet", InputConfig(tags_field="objects")).tags == ("cat",)


LABEL = {"names": ["dog", "cat", "person"], "_type": "ClassLabel"}
OLD_LABEL = {"num_classes": 3, "names": ["dog", "cat", "person"], "names_file": None, "id": None, "_type": "ClassLabel"}


@pytest.mark.parametrize(
    ("feature", "values", "tags"),
    [
        (LABEL, [1, None, -1], [("cat",), (), ()]),
        (OLD_LABEL, [0], [("dog",)]),
        ({"feature": LABEL, "_type": "List"}, [[2, 1], []], [("person", "cat"), ()]),
        ({"feature": OLD_LABEL, "length": -1, "id": None, "_type": "Sequence"}, [[2]], [("person",)]),
        ([LABEL], [[0]], [("dog",)]),
        ({"feature": {"id": {"dtype": "int64", "_type": "Value"}, "category": LABEL}, "_type": "Sequence"},
         [{"id": [7, 8], "category": [0, 1]}], [("dog", "cat")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, ZERO])
def test_classes_of_hugging_face_are_named_by_the_footer(
    tmp_path: Path, feature: Any, values: list[Any], tags: list[tuple[str, ...]], options: dict[str, Any]
) -> None:
    described = {"info": {"features": {"image": {"_type": "Image"}, "labels": feature}}}
    table = pa.table({"image": [b"i"] * len(values), "labels": values})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(described)}), tmp_path / "a.parquet")
    named: dict[str, Any] = {} if isinstance(values[0], int | list) else {"tags_field": "labels"}
    first = next(iter(read_chunks(list_shards([str(tmp_path / "a.parquet")])[0], InputConfig(**options, **named))))
    assert isinstance(first, Chunk)
    assert [(sample.tags, sample.class_numbers, sample.tags_error) for sample in first.samples] == [
        (names, (), "") for names in tags
    ]


def test_class_number_beyond_the_names_of_the_footer_is_bad_tags() -> None:
    found = read_tag_value("column 'label'", 3, InputConfig(), ("dog", "cat", "person"))
    assert found.error == "column 'label' holds class number 3, the file's metadata name 3 classes from 0"


@pytest.mark.parametrize(
    ("payload", "tags", "numbers", "error"),
    [
        (b"2\n", (), (2,), ""),
        (b"2.0", (), (2,), ""),
        (b"-1", (), (-1,), ""),
        (b"0 2", (), (0, 2), ""),
        (b"[0, 2]", (), (0, 2), ""),
        (b"red dog", ("red dog",), (), ""),
        (b"cat,3", ("cat",), (3,), ""),
        (b"red dog, 3.0", ("red dog",), (3,), ""),
        (b"\x02" + b"\0" * 7, (), (), "binary"),
    ],
)
def test_class_member_holds_numbers_in_any_usual_spelling(
    tmp_path: Path, payload: bytes, tags: tuple[str, ...], numbers: tuple[int, ...], error: str
) -> None:
    make_tar(tmp_path / "a.tar", {"a": {"jpg": b"i", "cls": payload}})
    found = read_first(tmp_path / "a.tar", InputConfig(class_numbers="zero-based"))
    assert (found.tags, found.class_numbers) == (tags, numbers)
    assert error in found.error
    assert bool(error) == bool(found.error)


def test_class_member_of_one_number_is_no_vector(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"a": {"jpg": b"i", "cls": b"17\n"}, "b": {"jpg": b"i", "cls": b"0 1 1"}})
    first = next(iter(read_chunks(list_shards([str(tmp_path / "a.tar")])[0], InputConfig(**NAMES, multi_hot=True))))
    assert isinstance(first, Chunk)
    assert [sample.tags for sample in first.samples] == [("cat",), ("cat", "toothbrush")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_numbers": "two"}, "must be zero-based, one-based or names:FILE"),
        ({"class_numbers": "names:"}, "names no file"),
        ({"class_numbers": "names"}, "names no file"),
        ({"multi_hot": True}, "needs the order of the classes"),
        ({"min_score": float("nan")}, "finite min_score"),
        ({"separators": "|x"}, "no letters or digits"),
    ],
)
def test_options_of_tags_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputConfig(**options)


def test_field_that_stands_twice_is_ambiguous(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", {"a": {"jpg": b"i", "json": b'{"tags": ["cat"], "tags": ["dog"]}'}})
    assert "ambiguous" in read_first(tmp_path / "a.tar", InputConfig()).error
