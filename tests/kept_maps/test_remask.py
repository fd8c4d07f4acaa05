"""New masks of kept maps, against those that the model's own maps gave."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs import evaluate, report, verify
from jobs.remask import main
from pipeline.bundles import load_bundle
from pipeline.commit.manifests import list_manifests, open_manifest
from pipeline.errors import ManifestError, RunConflictError
from pipeline.images.drawing.grid_maps import TILE_PIXELS
from pipeline.images.masks import decode_mask
from pipeline.inputs.shards import list_shards
from pipeline.kept_maps.kept_run import open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.label import label_run
from pipeline.remask import remask_run
from pipeline.run.config import InputConfig, LabelConfig, MapConfig, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.records import InputShard, Reason
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import Vocabulary
from pipeline.storage.writing import put_atomic
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

OPTIONS = LabelOptions(gpus_per_actor=0.0, device="cpu", max_rejected_fraction=1.0)
FROM_MODEL = ("presence", "presence_std", "raw_peak", "view_agreement", "head_agreement")
NUM_PHOTOS = 7


def turn(payload: bytes) -> bytes:
    """Store a photo on its side, with an EXIF orientation that turns it upright again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photo = Image.open(io.BytesIO(payload)).transpose(Image.Transpose.ROTATE_90)
    photo.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards: photos of one and of two classes, one on its side, rejected ones, and a key that comes twice."""
    folder = tmp_path_factory.mktemp("inputs")
    tags = [["cat"], ["cat", "dog"], ["dog"], ["sunset"], ["dog", "cat"], ["cat"], ["cat"]]
    for shard in range(2):
        samples = {
            f"s{shard}/{index}": {
                "jpg": make_photo(20 * shard + index, size=(90 + 8 * index, 70)),
                "json": json.dumps({"tags": tags[index]}).encode(),
            }
            for index in range(NUM_PHOTOS)
        }
        samples[f"s{shard}/2"] = {"png": turn(samples[f"s{shard}/2"]["jpg"]), "json": samples[f"s{shard}/2"]["json"]}
        # Its tags stand apart: behind the next sample, in another chunk.
        apart = samples[f"s{shard}/5"].pop("json")
        samples[f"s{shard}/5"]["txt"] = b"cat"
        samples[f"s{shard}/6"]["txt"] = b"cat"
        make_tar(folder / f"photos-{shard}.tar", samples | {f"s{shard}/5.": {"json": apart}})
    save_small_model(str(folder / "model"))
    return folder


def label(inputs: Path, out_uri: Any, views: Any = ViewConfig(num_patches=30), **maps: Any) -> str:  # noqa: B008 (frozen)
    """Label the photos with the model; the URI of the run."""
    _, _, digest = load_bundle(str(inputs / "model"))
    run = open_run(
        out_uri=str(out_uri),
        model_uri=str(inputs / "model"),
        model_digest=digest,
        vocabulary=Vocabulary(classes=("cat", "dog")),
        config=LabelConfig(inputs=InputConfig(max_chunk_samples=3), views=views, maps=MapConfig(**maps)),
        shards=list_shards([str(inputs / "photos-*")]),
    )
    label_run(run, OPTIONS, cluster=SerialCluster())
    return str(out_uri)


@pytest.fixture(scope="module")
def kept_uri(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A labelling run that keeps its maps."""
    out_uri = tmp_path_factory.mktemp("kept")
    label(inputs, out_uri, keep_maps=True)
    return str(out_uri)


def remask(kept_uri: Path | str, out_uri: Any, **maps: Any) -> Any:
    """Make new masks in this process; returns what was done."""
    kept = open_kept_run(str(kept_uri))
    run = open_remask(str(out_uri), kept, replace(kept.config.maps, **maps))
    return remask_run(run, cluster=SerialCluster())


def read_rows(out_uri: Any) -> list[Any]:
    return [row for uri in list_manifests(str(out_uri)) for row in open_manifest(uri).iterate_rows()]


def test_same_thresholds_give_the_masks_and_statistics_of_the_model(kept_uri: str, tmp_path: Path) -> None:
    summary = remask(kept_uri, tmp_path)
    assert (summary.num_sealed, summary.failed_shards) == (2, {})
    wanted, made = read_rows(kept_uri), read_rows(tmp_path)
    assert [row["status"] for row in made].count("labelled") == 12
    assert 6 in {row["exif_orientation"] for row in made}
    for before, after in zip(wanted, made, strict=True):
        if before["status"] == "rejected":
            assert after == before
            continue
        old, new = decode_mask(before["mask"]["bytes"]), decode_mask(after["mask"]["bytes"])
        assert (old == new).mean() > 0.99
        for name in ("background_fraction", "margin_mean", "entropy_mean"):
            assert after[name] == pytest.approx(before[name], abs=0.02)
        untouched = {"key", "index", "status", "class_ids", "class_maps", "suggested_class_ids", "image_sha256"}
        assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
        for then, now in zip(before["classes"], after["classes"], strict=True):
            assert [now[name] for name in ("class_id", *FROM_MODEL)] == [
                then[name] for name in ("class_id", *FROM_MODEL)
            ]


@pytest.mark.parametrize(
    "maps",
    [
        {"background_threshold": 0.2, "foreground_threshold": 0.7},
        {"class_scales": (1.0, 0.5)},
        {"has_background": False},
        {"background_threshold": 0.1, "foreground_threshold": 0.1, "class_scales": (0.3, 1.0)},
    ],
)
def test_other_settings_give_what_labelling_with_them_gives(
    inputs: Path,
    kept_uri: str,
    tmp_path: Path,
    maps: dict[str, float | tuple[float, float] | bool],
) -> None:
    remask(kept_uri, tmp_path / "again", **maps)
    label(inputs, tmp_path / "labelled", **maps)
    differs, background = 0.0, []
    for wanted, made in zip(read_rows(tmp_path / "labelled"), read_rows(tmp_path / "again"), strict=True):
        assert (wanted["key"], wanted["status"], wanted["reason"]) == (made["key"], made["status"], made["reason"])
        if wanted["status"] == "labelled":
            background.append(made["background_fraction"])
            old, new = decode_mask(wanted["mask"]["bytes"]), decode_mask(made["mask"]["bytes"])
            assert (old == new).mean() > 0.98
            for then, now in zip(wanted["classes"], made["classes"], strict=True):
                for name in ("area_fraction", "confidence_mean", "stability"):
                    assert now[name] == pytest.approx(then[name], abs=0.05), name
    assert (max(background) == 0.0) == (maps.get("has_background") is False)
    for before, after in zip(read_rows(kept_uri), read_rows(tmp_path / "again"), strict=True):
        differs += before["mask"] != after["mask"]
    assert differs > 6


def test_masks_of_new_masks_are_masks_of_the_first(kept_uri: str, tmp_path: Path) -> None:
    remask(kept_uri, tmp_path / "high", background_threshold=0.8, foreground_threshold=0.8)
    remask(tmp_path / "high", tmp_path / "twice", background_threshold=0.2, foreground_threshold=0.3)
    remask(kept_uri, tmp_path / "once", background_threshold=0.2, foreground_threshold=0.3)
    assert read_rows(tmp_path / "twice") == read_rows(tmp_path / "once")


def test_mask_of_a_large_image_is_drawn_in_bands(tmp_path: Path) -> None:
    width, height = 2300, 1800
    assert width * height > 10 * TILE_PIXELS
    photo = {"jpg": make_photo(0, size=(width, height)), "json": json.dumps({"tags": ["cat"]}).encode()}
    make_tar(tmp_path / "photos-0.tar", {"huge": photo})
    save_small_model(str(tmp_path / "model"))
    label(tmp_path, tmp_path / "kept", keep_maps=True)
    remask(tmp_path / "kept", tmp_path / "out", foreground_threshold=0.6)
    (row,) = read_rows(tmp_path / "out")
    assert (row["height"], row["width"]) == (height, width)
    assert decode_mask(row["mask"]["bytes"]).shape == (height, width)
    for labels in ("kept", "out"):
        assert verify.main(["--labels", f"{tmp_path}/{labels}"]) == 0


def test_books_balance_and_everything_that_reads_a_run_reads_the_new_one(
    kept_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remask(kept_uri, tmp_path / "out", background_threshold=0.2, foreground_threshold=0.2)
    assert verify.main(["--labels", f"{tmp_path}/out"]) == 0
    for row in read_rows(tmp_path / "out"):
        if row["mask"]:
            put_atomic(f"{tmp_path}/truth/{row['key']}.png", make_mask_png(np.zeros((row["height"], row["width"]))))
    assert evaluate.main(["--labels", f"{tmp_path}/out", "--truth", f"{tmp_path}/truth"]) == 0
    assert report.main(["--labels", f"{tmp_path}/out", "--out", f"{tmp_path}/report.html"]) == 0
    assert "12 images; 0 more without truth" in capsys.readouterr().out


def test_rejected_rows_keep_their_reasons(kept_uri: str, tmp_path: Path) -> None:
    remask(kept_uri, tmp_path)
    reasons = [row["reason"] for row in read_rows(tmp_path) if row["status"] == "rejected"]
    assert reasons == [row["reason"] for row in read_rows(kept_uri) if row["status"] == "rejected"]
    assert set(reasons) == {Reason.NO_KNOWN_TAG, Reason.SPLIT_SAMPLE}


def test_same_command_does_nothing_and_another_is_refused(kept_uri: str, tmp_path: Path) -> None:
    remask(kept_uri, tmp_path)
    assert remask(kept_uri, tmp_path).num_chunks == 0
    with pytest.raises(RunConflictError, match="config.maps.foreground_threshold was 0.4, is 0.9"):
        remask(kept_uri, tmp_path, foreground_threshold=0.9)
    with pytest.raises(ValueError, match="need another --out than --labels"):
        remask(kept_uri, kept_uri)


def test_run_of_images_and_run_of_kept_maps_are_told_apart(inputs: Path, kept_uri: str, tmp_path: Path) -> None:
    remask(kept_uri, tmp_path)
    with pytest.raises(RunConflictError, match="its masks are made of kept maps, these of images"):
        label(inputs, tmp_path, keep_maps=True)


def test_source_that_changed_since_is_refused_and_named(inputs: Path, tmp_path: Path) -> None:
    label(inputs, tmp_path / "kept", keep_maps=True)
    kept = open_kept_run(str(tmp_path / "kept"))
    run = open_remask(str(tmp_path / "out"), kept, kept.config.maps)
    manifest = tmp_path / "kept" / "labels" / "photos-1.parquet"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    summary = remask_run(run, cluster=SerialCluster())
    assert list(summary.failed_shards) == ["photos-1"]
    assert "changed since it was listed" in summary.failed_shards["photos-1"]
    with pytest.raises(RunConflictError, match="shard 'labels/photos-1.parquet' changed"):
        remask(tmp_path / "kept", tmp_path / "out")


def test_shards_that_are_not_published_yet_are_left_out_and_counted(
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    label(inputs, tmp_path / "kept", keep_maps=True)
    (tmp_path / "kept" / "labels" / "photos-0.parquet").unlink()
    assert open_kept_run(str(tmp_path / "kept")).num_unpublished == 1
    assert main(["--labels", f"{tmp_path}/kept", "--out", f"{tmp_path}/out", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "1 shards of" in printed.err
    assert "1 shards: 0 published, 1 to do" in printed.out
    assert not (tmp_path / "out").exists()


def test_run_without_kept_maps_says_how_to_keep_them(
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    label(inputs, tmp_path / "plain")
    assert main(["--labels", f"{tmp_path}/plain", "--out", f"{tmp_path}/out"]) == 2
    assert "label with --maps.keep-maps" in capsys.readouterr().err


def test_run_of_a_refinement_that_this_version_does_not_know_is_refused(kept_uri: str, tmp_path: Path) -> None:
    record = json.loads(Path(kept_uri, "run.json").read_text())
    record["config"]["maps"]["pixel_refinement"] = "crf"
    put_atomic(f"{tmp_path}/run.json", json.dumps(record).encode())
    with pytest.raises(ManifestError, match="maps.pixel_refinement: .*crf.*; use the version of tagmask"):
        open_kept_run(str(tmp_path))


def test_run_of_a_version_with_other_fields_is_refused(kept_uri: str, tmp_path: Path) -> None:
    record = json.loads(Path(kept_uri, "run.json").read_text())
    record["config"]["maps"]["magic"] = 3
    put_atomic(f"{tmp_path}/run.json", json.dumps(record).encode())
    with pytest.raises(ManifestError, match="magic.*use the version of tagmask that wrote it"):
        open_kept_run(str(tmp_path))


@pytest.mark.parametrize(("num_maps", "message"), [(None, "has no class maps"), (1, "has 1 class maps for 2 classes")])
def test_row_without_its_maps_fails_its_shard_and_no_other(tmp_path: Path, num_maps: int | None, message: str) -> None:
    maps = None if num_maps is None else np.random.default_rng(0).random((num_maps, 3, 4))
    whole = np.random.default_rng(1).random((2, 3, 4))
    shards = {
        InputShard(uri=f"in/{name}.tar", name=name, size_bytes=9, etag="e"): [
            make_labelled_row("a", np.zeros((30, 40)), [1, 2], kept),
            make_rejected_row("b"),
        ]
        for name, kept in (("photos-0", maps), ("photos-1", whole))
    }
    make_run(str(tmp_path / "kept"), ("cat", "dog"), shards, LabelConfig(maps=MapConfig(keep_maps=True)))
    summary = remask(tmp_path / "kept", tmp_path / "out")
    assert list(summary.failed_shards) == ["photos-0"]
    assert message in summary.failed_shards["photos-0"]
    assert summary.num_sealed == 1


def test_only_one_threshold_that_does_not_fit_the_other_is_refused(
    kept_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--labels", kept_uri, "--out", f"{tmp_path}/out", "--maps.background-threshold", "0.9"]
    assert main(flags) == 2
    assert "background_threshold <= foreground_threshold" in capsys.readouterr().err


def test_scales_for_another_number_of_classes_are_refused(kept_uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class_scales for each of 2 classes, got 3"):
        remask(kept_uri, tmp_path, class_scales=(1.0, 1.0, 0.5))


def test_row_of_maps_that_are_not_finite_is_rejected_and_no_other(tmp_path: Path) -> None:
    """As versions published them that did not look at what the model gave."""
    maps = np.random.default_rng(0).random((1, 4, 4))
    mask = np.ones((32, 32), dtype=np.uint8)
    rows = [make_labelled_row(f"k{i}", mask, (1,), maps) for i in range(3)]
    rows[0]["class_maps"]["scales"] = [float("nan")]
    rows[2]["classes"][0]["presence"] = float("inf")
    shard = InputShard(uri="photos.tar", name="photos", size_bytes=1024, etag="e")
    labels = str(tmp_path / "labelled")
    make_run(labels, ("cat",), {shard: rows}, LabelConfig(maps=MapConfig(keep_maps=True)))
    kept = open_kept_run(labels)
    run = open_remask(str(tmp_path / "out"), kept, replace(kept.config.maps, background_threshold=0.2))
    remask_run(run, cluster=SerialCluster())
    (manifest,) = list_manifests(run.out_uri)
    found = list(open_manifest(manifest).iterate_rows())
    assert [(row["key"], row["status"], row["reason"]) for row in found] == [
        ("k0", "rejected", "not_finite"),
        ("k1", "labelled", None),
        ("k2", "rejected", "not_finite"),
    ]
    assert [row["mask"] is None for row in found] == [True, False, True]
