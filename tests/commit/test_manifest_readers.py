"""A manifest is plain Parquet: other readers open it unchanged, whatever our own code thinks of it."""

import io
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.images.class_texts import describe_classes
from pipeline.run.records import InputShard
from pipeline.run.vocabulary import Vocabulary
from tests.factories import make_labelled_row, make_rejected_row, make_run

KEYS = ["a0", "a1", "a2", "b0", "b1", "b2"]
MASKS = {key: np.array([[0, 1, 2], [255, number % 3, 0]]) for number, key in enumerate(KEYS) if not key.endswith("1")}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two manifests of three rows; the middle row of each is rejected. One keeps its class maps."""
    out = tmp_path_factory.mktemp("run")
    class_maps = np.random.default_rng(0).random((2, 4, 4))
    shards = {}
    for name in "ab":
        shard = InputShard(uri=f"s3://bucket/{name}.tar", name=name, size_bytes=1, etag=name)
        shards[shard] = [
            make_labelled_row(f"{name}0", MASKS[f"{name}0"], [1, 2], class_maps if name == "a" else None),
            make_rejected_row(f"{name}1"),
            make_labelled_row(f"{name}2", MASKS[f"{name}2"], [1, 2], tags_unknown=["sunset"]),
        ]
    make_run(str(out), ["cat", "dog"], shards)
    return out / "labels"


def require_masks(pngs: Any) -> None:
    """Masks of the labelled rows, in order, hold the class ids as the pixels' values."""
    assert len(pngs) == len(MASKS)
    for png, mask in zip(pngs, MASKS.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), mask)


def test_pyarrow_dataset_reads_and_filters_a_folder_of_manifests(labels: Path) -> None:
    dataset = ds.dataset(labels, format="parquet")
    assert dataset.to_table(columns=["key"])["key"].to_pylist() == KEYS
    labelled = dataset.to_table(columns=["mask", "classes"], filter=ds.field("status") == "labelled")
    require_masks([mask["bytes"] for mask in labelled["mask"].to_pylist()])
    assert [entry["class_id"] for entry in labelled["classes"][0].as_py()] == [1, 2]


def test_pandas_reads_a_folder_of_manifests(labels: Path) -> None:
    frame = pd.read_parquet(labels)
    assert list(frame["key"]) == KEYS
    assert frame["reason"].dropna().to_list() == ["undecodable"] * 2
    labelled = frame[frame["status"] == "labelled"]
    require_masks([mask["bytes"] for mask in labelled["mask"]])
    assert [list(ids) for ids in labelled["class_ids"]] == [[1, 2]] * 4


def test_polars_reads_and_filters_a_folder_of_manifests(labels: Path) -> None:
    frame = pl.read_parquet(labels / "*.parquet")
    assert frame["key"].to_list() == KEYS
    assert frame.schema["index"] == pl.Int64
    labelled = pl.scan_parquet(labels / "*.parquet").filter(pl.col("status") == "labelled").collect()
    require_masks(labelled["mask"].struct.field("bytes").to_list())
    assert labelled.explode("classes").unnest("classes")["class_id"].to_list() == [1, 2] * 4


def test_duckdb_queries_a_folder_of_manifests(labels: Path) -> None:
    with duckdb.connect() as connection:
        manifests = f"read_parquet('{labels}/*.parquet')"
        counts = connection.sql(f"SELECT status, reason, count(*) FROM {manifests} GROUP BY ALL ORDER BY status")
        assert counts.fetchall() == [("labelled", None, 4), ("rejected", "undecodable", 2)]
        pngs = connection.sql(f"SELECT mask.bytes FROM {manifests} WHERE status = 'labelled' ORDER BY key")
        require_masks([png for (png,) in pngs.fetchall()])
        classes = f"SELECT unnest(classes) AS entry FROM {manifests}"
        rows = connection.sql(f"SELECT entry.class_id, count(*) FROM ({classes}) GROUP BY 1 ORDER BY 1")
        assert rows.fetchall() == [(1, 4), (2, 4)]


@pytest.fixture
def hugging_face(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """All manifests as a Hugging Face dataset, without the network."""
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import datasets

    files = sorted(str(path) for path in labels.iterdir())
    dataset = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    return datasets, dataset


def test_hugging_face_datasets_decodes_masks_and_names_classes_without_a_cast(hugging_face: tuple[Any, Any]) -> None:
    datasets, dataset = hugging_face
    assert dataset["key"][:] == KEYS
    images = {row["key"]: row["mask"] for row in dataset}
    assert images["a1"] is None
    for key, mask in MASKS.items():
        assert images[key].mode == "P"
        np.testing.assert_array_equal(np.asarray(images[key]), mask)
    assert dataset.features["mask"] == datasets.Image()
    for column in ("class_ids", "suggested_class_ids", "doubtful_class_ids"):
        label = dataset.features[column].feature
        assert label.int2str(dataset[0]["class_ids"]) == ["cat", "dog"]
        assert label.names == ["background", "cat", "dog"]


def test_schema_names_and_colours_the_values_of_masks(labels: Path) -> None:
    classes = json.loads(ds.dataset(labels, format="parquet").schema.metadata[b"tagmask_classes"])
    assert classes == {"names": ["background", "cat", "dog"], "colours": [[0, 0, 0], [128, 0, 0], [0, 128, 0]]}


def test_class_that_is_called_background_has_a_name_of_its_own() -> None:
    """Two equal names are refused by Hugging Face."""
    classes = json.loads(describe_classes(Vocabulary(classes=("dog", "background")))[b"tagmask_classes"])
    assert classes["names"] == ["background_", "dog", "background"]


def test_shard_of_each_row_is_a_dictionary_of_one_value(labels: Path) -> None:
    for name in "ab":
        file = pq.ParquetFile(labels / f"{name}.parquet")
        assert set(file.read(["shard"])["shard"].to_pylist()) == {f"s3://bucket/{name}.tar"}
        place = file.schema_arrow.get_field_index("shard")
        assert "RLE_DICTIONARY" in file.metadata.row_group(0).column(place).encodings
