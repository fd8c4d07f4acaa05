"""Columns in paths: written by the partitioning of pyarrow and pandas, read as tags and keys, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.commit.manifests import list_manifests, open_manifest
from pipeline.errors import ShardError
from pipeline.inputs.chunks import read_chunks
from pipeline.inputs.shards import list_shards
from pipeline.inputs.tables.partitions import list_partitions
from pipeline.label import label_run
from pipeline.run.config import InputConfig
from pipeline.run.records import Chunk, Sample
from pipeline.run.run_file import Run
from tests.factories import make_parquet, make_photo
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS

LABELS = ["cat", "hot dog", "a/b", "Übung", None, "x=y", "100%"]


def read_samples(pattern: str, **options: Any) -> list[Sample]:
    pieces = [piece for shard in list_shards([pattern]) for piece in read_chunks(shard, InputConfig(**options))]
    return [sample for piece in pieces if isinstance(piece, Chunk) for sample in piece.samples]


def read_tags(pattern: str, **options: Any) -> dict[str, tuple[str, ...]]:
    samples = read_samples(pattern, **options)
    assert not [sample.tags_error for sample in samples if sample.tags_error]
    return {sample.key: sample.tags for sample in samples}


def write_partitions(folder: Path, labels: list[Any], columns: list[str]) -> None:
    """Write a data set by pyarrow's writer."""
    table = pa.table(
        {
            "key": [f"k{number}" for number in range(len(labels))],
            "image": [make_photo(number) for number in range(len(labels))],
            "label": labels,
            "year": [2020 + number % 2 for number in range(len(labels))],
        }
    )
    pq.write_to_dataset(table, str(folder), partition_cols=columns)


@pytest.mark.parametrize("pattern", ["data", "data/**/*.parquet"])
def test_tags_are_the_values_in_the_path(tmp_path: Path, pattern: str) -> None:
    write_partitions(tmp_path / "data", LABELS, ["year", "label"])
    wanted = {f"k{number}": (label,) if label else () for number, label in enumerate(LABELS)}
    assert read_tags(str(tmp_path / pattern), tags_field="label") == wanted


def test_partitions_of_pandas_are_those_of_pyarrow(tmp_path: Path) -> None:
    frame = pd.DataFrame({"key": ["a", "b"], "image": [make_photo(1)] * 2, "label": pd.Categorical(["cat", "dog"])})
    frame.to_parquet(tmp_path / "data", partition_cols=["label"])
    assert read_tags(str(tmp_path / "data"), tags_field="label") == {"a": ("cat",), "b": ("dog",)}


def test_folder_whose_name_is_no_column_of_interest_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "status=old/run=3/=x").mkdir(parents=True)
    make_parquet(tmp_path / "status=old/run=3/=x/a.parquet", {"image": [b"i", None], "tags": ["cat", "dog"]})
    samples = read_samples(str(tmp_path / "status=old"))
    assert [(sample.key, sample.tags, sample.download_error) for sample in samples] == [
        ("000000000", ("cat",), ""),
        ("000000001", ("dog",), ""),
    ]


def test_partition_with_an_underscore_is_not_hidden(tmp_path: Path) -> None:
    write_partitions(tmp_path / "data/_part=1", ["cat"], ["label"])
    write_partitions(tmp_path / "data/_temporary", ["dog"], ["label"])
    for pattern in ("data", "data/**/*.parquet"):
        assert read_tags(str(tmp_path / pattern), tags_field="label") == {"k0": ("cat",)}


def test_column_in_file_and_path_counts_if_both_agree(tmp_path: Path) -> None:
    # Polars keeps the columns of its partitions in the files.
    for label in ("cat", "dog"):
        (tmp_path / f"label={label}").mkdir()
        make_parquet(tmp_path / f"label={label}/0.parquet", {"key": [label], "image": [b"i"], "label": [label]})
    assert read_tags(str(tmp_path), tags_field="label") == {"cat": ("cat",), "dog": ("dog",)}


@pytest.mark.parametrize("values", [["cat", "dog"], ["cat", None], [["cat"], ["cat"]], [1, 1]])
def test_column_in_file_and_path_is_refused_if_they_differ(tmp_path: Path, values: list[Any]) -> None:
    (tmp_path / "label=cat").mkdir()
    make_parquet(tmp_path / "label=cat/0.parquet", {"image": [b"i"] * 2, "label": values})
    with pytest.raises(ShardError, match=r"'label' holds .* in the file and 'cat' in its path; rename"):
        read_samples(str(tmp_path), tags_field="label", class_numbers="zero-based")


def test_path_with_two_values_of_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "label=cat/label=dog").mkdir(parents=True)
    make_parquet(tmp_path / "label=cat/label=dog/0.parquet", {"image": [b"i"]})
    with pytest.raises(ShardError, match="its path gives column 'label' 2 values"):
        read_samples(str(tmp_path), tags_field="label")


def test_key_in_the_path_is_for_one_row(tmp_path: Path) -> None:
    (tmp_path / "id=a 1").mkdir()
    path = make_parquet(tmp_path / "id=a 1/0.parquet", {"image": [b"i"], "tags": ["cat"]})
    assert read_tags(str(path), key_column="id") == {"a 1": ("cat",)}
    make_parquet(path, {"image": [b"i"] * 2, "tags": ["cat"] * 2})
    with pytest.raises(ShardError, match="key column 'id' is a folder of its path, one key for all 2 rows"):
        read_samples(str(path), key_column="id")


def test_run_of_partitions_is_labelled_and_audited(tmp_path: Path, open_small_run: Callable[..., Run]) -> None:
    write_partitions(tmp_path / "data", ["dog", "cat", None, "dog", "tree"], ["year", "label"])
    run = open_small_run(str(tmp_path / "out"), inputs_uri=str(tmp_path / "data"), pattern="**", tags_field="label")
    label_run(run, OPTIONS, cluster=SerialCluster())
    rows = {row["key"]: row for uri in list_manifests(run.out_uri) for row in open_manifest(uri).iterate_rows()}
    found = {key: (row["reason"], row["class_ids"]) for key, row in rows.items()}
    assert found["k0"] == found["k3"] == (None, [2])
    assert found["k1"] == (None, [1])
    assert {found[key][0] for key in ("k2", "k4")} == {"no_known_tag"}
    assert verify_run(list_run(run.out_uri), FULL).failed_checks == []


def test_audit_finds_keys_in_the_path(tmp_path: Path, open_small_run: Callable[..., Run]) -> None:
    for key in ("7", "hot%20dog", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"in/id={key}").mkdir(parents=True)
        make_parquet(tmp_path / f"in/id={key}/0.parquet", {"image": [make_photo(1)], "tags": ["cat"]})
    run = open_small_run(str(tmp_path / "out"), inputs_uri=str(tmp_path), pattern="in", key_column="id")
    label_run(run, OPTIONS, cluster=SerialCluster())
    keys = {row["key"] for uri in list_manifests(run.out_uri) for row in open_manifest(uri).iterate_rows()}
    assert keys == {"7", "hot dog", "000000000"}
    assert verify_run(list_run(run.out_uri), FULL).failed_checks == []


def test_column_that_is_nowhere_is_refused_with_those_of_the_path(tmp_path: Path) -> None:
    write_partitions(tmp_path / "data", ["cat"], ["label"])
    with pytest.raises(ShardError, match=r"no column 'tags' .*--inputs.tags-field: 'key', 'image', 'year', 'label'"):
        read_samples(str(tmp_path / "data"))


def test_values_are_those_that_pyarrow_reads(tmp_path: Path) -> None:
    labels = [label for label in LABELS if label is not None]
    write_partitions(tmp_path / "data", labels, ["label"])
    for fragment in ds.dataset(str(tmp_path / "data"), partitioning="hive").get_fragments():
        wanted = ds.get_partition_keys(fragment.partition_expression)
        assert dict(list_partitions(fragment.path)) == wanted


def test_web_address_is_decoded_before_its_values() -> None:
    assert list(list_partitions("https://host/label%3Dhot%2520dog/0.parquet?token=x/y")) == [("label", "hot dog")]
