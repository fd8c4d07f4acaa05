"""Corrected masks of a run as truth for its masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from jobs.calibrate import main as calibrate
from jobs.evaluate import main as evaluate
from pipeline.images.masks import decode_mask
from pipeline.published.decisions import Decision, Verdict, encode_decisions, locate_reviewer
from pipeline.published.rows import iterate_rows
from pipeline.published.run import open_published
from pipeline.run.records import InputShard
from pipeline.storage.writing import put_atomic
from tests.corrected_masks import FIRST_TIME, correct
from tests.factories import make_labelled_row, make_rejected_row, make_run
from tests.small_run import read_all
from tests.thresholds.test_calibration import make_collection

CLASSES = ("cat", "dog")
SHARDS = [InputShard(uri=f"photos/{name}.tar", name=name, size_bytes=10, etag="1") for name in "ab"]
SIDE = 12


def make_blocks(rng: np.random.Generator) -> np.ndarray:
    """Make a square mask of random blocks, which fits its photo in both frames."""
    return rng.choice([0, 1, 2, 255], (SIDE // 3, SIDE // 3)).repeat(3, 0).repeat(3, 1).astype(np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> tuple[str, Any, Any]:
    """A run of two shards with the same keys, photos of all orientations; its masks and the corrected ones by row."""
    rng = np.random.default_rng(0)
    ids = [(shard.name, index) for shard in SHARDS for index in range(8)]
    masks, corrected = ({one: make_blocks(rng) for one in ids} for _ in range(2))
    rows = {
        shard: [
            *(
                make_labelled_row(
                    f"k{index}",
                    masks[shard.name, index],
                    [1, 2],
                    rng.uniform(0, 5, (2, 4, 4)),
                    photo=f"{shard.name}{index}".encode(),
                    exif_orientation=index + 1,
                )
                for index in range(8)
            ),
            make_rejected_row("bad") | {"image_sha256": "1" * 64},
        ]
        for shard in SHARDS
    }
    make_run(f"{tmp_path}/run", CLASSES, rows)
    return f"{tmp_path}/run", masks, corrected


def score(run_uri: str, folder: Path, *flags: str) -> Any:
    assert evaluate(["--labels", run_uri, "--json", f"{folder}/s.json", "--html", f"{folder}/s.html", *flags]) == 0
    return json.loads((folder / "s.json").read_text())


def test_rows_with_a_corrected_mask_are_scored_against_it(run: Any, tmp_path: Path) -> None:
    run_uri, masks, corrected = run
    # The same keys of both shards, and a rejected row, which has no mask to score.
    chosen = {one: mask for one, mask in corrected.items() if one[1] != 3}
    correct(run_uri, chosen | {("a", 8): corrected["a", 1]})
    scores = score(run_uri, tmp_path, "--truth", "overrides")
    assert (scores["num_images"], scores["num_without_truth"], scores["num_rejected"]) == (14, 2, 2)
    truth, mask = (np.concatenate([found[one].ravel() for one in chosen]) for found in (corrected, masks))
    counted = truth != 255
    expected = jaccard_score(truth[counted], np.where(mask == 255, 3, mask)[counted], labels=[0, 1, 2], average=None)
    assert list(scores["masks"]["iou"].values()) == pytest.approx(expected)
    assert len(scores["curve"]) == 100
    assert any("not those of the whole run" in warning for warning in scores["warnings"])
    page = (tmp_path / "s.html").read_text()
    assert "not those of the whole run" in page
    assert page.count("IoU with the truth") == 14


def test_corrected_masks_on_a_store_are_scored_alike(run: Any, tmp_path: Path, s3_folder: str) -> None:
    run_uri, _, corrected = run
    correct(run_uri, corrected)
    for name, payload in read_all(run_uri).items():
        put_atomic(f"{s3_folder}/run{name}", payload)
    assert score(f"{s3_folder}/run", tmp_path, "--truth", "overrides") == score(
        f"{run_uri}/", tmp_path, "--truth", "overrides"
    )


def test_run_without_corrected_masks_is_told_to_import_some(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run_uri, _, corrected = run
    command = ["--labels", run_uri, "--truth", "overrides"]
    assert evaluate(command) == 2
    assert "has no corrected masks to serve as truth; bring some back by tagmask import" in capsys.readouterr().err
    correct(run_uri, {("a", 8): corrected["a", 1]})
    correct(run_uri, {("a", 1): corrected["a", 1]}, number=1, is_of_another_image=True)
    assert evaluate(command) == 2
    assert "no labelled row of" in capsys.readouterr().err


def test_thresholds_are_fitted_to_corrected_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_collection(tmp_path)
    run_uri = f"{tmp_path}/run"
    command = ["--labels", run_uri, "--out"]
    assert calibrate([*command, f"{tmp_path}/none.json", "--truth", "overrides"]) == 2
    assert "tagmask import-masks" in capsys.readouterr().err
    truths = {path.stem: decode_mask(path.read_bytes()) for path in (tmp_path / "truth").iterdir()}
    published = open_published(run_uri)
    rows = [row for uri in published.manifest_uris for row in iterate_rows(published, uri) if row.is_labelled]
    correct(run_uri, {(row.shard_name, row.index): truths[row.key] for row in rows})
    assert calibrate([*command, f"{tmp_path}/own.json", "--truth", "overrides"]) == 0
    assert "not those of the whole run" in capsys.readouterr().err
    assert calibrate([*command, f"{tmp_path}/other.json", "--truth", f"{tmp_path}/truth"]) == 0
    assert (tmp_path / "own.json").read_bytes() == (tmp_path / "other.json").read_bytes()
    # What was refused was corrected since; wrong tags have maps of what is not there.
    decisions = [
        Decision(
            shard=row.shard_name,
            index=row.index,
            key=row.key,
            decision=verdict,
            reviewer="ada",
            time=FIRST_TIME,
            fingerprint=str(published.record["fingerprint"]),
            image_sha256=row.get("image_sha256"),
            mask_sha256=None,
        )
        for row, verdict in zip(rows, (Verdict.REFUSE, Verdict.REFUSE, Verdict.WRONG_TAG), strict=False)
    ]
    put_atomic(f"{locate_reviewer(run_uri, 'ada')}/1.parquet", encode_decisions(decisions))
    assert calibrate([*command, f"{tmp_path}/own.json", "--truth", "overrides"]) == 0
    figures = json.loads((tmp_path / "own.json").read_text())["figures"]
    assert figures["num_fitted"] + figures["num_held_out"] == len(rows) - 1
