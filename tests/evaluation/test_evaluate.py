"""Masks against true masks: counts agree with scikit-learn, at the threshold of the run and at all others."""

import io
import json
import re
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, precision_score

from jobs.evaluate import main
from pipeline.errors import ManifestError
from pipeline.evaluation.evaluate import evaluate_manifest
from pipeline.evaluation.scores import (
    NUM_THRESHOLDS,
    EvaluationCounts,
    make_empty_counts,
    score_curve,
    score_masks,
)
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.images.drawing.draw import draw_mask
from pipeline.images.drawing.grid_maps import GridMaps
from pipeline.images.masks import decode_class_maps
from pipeline.run.config import MapConfig
from pipeline.run.records import IGNORE_LABEL, InputShard
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.evaluation.test_scores import describe
from tests.factories import make_labelled_row, make_mask_png, make_rejected_row, make_run

CLASSES = ("cat", "dog", "cow")
SHARD = InputShard(uri="photos/a.tar", name="a", size_bytes=10, etag="1")
LEFT_OPEN = len(CLASSES) + 1
"""Class that stands for 255 of a mask in scikit-learn: one more class, which is in no truth."""


def make_blocks(rng: np.random.Generator, values: Any, size: Any = (24, 32)) -> Any:
    """Mask of random values in blocks of 4 x 4 pixels."""
    blocks = rng.choice(values, size=(size[0] // 4, size[1] // 4))
    return blocks.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)


def make_pairs(num_images: int, rng_seed: int = 0) -> tuple[Any, Any]:
    """Rows with maps of one to three classes, and their true masks by key."""
    rng = np.random.default_rng(rng_seed)
    rows, truths = [], {}
    for index in range(num_images):
        class_ids = sorted(rng.choice([1, 2, 3], size=rng.integers(1, 4), replace=False).tolist())
        maps = rng.uniform(0, 7, (len(class_ids), 3, 4))
        mask = make_blocks(rng, [0, *class_ids, IGNORE_LABEL])
        key = f"photo{index}"
        rows.append(make_labelled_row(key, mask, class_ids, maps))
        truths[key] = make_blocks(rng, [0, 1, 2, 3, IGNORE_LABEL])
    return rows, truths


def evaluate(folder: Path, rows: Any, truths: Any) -> Any:
    """Publish rows and count them."""
    (uri,) = make_run(str(folder / "run"), CLASSES, {SHARD: rows})
    pngs = {key: make_mask_png(truth) for key, truth in truths.items()}
    return evaluate_manifest(uri, pngs.get, len(CLASSES)).counts


def read_png(payload: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(payload)))


def join_counted(truths: Any, masks: Any) -> tuple[Any, Any]:
    """Flatten pairs of truth and mask for scikit-learn: pixels with a truth, 255 of masks as a class."""
    pairs = [
        (truth[truth != IGNORE_LABEL], mask[truth != IGNORE_LABEL]) for truth, mask in zip(truths, masks, strict=True)
    ]
    truth, mask = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return truth, np.where(mask == IGNORE_LABEL, LEFT_OPEN, mask)


def require_equal_scores(scores: Any, truth: Any, mask: Any) -> None:
    labels = list(range(len(CLASSES) + 1))
    occur = np.isin(labels, np.union1d(truth, mask))
    expected = np.where(occur, jaccard_score(truth, mask, labels=labels, average=None, zero_division=0), np.nan)
    np.testing.assert_allclose(scores.iou, expected, rtol=1e-12)
    assert scores.mean_iou == pytest.approx(np.nanmean(expected), rel=1e-12)
    assert scores.pixel_accuracy == pytest.approx(accuracy_score(truth, mask), rel=1e-12)


def test_masks_with_ignored_pixels_are_counted_as_scikit_learn_counts_them(tmp_path: Path) -> None:
    rows, truths = make_pairs(6)
    counts = evaluate(tmp_path, rows, truths)
    truth, mask = join_counted(truths.values(), [read_png(row["mask"]["bytes"]) for row in rows])
    labels = list(range(LEFT_OPEN + 1))
    np.testing.assert_array_equal(counts.confusion, confusion_matrix(truth, mask, labels=labels)[:-1])
    scores = score_masks(counts)
    require_equal_scores(scores, truth, mask)
    assert scores.open_fraction == pytest.approx((mask == LEFT_OPEN).mean())


def test_curve_agrees_with_scikit_learn_at_every_threshold(tmp_path: Path) -> None:
    rows, truths = make_pairs(4, rng_seed=1)
    curve = score_curve(evaluate(tmp_path, rows, truths))
    assert len(curve) == NUM_THRESHOLDS
    for index, scores in enumerate(curve):
        masks = [make_mask_at(row, index / NUM_THRESHOLDS) for row in rows]
        require_equal_scores(scores, *join_counted(truths.values(), masks))


def make_mask_at(row: Any, threshold: float, size: Any = None) -> Any:
    """Mask that labelling makes of kept maps at a threshold."""
    maps = GridMaps([decode_class_maps(row["class_maps"])], size or (row["height"], row["width"])).scale_min_max()
    config = MapConfig(background_threshold=threshold, foreground_threshold=threshold)
    return draw_mask(maps, row["class_ids"], np.ones(maps.num_classes), config).mask


def test_curve_of_values_equal_to_a_threshold_decides_as_labelling_does(tmp_path: Path) -> None:
    """51 / 255 is 0.2, which single and double precision round differently."""
    values = np.arange(256, dtype=np.float32).reshape(1, 16, 16) / 255
    row = make_labelled_row("a", np.zeros((16, 16)), [1], values)
    truth = np.ones((16, 16), np.uint8)
    for index, scores in enumerate(score_curve(evaluate(tmp_path, [row], {"a": truth}))):
        covered = (make_mask_at(row, index / NUM_THRESHOLDS) == 1).mean()
        assert scores.pixel_accuracy == covered, index


def test_curve_of_a_huge_photo_is_over_its_own_pixels(tmp_path: Path) -> None:
    """Masks of a huge photo come from smaller maps, but the curve compares maps of full size with the truth."""
    size = (1000, 4400)
    row = make_labelled_row("a", np.zeros(size), [1, 3], np.random.default_rng(0).uniform(0, 7, (2, 3, 4)))
    truth = make_blocks(np.random.default_rng(1), [0, 1, 3], size)
    curve = score_curve(evaluate(tmp_path, [row], {"a": truth}))
    for index in (20, 70):
        expected = (make_mask_at(row, index / NUM_THRESHOLDS) == truth).mean()
        assert curve[index].pixel_accuracy == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_curve_of_a_turned_photo_lies_on_the_stored_pixels(tmp_path: Path, orientation: int) -> None:
    """The maps are the truth itself, turned upright by Pillow, so they match at every threshold."""
    truth = make_blocks(np.random.default_rng(orientation), [0, 1, 3])
    image = Image.fromarray(truth)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    maps = np.stack([upright == class_id for class_id in (1, 3)]).astype(np.float32)
    row = make_labelled_row("a", truth, [1, 3], maps, exif_orientation=orientation)
    (uri,) = make_run(str(tmp_path), CLASSES, {SHARD: [row]})
    counts = evaluate_manifest(uri, {"a": make_mask_png(truth)}.get, len(CLASSES), frame=TruthFrame.STORED).counts
    assert [scores.mean_iou for scores in (score_masks(counts), *score_curve(counts))] == [1.0] * 101


def test_counts_of_manifests_add_up_to_the_counts_of_one_manifest(tmp_path: Path) -> None:
    rows, truths = make_pairs(5, rng_seed=2)
    whole = evaluate(tmp_path, rows, truths)
    shards = {
        InputShard(uri=f"photos/{index}.tar", name=str(index), size_bytes=10, etag="1"): [row]
        for index, row in enumerate(rows)
    }
    pngs = {key: make_mask_png(truth) for key, truth in truths.items()}
    uris = make_run(str(tmp_path / "split"), CLASSES, shards)
    pieces = [evaluate_manifest(uri, pngs.get, len(CLASSES)).counts for uri in reversed(uris)]
    assert describe(reduce(EvaluationCounts.merge, pieces, make_empty_counts(len(CLASSES)))) == describe(whole)


def test_images_without_truth_or_mask_are_counted_apart_and_not_scored(tmp_path: Path) -> None:
    rows, truths = make_pairs(3)
    expected = evaluate(tmp_path / "judged", rows[:1], truths)
    del truths["photo1"], truths["photo2"]
    truths["broken"] = np.ones((4, 4), np.uint8)
    counts = evaluate(tmp_path / "all", [*rows, make_rejected_row("broken")], truths)
    assert (counts.num_images, counts.num_without_truth, counts.num_rejected) == (1, 2, 1)
    np.testing.assert_array_equal(counts.confusion, expected.confusion)


def test_curve_without_kept_maps_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    rows = [make_labelled_row("a", np.zeros((4, 4)), [1])]
    counts = evaluate(tmp_path, rows, {"a": np.zeros((4, 4), np.uint8)})
    with pytest.raises(ManifestError, match="1 of 1 images have no class maps.*keep-maps"):
        score_curve(counts)


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Any, Any]:
    """Run of two shards and its truth on disk."""
    rows, truths = make_pairs(4, rng_seed=3)
    other = InputShard(uri="photos/b.tar", name="b", size_bytes=10, etag="1")
    make_run(str(tmp_path / "run"), CLASSES, {SHARD: rows[:3], other: [rows[3], make_rejected_row("broken")]})
    for key, truth in truths.items():
        put_atomic(join_uri(str(tmp_path), "truth", f"{key}.png"), make_mask_png(truth))
    return tmp_path, rows, truths


def test_job_prints_and_writes_the_scores(published: tuple[Path, Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    folder, rows, truths = published
    flags = ["--labels", f"{folder}/run", "--truth", f"{folder}/truth", "--json", f"{folder}/scores.json"]
    assert main([*flags, "--html", f"{folder}/scores.html"]) == 0
    printed = capsys.readouterr().out
    scores = json.loads((folder / "scores.json").read_text())
    truth, mask = join_counted(truths.values(), [read_png(row["mask"]["bytes"]) for row in rows])
    expected = jaccard_score(truth, mask, labels=[0, 1, 2, 3], average=None)
    assert list(scores["masks"]["iou"].values()) == pytest.approx(expected)
    assert [point["threshold"] for point in scores["curve"]] == pytest.approx(np.arange(100) / 100)
    best = max(scores["curve"], key=lambda point: point["mean_iou"])
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    used = scores["masks"]
    dog = [used[name]["dog"] for name in ("iou", "precision", "recall", "boundary_f")]
    assert dog[1] == precision_score(truth, mask, labels=[2], average=None)
    assert lines["dog"] == [f"{value * 100:.2f}" for value in (*dog, best["iou"]["dog"])]
    assert (lines["mean"][0], lines["mean"][-1]) == (f"{expected.mean() * 100:.2f}", f"{best['mean_iou'] * 100:.2f}")
    assert "best for this truth: an oracle" in printed
    page = (folder / "scores.html").read_text()
    assert "The worst of 4 masks" in page
    assert page.count("<svg") == 1
    # Two of the worst and two of the best.
    ious = dict(re.findall(r"<h3>(\w+)</h3>.*?IoU with the truth</dt><dd>([\d.]+)", page, re.DOTALL))
    assert set(ious) == set(truths)
    # The caption is the figure of the order: the worst two from the lowest up, then the best two from the highest down.
    values = list(map(float, ious.values()))
    assert values == [*sorted(values)[:2], *sorted(values)[:1:-1]]
    assert "Rejected images" in page
    assert "4 images; 0 more without truth, 1 rejected" in printed


def test_job_names_the_classes_that_the_mean_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [make_labelled_row("a", np.ones((4, 4)), [1])]
    make_run(str(tmp_path / "run"), CLASSES, {SHARD: rows})
    put_atomic(str(tmp_path / "truth" / "a.png"), make_mask_png(np.ones((4, 4))))
    assert main(["--labels", f"{tmp_path}/run", "--truth", f"{tmp_path}/truth"]) == 0
    printed = capsys.readouterr().out
    assert "in no mask and no truth: background, dog, cow" in printed
    assert "no curve over thresholds: 1 images" in printed


def test_job_on_bad_input_prints_one_line_and_exits_with_2(
    published: tuple[Path, Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, _ = published
    put_atomic(str(folder / "other" / "z.png"), make_mask_png(np.zeros((4, 4))))
    put_atomic(str(folder / "ignored" / "photo0.png"), make_mask_png(np.full((24, 32), IGNORE_LABEL)))
    for labels, truth, message in [
        ("nowhere", "truth", "holds no labelling run"),
        ("run", "nowhere", "does not exist"),
        ("run", "nowhere.tar", "nowhere.tar"),
        ("run", "other", "no labelled image has a true mask"),
        ("run", "ignored", "ignores every pixel"),
    ]:
        assert main(["--labels", f"{folder}/{labels}", "--truth", f"{folder}/{truth}"]) == 2
        printed = capsys.readouterr().err.splitlines()
        assert [line.startswith("error: ") for line in printed] == [False] * (len(printed) - 1) + [True]
        assert message in printed[-1]


def write_run(folder: Path, truths: Mapping[str, Any], tags: Any = (1,)) -> list[str]:
    """Publish an image for each key and write its true mask, unless that is None; return the flags of the job."""
    rows = [make_labelled_row(key, np.ones((4, 6)), list(tags)) for key in truths]
    make_run(str(folder / "run"), CLASSES, {SHARD: rows})
    for key, truth in truths.items():
        payload = truth if isinstance(truth, bytes) else make_mask_png(np.broadcast_to(truth, (4, 6)))
        put_atomic(join_uri(str(folder), "truth", f"{key}.png"), payload)
    return ["--labels", f"{folder}/run", "--truth", f"{folder}/truth"]


def test_job_says_how_many_images_to_look_at_worst_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 40 masks 10 are bad; quality is lowest for them, but for the last two it is highest."""
    rows, truths = [], {}
    for number in range(40):
        row = make_labelled_row(f"a{number:02d}", np.ones((4, 6)), [1])
        rows.append(row | {"quality": number / 40 if number not in (8, 9) else 0.99})
        truths[row["key"]] = np.full((4, 6), 2 if number < 10 else 1)
    make_run(str(tmp_path / "run"), CLASSES, {SHARD: rows})
    for key, truth in truths.items():
        put_atomic(str(tmp_path / "truth" / f"{key}.png"), make_mask_png(truth))
    flags = ["--labels", f"{tmp_path}/run", "--truth", f"{tmp_path}/truth", "--json", f"{tmp_path}/s.json"]
    assert main([*flags, "--html", f"{tmp_path}/s.html"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "worst first by quality 8 20.00 random 30 74.55 best possible 8 20.00" in printed
    assert "Until 8 of the 10 masks with an IoU below 0.5 are found (80%)" in printed
    review = json.loads((tmp_path / "s.json").read_text())["review"]
    assert (review["num_images"], review["num_bad"], review["num_wanted"], review["by_quality"]) == (40, 10, 8, 8.0)
    assert "What reviewing takes" in (tmp_path / "s.html").read_text()


def test_job_with_few_unusable_truths_scores_the_others_and_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = np.array([0, 1, 1, 1, 0, 0], np.uint8)
    flags = write_run(tmp_path, {f"a{number:02d}": row for number in range(30)} | {"bad": b"no png at all"})
    assert main([*flags, "--json", f"{tmp_path}/s.json", "--html", f"{tmp_path}/s.html"]) == 0
    printed = capsys.readouterr()
    warning = next(line for line in printed.err.splitlines() if line.startswith("warning: "))
    assert "1 of 31 true masks cannot be used and are left out: true mask of 'bad' cannot be read: it is no" in warning
    assert "30 images; 0 more without truth, 0 rejected, 1 with a true mask that cannot be used" in printed.out
    scores = json.loads((tmp_path / "s.json").read_text())
    assert (scores["num_images"], scores["num_bad_truth"]) == (30, 1)
    assert "true mask of 'bad'" in scores["bad_truth"][0]
    page = (tmp_path / "s.html").read_text()
    assert "images whose true mask cannot be used" in page
    assert "true mask of &#39;bad&#39;" in page


def test_job_with_many_or_only_unusable_truths_exits_with_1_and_names_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = write_run(tmp_path / "many", {"a": np.uint8(1), "b": np.uint8(9), "c": b""})
    assert main(flags) == 1
    printed = capsys.readouterr()
    assert "2 of 3 true masks cannot be used, more than 5.0%; mend them or raise --max-bad-truth-fr" in printed.err
    assert "1 images" in printed.out
    assert main([*flags, "--max-bad-truth-fraction", "0.7"]) == 0
    flags = write_run(tmp_path / "all", {f"a{number}": np.uint8(9) for number in range(8)})
    capsys.readouterr()
    assert main(flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 8 of 8 true masks cannot be used")
    assert "and 5 more; none is left to score" in error


def test_job_on_binary_truth_warns_that_no_class_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = np.array([0, 255, 255, 255, 0, 0], np.uint8)
    assert main(write_run(tmp_path, {f"a{number}": binary for number in range(3)})) == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: "))
    assert "no class was found in any of the 3 true masks of images that carry tags" in warning
    assert "3 hold only 0 and 255" in warning
    assert "such as 1 for 'cat'" in warning


def test_job_on_truth_of_other_classes_than_the_tags_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write_run(tmp_path / "other", {f"a{number}": np.uint8(2) for number in range(3)})) == 0
    assert "3 of 3 true masks hold classes, but none that their image is tagged with" in capsys.readouterr().err
    assert main(write_run(tmp_path / "empty", {"a": np.uint8(1), "b": np.uint8(0), "c": np.uint8(0)})) == 0
    assert "no class was found in 2 of 3 true masks of images that carry tags" in capsys.readouterr().err
    mixed = {"a": np.uint8(1), "b": np.uint8(1), "c": np.uint8(2), "d": np.uint8(0)}
    assert main(write_run(tmp_path / "mixed", mixed)) == 0
    assert "warning" not in capsys.readouterr().err


def test_job_on_images_without_tags_does_not_warn_of_truth_without_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(write_run(tmp_path, {"a": np.uint8(0)}, tags=())) == 0
    assert "warning" not in capsys.readouterr().err


def test_job_counts_images_without_truth_and_truth_without_an_image(
    published: tuple[Path, Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, _ = published
    (folder / "truth" / "photo1.png").unlink()
    for key in ("stranger1", "stranger2", "broken"):
        put_atomic(str(folder / "truth" / f"{key}.png"), make_mask_png(np.ones((4, 4))))
    flags = ["--labels", f"{folder}/run", "--truth", f"{folder}/truth", "--json", f"{folder}/scores.json"]
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert "3 images; 1 more without truth, 1 rejected" in printed
    # The rejected sample `broken` is one of the run.
    assert "2 true masks belong to no image of this run, such as 'stranger" in printed
    scores = json.loads((folder / "scores.json").read_text())
    assert (scores["num_without_truth"], scores["num_truth_without_image"]) == (1, 2)


@pytest.mark.parametrize("words", [("--max-bad-truth-fraction", "1.5"), ("--num-threads", "0")])
def test_job_with_an_option_out_of_range_is_refused(words: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--labels", "l", "--truth", "t", *words]) == 2
    assert f"need {words[0]}" in capsys.readouterr().err
