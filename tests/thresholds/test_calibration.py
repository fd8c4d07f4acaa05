"""Thresholds found with and without true masks, and the calibration that stores them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from jobs import evaluate, label, remask
from jobs.calibrate import main
from jobs.execution.remask import choose_maps
from jobs.qualities import balanced
from pipeline.bundles import load_bundle
from pipeline.commit.manifests import open_manifest
from pipeline.errors import CalibrationError
from pipeline.evaluation.truth import open_truth
from pipeline.images.masks import decode_mask
from pipeline.kept_maps.kept_run import open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.remask import remask_run
from pipeline.run.config import InputConfig, LabelConfig, MapConfig, MapKind, ViewConfig, settle_config
from pipeline.run.records import InputShard
from pipeline.storage.writing import put_atomic
from pipeline.thresholds.calibration import (
    Calibration,
    describe_maps,
    encode_calibration,
    load_calibration,
    use_calibration,
)
from pipeline.thresholds.choice import choose_threshold, count_values, find_band
from pipeline.thresholds.fit import make_table, score_thresholds, to_scales
from pipeline.thresholds.samples import read_samples
from tests.factories import (
    make_labelled_row,
    make_mask_png,
    make_photo,
    make_rejected_row,
    make_run,
    make_tar,
    save_small_model,
)
from tests.fakes import SerialCluster

CLASSES = ("cat", "dog")
OWN = {1: 0.3, 2: 0.7}
"""Threshold of each class at which its maps match its true objects: maps of cats are weak, those of dogs too large."""
SHARD = InputShard(uri="photos/a.tar", name="a", size_bytes=10, etag="1")


def make_hill(rng: np.random.Generator, size: Any) -> Any:
    """Map that falls from 1 to 0 around a random place, on a patch grid."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    top = rng.uniform(0.2, 0.8, 2) * size
    distance = np.hypot(rows - top[0], columns - top[1])
    return 1 - distance / distance.max()


def make_collection(folder: Path, num_images: int = 48, **maps: Any) -> None:
    """Publish a run with kept maps, and the truth that follows from its maps at the thresholds `OWN`."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(num_images):
        class_ids = [(1,), (2,), (1, 2)][number % 3]
        hills = np.stack([make_hill(rng, (8, 10)) for _ in class_ids])
        size = (40, 50) if number % 2 else (48, 36)
        row = make_labelled_row(
            f"photo{number}", np.zeros(size), class_ids, hills, exif_orientation=6 if number == 5 else 1
        )
        rows.append(row)
    rows.append(make_rejected_row("broken"))
    config = LabelConfig(maps=MapConfig(keep_maps=True, **maps))
    make_run(f"{folder}/run", CLASSES, {SHARD: rows}, config)
    scales = tuple(min(OWN.values()) / OWN[n] for n in (1, 2))
    kept = open_kept_run(f"{folder}/run")
    own = replace(kept.config.maps, background_threshold=0.3, foreground_threshold=0.3, class_scales=scales)
    remask_run(open_remask(f"{folder}/own", kept, own), cluster=SerialCluster())
    for row in open_manifest(f"{folder}/own/labels/a.parquet").iterate_rows():
        if row["mask"]:
            put_atomic(f"{folder}/truth/{row['key']}.png", row["mask"]["bytes"])


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a run (`run`), its truth (`truth`), and the masks that are the truth (`own`)."""
    folder = tmp_path_factory.mktemp("collection")
    make_collection(folder)
    return folder


def calibrate(folder: Path, *flags: Any, check: int = 0) -> str:
    assert main(["--labels", f"{folder}/run", "--out", f"{folder}/calibration.json", *flags]) == check
    return f"{folder}/calibration.json"


def test_fit_finds_the_thresholds_that_made_the_truth(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = calibrate(collection, "--truth", f"{collection}/truth")
    printed = capsys.readouterr().out
    found = load_calibration(uri)
    assert found.uses_truth
    own = [found.foreground_threshold / scale for scale in found.class_scales]
    assert own == pytest.approx([0.3, 0.7], abs=0.04)
    scores = found.figures["mean_iou"]
    assert scores["a threshold a class, fitted"]["held_out"] > 0.95
    assert scores["a threshold a class, fitted"]["held_out"] > scores["one threshold, fitted"]["held_out"] + 0.05
    assert (found.figures["num_fitted"], found.figures["num_held_out"]) == (24, 24)
    assert f"on their own maps, classes above: cat {own[0]:.3f}, dog {own[1]:.3f}" in printed

    flags = ["--labels", f"{collection}/run", "--truth", f"{collection}/truth"]
    assert evaluate.main([*flags, "--json", f"{tmp_path}/before.json"]) == 0
    kept = open_kept_run(f"{collection}/run")
    maps = choose_maps(remask.RemaskJob(labels="", out="", calibration=uri), kept)
    remask_run(open_remask(f"{tmp_path}/out", kept, maps), cluster=SerialCluster())
    flags[1] = f"{tmp_path}/out"
    assert evaluate.main([*flags, "--json", f"{tmp_path}/after.json"]) == 0
    after = json.loads((tmp_path / "after.json").read_text())
    assert after["masks"]["mean_iou"] > 0.95
    # The curve is over the same maps: at the threshold used it is what the masks are.
    at = round(found.foreground_threshold * 100)
    assert after["curve"][at]["mean_iou"] == pytest.approx(after["masks"]["mean_iou"], abs=0.03)


def test_fit_leaves_out_true_masks_that_cannot_be_used_and_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_collection(tmp_path)
    put_atomic(f"{tmp_path}/truth/photo3.png", b"no picture")
    put_atomic(f"{tmp_path}/truth/photo7.png", make_mask_png(np.full((40, 50), 9)))
    found = load_calibration(calibrate(tmp_path, "--truth", f"{tmp_path}/truth"))
    assert (found.figures["num_fitted"], found.figures["num_held_out"]) == (23, 23)
    printed = capsys.readouterr().err
    assert "2 true masks cannot be used and are left out: true mask of 'photo3'" in printed
    assert "true mask of 'photo7' has classes [9]" in printed


def test_one_threshold_for_all_is_fitted_on_demand(collection: Path) -> None:
    found = load_calibration(calibrate(collection, "--truth", f"{collection}/truth", "--no-by-class"))
    assert found.class_scales is None
    assert 0.3 <= found.foreground_threshold <= 0.7


def test_which_images_are_fitted_on_is_drawn_from_the_seed(collection: Path) -> None:
    def fit(seed: Any) -> Any:
        uri = calibrate(collection, "--truth", f"{collection}/truth", "--rng-seed", str(seed))
        return load_calibration(uri).figures["mean_iou"]

    assert fit(1) == fit(1)
    assert fit(1) != fit(2)


def test_counted_pixels_are_those_of_the_masks(collection: Path) -> None:
    """Compared with masks of jobs.remask, scored by scikit-learn on all pixels."""
    samples = read_samples(f"{collection}/run/labels/a.parquet", open_truth(f"{collection}/truth"), 2, 100)
    thresholds = np.array([0.5, 0.4])
    threshold, scales = to_scales(thresholds)
    kept = open_kept_run(f"{collection}/run")
    maps = replace(
        kept.config.maps, background_threshold=threshold, foreground_threshold=threshold, class_scales=scales
    )
    remask_run(open_remask(f"{collection}/again", kept, maps), cluster=SerialCluster())
    rows = [row for row in open_manifest(f"{collection}/again/labels/a.parquet").iterate_rows() if row["mask"]]
    truth = [decode_mask(open_truth(f"{collection}/truth")(row["key"])).ravel() for row in rows]
    masks = [decode_mask(row["mask"]["bytes"]).ravel() for row in rows]
    expected = jaccard_score(np.concatenate(truth), np.concatenate(masks), average="macro")
    assert score_thresholds(make_table(samples, 2), thresholds) == pytest.approx(expected, abs=0.002)


def test_threshold_without_truth_is_stored_with_its_method(
    collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = load_calibration(calibrate(collection))
    assert (found.uses_truth, found.class_scales) == (False, None)
    assert "without truth" in found.method
    assert found.background_threshold == found.foreground_threshold
    samples = read_samples(f"{collection}/run/labels/a.parquet", None, 2, 100)
    assert len(samples) == 48
    assert len(read_samples(f"{collection}/run/labels/a.parquet", None, 2, 5)) == 5
    assert found.foreground_threshold == choose_threshold([count_values(sample) for sample in samples])
    assert found.figures == {"num_images": 48}


def test_band_is_as_wide_as_the_wanted_stability_allows(collection: Path) -> None:
    samples = read_samples(f"{collection}/run/labels/a.parquet", None, 2, 100)
    histograms = [count_values(sample) for sample in samples]
    found = load_calibration(calibrate(collection, "--min-stability", "0.7"))
    low, high = found.background_threshold, found.foreground_threshold
    assert low < high
    areas = [
        np.mean([(sample.maps.max(0) > t).mean() for sample in samples]) for t in (low, high, low - 0.01, high + 0.01)
    ]
    assert areas[1] / areas[0] >= 0.69
    assert areas[3] / areas[2] < 0.71
    assert find_band(histograms, 0.5, 1.0) == (0.5, 0.5)
    assert "band of stability 0.7" in found.method


@pytest.mark.parametrize("maps", [{"kind": MapKind.PATCH_CAM}, {"refine": False}, {"num_attention_layers": 2}])
def test_calibration_for_other_maps_is_refused_with_what_differs(collection: Path, maps: Any) -> None:
    uri = calibrate(collection)
    kept = open_kept_run(f"{collection}/run")
    config = replace(kept.config, maps=replace(kept.config.maps, **maps))
    (name,) = maps
    with pytest.raises(CalibrationError, match=f"made for other class maps: maps.{name} was"):
        use_calibration(uri, describe_maps(kept.model_digest, CLASSES, config))


def test_calibration_for_another_model_views_or_classes_is_refused(collection: Path) -> None:
    uri = calibrate(collection)
    kept = open_kept_run(f"{collection}/run")
    for digest, classes, config, message in [
        ("0" * 64, CLASSES, kept.config, "model_digest was 'ddd"),
        (kept.model_digest, ("dog", "cat"), kept.config, "classes was"),
        (kept.model_digest, CLASSES, replace(kept.config, views=ViewConfig(flip=False)), "views.flip was True"),
    ]:
        with pytest.raises(CalibrationError, match=message):
            use_calibration(uri, describe_maps(digest, classes, config))


def test_calibration_fits_runs_that_differ_in_what_leaves_maps_as_they_are(collection: Path) -> None:
    uri = calibrate(collection)
    kept = open_kept_run(f"{collection}/run")
    maps = replace(kept.config.maps, background_threshold=0.1, suggestion_threshold=0.9, keep_maps=False)
    config = replace(kept.config, maps=maps, inputs=InputConfig(max_chunk_samples=3))
    found = use_calibration(uri, describe_maps(kept.model_digest, CLASSES, config))
    assert found.apply(maps) == replace(
        maps, background_threshold=found.background_threshold, foreground_threshold=found.foreground_threshold
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(version=9), "it has version 9, this is version 1"),
        (lambda fields: fields["maps"].update(model_digest="0"), "was it edited"),
        (lambda fields: fields.update(background_threshold=0.99, foreground_threshold=0.1), "background_threshold"),
        (lambda fields: fields.pop("method"), "method"),
        (lambda fields: fields.clear(), "version"),
    ],
)
def test_damaged_calibration_is_named(collection: Path, tmp_path: Path, change: Any, message: str) -> None:
    with open(calibrate(collection)) as file:  # noqa: PTH123 (a URI)
        fields = json.load(file)
    change(fields)
    (tmp_path / "edited.json").write_text(json.dumps(fields))
    with pytest.raises(CalibrationError, match=f"edited.json' is no usable calibration: .*{message}"):
        load_calibration(str(tmp_path / "edited.json"))


def test_job_on_bad_input_prints_one_line_and_exits_with_2(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_atomic(f"{tmp_path}/other/z.png", make_mask_png(np.zeros((4, 4))))
    for name in range(3):
        put_atomic(f"{tmp_path}/few/photo{name}.png", (collection / "truth" / f"photo{name}.png").read_bytes())
    for flags, message in [
        (["--truth", f"{tmp_path}/other"], "has no labelled image with a true mask in"),
        (["--truth", f"{tmp_path}/few"], "2 images to fit thresholds on are too few"),
        (["--truth", f"{tmp_path}/nowhere"], "does not exist"),
    ]:
        calibrate(collection, *flags, check=2)
        assert message in capsys.readouterr().err.splitlines()[-1]
    for flags in (["--fit-share", "0"], ["--min-stability", "1.5"], ["--max-images", "0"]):
        calibrate(collection, *flags, check=2)
        assert f"need 0 < {flags[0]} <= 1" in (err := capsys.readouterr().err) or "need --max-images" in err
    clash = [
        "--labels",
        f"{collection}/run",
        "--out",
        f"{tmp_path}/out",
        "--calibration",
        f"{collection}/calibration.json",
    ]
    assert remask.main([*clash, "--maps.background-threshold", "0.3"]) == 2
    assert "--calibration sets the thresholds" in capsys.readouterr().err


def test_label_job_takes_thresholds_from_a_calibration_of_its_own_maps_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_small_model(f"{tmp_path}/model")
    _, _, digest = load_bundle(f"{tmp_path}/model")
    make_tar(tmp_path / "photos.tar", {"a": {"jpg": make_photo(0), "txt": b"cat"}})
    put_atomic(f"{tmp_path}/vocabulary.json", json.dumps({"classes": CLASSES}).encode())
    calibration = Calibration(
        background_threshold=0.21,
        foreground_threshold=0.37,
        class_scales=(1.0, 0.5),
        maps=describe_maps(digest, CLASSES, settle_config(balanced(), grid_side=2)),
        method="made by a test",
        uses_truth=False,
        figures={},
    )
    put_atomic(f"{tmp_path}/calibration.json", encode_calibration(calibration))
    flags = ["--shards", f"{tmp_path}/photos.tar", "--model", f"{tmp_path}/model", "--out", f"{tmp_path}/out"]
    flags += [
        "--vocabulary",
        f"{tmp_path}/vocabulary.json",
        "--calibration",
        f"{tmp_path}/calibration.json",
        "--dry-run",
    ]
    assert label.main(flags) == 0
    printed = capsys.readouterr().out
    assert "background_threshold: 0.21" in printed
    assert "foreground_threshold: 0.37" in printed
    assert "class_scales: [1.0, 0.5]" in printed
    assert label.main([*flags, "--views.no-flip"]) == 2
    assert "views.flip was True, is False" in capsys.readouterr().err
    assert label.main([*flags, "--maps.foreground-threshold", "0.7"]) == 2
    assert "--calibration sets the thresholds" in capsys.readouterr().err
