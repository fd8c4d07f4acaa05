"""Labelling of a collection: its rows, resume in the middle, and the audit."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.audit.verdict import Check
from pipeline.audit.verify import FULL, list_run, verify_run
from pipeline.bundles import load_bundle
from pipeline.collections.discover import IndexPlace, find_inputs
from pipeline.commit.plan import ShardWork
from pipeline.commit.worker_reports import Report
from pipeline.driver.steps import Steps
from pipeline.label import label_run
from pipeline.run.config import InputConfig, LabelConfig, ViewConfig
from pipeline.run.records import INDEX_FOLDER, PLACE_COLUMNS
from pipeline.run.run_file import Run, open_run
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.listing import exists
from pipeline.storage.uris import join_uri
from tests.collections.forms import TAGS, write_csv, write_photos, write_tar
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS

INPUTS = InputConfig(max_chunk_samples=2)


class InterruptedCluster(SerialCluster):
    """Ends the driver after the first two reports."""

    def run_chunks(
        self, steps: Steps, work: Sequence[ShardWork], store_outage_s: float
    ) -> Generator[Report | None, None, None]:
        """Read, process and commit two chunks."""
        for number, report in enumerate(super().run_chunks(steps, work, store_outage_s)):
            yield report
            if number == 1:
                raise KeyboardInterrupt


@pytest.fixture
def model(small_inputs: Path) -> str:
    """A model bundle of the classes cat and dog."""
    return str(small_inputs / "model")


def open_collection(pattern: Path | str, out_uri: str, model: str, inputs: InputConfig = INPUTS) -> Run:
    """Open a run as the job does."""
    index = IndexPlace(join_uri(out_uri, INDEX_FOLDER), is_begun=exists(join_uri(out_uri, "run.json")))
    return open_run(
        out_uri=out_uri,
        model_uri=model,
        model_digest=load_bundle(model)[2],
        vocabulary=Vocabulary(classes=("cat", "dog"), aliases=((), ())),
        config=LabelConfig(inputs=inputs, views=ViewConfig(num_patches=16)),
        shards=find_inputs([str(pattern)], inputs, index, print, print),
    )


def label(run: Run, cluster: SerialCluster | None = None) -> SerialCluster:
    """Label without Ray."""
    cluster = cluster or SerialCluster()
    label_run(run, OPTIONS, cluster=cluster)
    return cluster


def read_rows(run: Run) -> list[dict[str, Any]]:
    """Rows of all manifests, in order."""
    return [
        row for shard in run.shards for row in pq.read_table(f"{run.out_uri}/labels/{shard.name}.parquet").to_pylist()
    ]


def read_rows_without_places(run: Run) -> list[dict[str, Any]]:
    """Rows without the columns that say where the run found their images."""
    places = ("shard", *PLACE_COLUMNS)
    return [{name: value for name, value in row.items() if name not in places} for row in read_rows(run)]


def audit(run: Run) -> list[Check]:
    """Failed checks of the audit."""
    return verify_run(list_run(run.out_uri), FULL).failed_checks


def test_folder_with_a_table_gives_the_rows_of_the_tar(tmp_path: Path, model: str) -> None:
    write_photos(tmp_path / "photos")
    write_csv(tmp_path / "photos/metadata.csv")
    folder = open_collection(tmp_path / "photos", str(tmp_path / "a"), model)
    tar = open_collection(write_tar(tmp_path / "photos.tar"), str(tmp_path / "b"), model)
    label(folder)
    label(tar)
    rows = read_rows_without_places(folder)
    assert rows == read_rows_without_places(tar)
    for row in read_rows(folder):
        assert len(Path(row["image_uri"]).read_bytes()) == row["image_bytes"]
        assert row["shard"] == folder.shards[0].uri
    assert [(row["key"], row["status"]) for row in rows] == [
        (key, "labelled" if tags else "rejected") for key, tags in TAGS.items()
    ]


def test_interrupted_run_goes_on_without_listing_the_collection_again(tmp_path: Path, model: str) -> None:
    write_photos(tmp_path / "photos")
    table = write_csv(tmp_path / "photos/metadata.csv")
    whole = open_collection(tmp_path / "photos", str(tmp_path / "whole"), model)
    label(whole)
    out = str(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        label(open_collection(tmp_path / "photos", out, model), InterruptedCluster())
    table.write_text("file_name,tags\nother.jpg,cat\n")
    resumed = open_collection(tmp_path / "photos", out, model)
    cluster = label(resumed)
    assert cluster.labelled == ["index~00000/2"]
    assert read_rows_without_places(resumed) == read_rows_without_places(whole)


def test_audit_reads_the_images_of_a_collection_again(tmp_path: Path, model: str) -> None:
    write_photos(tmp_path / "photos")
    table = write_csv(tmp_path / "photos/metadata.csv")
    table.write_text(table.read_text() + "x,gone.jpg,cat\n")
    run = open_collection(tmp_path / "photos", str(tmp_path / "out"), model)
    label(run)
    assert [(row["key"], row["reason"]) for row in read_rows(run)][-1] == ("x", "not_found")
    assert audit(run) == []
    photo = bytearray((tmp_path / "photos/a.jpg").read_bytes())
    photo[-3] ^= 1
    (tmp_path / "photos/a.jpg").write_bytes(photo)
    (tmp_path / "photos/b.jpg").unlink()
    assert audit(run) == [Check.WRONG_IMAGES]
