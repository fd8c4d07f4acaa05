"""Filters over rows: one by one and by table alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import VocabularyError
from pipeline.published.filters import RowFilter, SettledFilter
from pipeline.published.rows import MaskRow
from pipeline.published.run import open_published
from pipeline.published.splits import Splits, parse_splits
from pipeline.run.records import PART_SCHEMA, InputShard, Reason, Status
from tests.factories import make_labelled_row, make_run

SCHEMA = pa.schema([PART_SCHEMA.field(name) for name in ("key", "status", "reason", "class_ids", "quality")])
QUALITIES = st.sampled_from([0.0, 0.3, 0.7, 0.9, 1.0])
ROWS = st.fixed_dictionaries(
    {
        "key": st.sampled_from(["a", "b", "c"]),
        "status": st.sampled_from([str(status) for status in Status]),
        "reason": st.sampled_from([None, str(Reason.NO_IMAGE), str(Reason.UNDECODABLE)]),
        "class_ids": st.none() | st.lists(st.integers(1, 3), unique=True),
        "quality": st.none() | QUALITIES,
    }
)
CONDITIONS = st.builds(
    RowFilter,
    min_quality=st.none() | st.sampled_from([0.0, 0.3]),
    max_quality=st.none() | st.sampled_from([0.7, 1.0]),
    splits=st.just(Splits({"train": 0.5, "val": 0.25, "test": 0.25})),
    split_names=st.sampled_from([(), ("train",), ("val", "test")]),
    statuses=st.lists(st.sampled_from(list(Status)), unique=True).map(tuple),
    reasons=st.lists(st.sampled_from([Reason.NO_IMAGE, Reason.CRASHED]), unique=True).map(tuple),
    keys=st.none() | st.frozensets(st.sampled_from(["a", "b", "x"])),
)
FILTERS = st.builds(SettledFilter, CONDITIONS, st.none() | st.frozensets(st.integers(1, 3)))


@given(rows=st.lists(ROWS, max_size=8), row_filter=FILTERS, start=st.integers(0, 2))
def test_table_and_single_rows_are_filtered_alike(
    rows: list[dict[str, Any]], row_filter: SettledFilter, start: int
) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA).slice(start)
    kept = [values for values in table.to_pylist() if row_filter.keeps(MaskRow(values, "s", ("background",)))]
    assert row_filter.select(table).to_pylist() == kept


def test_threshold_of_the_same_digits_is_kept() -> None:
    table = pa.table({"quality": pa.array([0.7, np.nextafter(np.float32(0.7), np.float32(0))], pa.float32())})
    assert SettledFilter(RowFilter(min_quality=0.7)).select(table).num_rows == 1


def test_columns_are_those_of_the_conditions() -> None:
    assert SettledFilter(RowFilter()).columns == ()
    assert SettledFilter(RowFilter(min_quality=0.5, keys=frozenset("a"))).columns == ("quality", "key")
    by_class = SettledFilter(RowFilter(statuses=(Status.LABELLED,)), frozenset({1}))
    assert by_class.columns == ("class_ids", "status")
    split = RowFilter(splits=parse_splits("train=0.5,val=0.5"), split_names=("val",))
    assert SettledFilter(split).columns == ("key",)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_quality": 1.5}, "need min_quality between 0 and 1, got 1.5"),
        ({"max_quality": float("nan")}, "need max_quality between 0 and 1"),
        ({"min_quality": 0.8, "max_quality": 0.2}, "need min_quality <= max_quality"),
        ({"split_names": ("val",)}, "need split_names from train; got 'val'"),
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowFilter(**wrong)


def test_classes_are_found_by_name_and_alias_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    shard = InputShard(uri=str(tmp_path / "a.tar"), name="a", size_bytes=1, etag="e")
    make_run(str(tmp_path), ("cat", "dog"), {shard: [make_labelled_row("k", np.ones((4, 4)), [1])]})
    run = open_published(str(tmp_path))
    assert RowFilter(class_names=("Dog",)).settle(run).class_ids == {2}
    with pytest.raises(VocabularyError, match=r"has no class 'dgo'; did you mean 'dog'\?"):
        RowFilter(class_names=("dgo",)).settle(run)
    table = pa.table({"class_ids": [[1], [2], None]})
    assert RowFilter(class_names=("dog",)).settle(run).select(table).to_pylist() == [{"class_ids": [2]}]
    # Only a filter that knows the ids can check rows.
    assert not hasattr(RowFilter(class_names=("dog",)), "select")
