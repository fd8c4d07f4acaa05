"""Exports with masks that persons corrected."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from jobs.export import main
from pipeline.errors import RunConflictError
from pipeline.export.job.assembly import ExportSummary, export_run
from pipeline.export.job.best_rows import find_levels
from pipeline.images.orientation import place_on_stored_pixels
from pipeline.published.decisions import Verdict, read_decisions
from pipeline.published.overrides import read_overrides
from pipeline.published.run import open_published
from pipeline.storage.writing import put_atomic
from tests.corrected_masks import correct
from tests.export.job.test_reviewed import judge, list_keys
from tests.export.runs import SPLITS, Scene, encode, export_all, list_shard, make_rows, open_export, require_aligned
from tests.factories import make_parquet, make_rejected_row, make_run
from tests.fakes import SerialCluster
from tests.small_run import read_all

NUM_PHOTOS = 8
REJECTED = ("a", NUM_PHOTOS)


def make_turned(number: int) -> Scene:
    """Make a photo of orientation number + 1 with a bright corner."""
    upright = np.zeros((20, 30), np.uint8)
    upright[2:10, 16:26] = 1
    mask = place_on_stored_pixels(upright, number + 1)
    return Scene(encode(mask * 210 + 20, "JPEG", number + 1), mask, number + 1)


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    """Photos of all orientations, and a rejected one that viewers turn."""
    scenes = [make_turned(number) for number in range(NUM_PHOTOS)]
    photos = [one.photo for one in (*scenes, scenes[5])]
    path = make_parquet(tmp_path / "a.parquet", {"image": photos, "tags": [["cat"]] * len(photos)})
    rows = [row | {"quality": 0.1} for row in make_rows("abcdefgh", scenes)]
    untagged = make_rejected_row("i", "no_known_tag") | {
        "image_sha256": rows[5]["image_sha256"],
        "class_ids": [],
        "tags_unknown": ["lynx"],
    }
    make_run(f"{tmp_path}/run", ("cat", "dog"), {list_shard(path): [*rows, untagged]})
    return f"{tmp_path}/run"


def correct_all(run_uri: str) -> None:
    """Correct all masks, that of the rejected row as well: bright pixels are dogs."""
    scenes = [make_turned(number) for number in (*range(NUM_PHOTOS), 5)]
    masks = {("a", place): np.where((one.mask > 0) & (one.mask < 255), 2, 0) for place, one in enumerate(scenes)}
    correct(run_uri, masks, orientations={REJECTED: scenes[5].exif_orientation})


def fill(number: int, value: int) -> np.ndarray:
    """Make a mask of one value for a photo."""
    return np.full_like(make_turned(number).mask, value)


def export_corrected(run_uri: str, out_uri: str, format_name: str = "voc", **options: Any) -> ExportSummary:
    return export_all(run_uri, out_uri, format_name, overrides=read_overrides(run_uri), **options)


def test_corrected_masks_are_exported_upright_with_their_origin(run_uri: str, tmp_path: Path) -> None:
    correct_all(run_uri)
    summary = export_corrected(run_uri, f"{tmp_path}/out", "hf", min_quality=0.9)
    assert summary.counts is not None
    assert (summary.counts.num_exported, summary.counts.num_corrected) == (NUM_PHOTOS + 1, NUM_PHOTOS + 1)
    loaded = datasets.load_dataset(f"{tmp_path}/out", cache_dir=f"{tmp_path}/cache")["train"]
    assert [row["key"] for row in loaded] == [*"abcdefghi"]
    for row in loaded:
        mask = np.asarray(row["mask"])
        require_aligned(row["image"], mask)
        assert set(np.unique(mask)) <= {0, 2}
        assert row["quality"] == 1.0
        assert (row["override_tool"], row["override_source"], row["override_annotator"]) == (
            "cvat",
            "task 0.zip",
            "ada",
        )
        assert row["override_time"] == "2026-05-04T03:02:01+00:00"
    # Tags are those of the input.
    assert [loaded[place]["tags"] for place in (0, 8)] == [["cat", "<i>", "🐈"], ["lynx"]]
    assert [loaded[place]["classes"] for place in (0, 8)] == [[2], [2]]
    # The rejected photo is turned, as the same photo of another row is.
    assert (np.asarray(loaded[8]["mask"]) == np.asarray(loaded[5]["mask"])).all()


def test_other_rows_of_the_shard_stay_as_they_are(run_uri: str, tmp_path: Path) -> None:
    correct(run_uri, {("a", 1): fill(1, 1)})
    out = tmp_path / "out"
    export_corrected(run_uri, str(out), "fiftyone")
    export_all(run_uri, f"{tmp_path}/plain", "fiftyone")
    corrected, plain = read_all(str(out)), read_all(f"{tmp_path}/plain")
    assert {name for name in plain if name.startswith("/train") and plain[name] != corrected[name]} == {
        "/train/labels/b-0-1.png"
    }
    assert (np.asarray(Image.open(out / "train" / "labels" / "b-0-1.png")) == 1).all()
    listed = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [one.get("override_tool") for one in listed[:3]] == [None, "cvat", None]


def test_later_import_counts_and_a_mask_of_another_image_does_not(run_uri: str, tmp_path: Path) -> None:
    correct(run_uri, {("a", 1): fill(1, 1)}, number=2)
    correct(run_uri, {("a", 1): fill(1, 2)}, number=1)
    correct(run_uri, {("a", 2): fill(2, 2)}, is_of_another_image=True)
    summary = export_corrected(run_uri, f"{tmp_path}/out")
    assert summary.counts is not None
    assert summary.counts.num_corrected == 1
    assert (np.asarray(Image.open(tmp_path / "out" / "SegmentationClass" / "b-0-1.png")) == 1).all()


def test_filters_see_what_a_row_is_once_it_is_corrected(run_uri: str, tmp_path: Path) -> None:
    correct(run_uri, {("a", 1): fill(1, 1), ("a", 2): fill(2, 0)})
    export_corrected(run_uri, f"{tmp_path}/good", min_quality=0.5)
    assert list_keys(tmp_path / "good") == {"b", "c"}
    export_corrected(run_uri, f"{tmp_path}/cats", min_quality=0.5, class_ids=frozenset({1}))
    assert list_keys(tmp_path / "cats") == {"b"}
    levels = find_levels(open_published(run_uri), 0.1, read_overrides(run_uri))
    assert levels[1,] == 1000
    export_corrected(run_uri, f"{tmp_path}/best", best_fraction=0.1, levels=levels, class_ids=frozenset({1}))
    assert list_keys(tmp_path / "best") == {"b"}


def test_corrected_rows_count_as_reviewed_whatever_was_decided_before(run_uri: str, tmp_path: Path) -> None:
    judge(run_uri, "ada", {"a": Verdict.ACCEPT, "b": Verdict.REDRAW, "c": Verdict.REFUSE})
    correct(run_uri, {("a", 1): fill(1, 1), ("a", 3): fill(3, 1)})
    decisions = read_decisions(run_uri)
    export_corrected(run_uri, f"{tmp_path}/reviewed", is_reviewed=True, decisions=decisions)
    assert list_keys(tmp_path / "reviewed") == {*"abd"}
    export_corrected(run_uri, f"{tmp_path}/rest", is_without_refused=True, decisions=decisions)
    assert list_keys(tmp_path / "rest") == {*"abdefgh"}


def test_another_import_makes_another_export(run_uri: str, tmp_path: Path) -> None:
    export_corrected(run_uri, f"{tmp_path}/out")
    correct(run_uri, {("a", 1): fill(1, 1)})
    with pytest.raises(RunConflictError, match="holds another export: filters.overrides_sha256 was absent, is"):
        open_export(run_uri, f"{tmp_path}/out", overrides=read_overrides(run_uri))
    open_export(run_uri, f"{tmp_path}/out")


def test_masks_imported_while_an_export_goes_on_are_not_part_of_it(run_uri: str, tmp_path: Path) -> None:
    correct(run_uri, {("a", 1): fill(1, 1)})
    export = open_export(run_uri, f"{tmp_path}/out", "hf", splits=SPLITS, overrides=read_overrides(run_uri))
    export_corrected(run_uri, f"{tmp_path}/before", "hf", splits=SPLITS)
    correct(run_uri, {("a", 2): fill(2, 1)}, number=1)
    summary = export_run(export, cluster=SerialCluster())
    assert summary.counts is not None
    assert summary.counts.num_corrected == 1
    assert read_all(f"{tmp_path}/out") == read_all(f"{tmp_path}/before")


def test_export_of_a_run_on_s3_has_the_same_corrected_masks(run_uri: str, tmp_path: Path, s3_folder: str) -> None:
    correct_all(run_uri)
    export_corrected(run_uri, f"{tmp_path}/out", "hf")
    for name, payload in read_all(run_uri).items():
        put_atomic(f"{s3_folder}/run{name}", payload)
    export_corrected(f"{s3_folder}/run", f"{s3_folder}/out", "hf")
    found, expected = read_all(f"{s3_folder}/out"), read_all(f"{tmp_path}/out")
    assert found["/data/train-000000.parquet"] == expected["/data/train-000000.parquet"]


def test_command_uses_corrected_masks_unless_they_are_declined(
    run_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    correct(run_uri, {("a", 1): fill(1, 1)})
    command = ["--labels", run_uri, "--format", "voc", "--reviewed"]
    assert main([*command, "--out", f"{tmp_path}/out"]) == 0
    assert "corrected masks: 1 exported, 1 in the run" in capsys.readouterr().out
    assert list_keys(tmp_path / "out") == {"b"}
    assert main([*command, "--out", f"{tmp_path}/none", "--without-overrides"]) != 0
    assert "nobody has reviewed" in capsys.readouterr().err
