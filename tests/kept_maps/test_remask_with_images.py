"""New masks of kept maps that the pixels of the images refine: the images are read again from the shards."""

import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import calibrate, remask, verify
from pipeline.commit.manifests import open_manifest
from pipeline.driver.stop import Stop
from pipeline.driver.waves import Hooks
from pipeline.errors import BundleError
from pipeline.images.drawing.draw import choose_lattice
from pipeline.images.masks import decode_mask
from pipeline.kept_maps.kept_run import open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.remask import remask_run
from pipeline.run.config import PixelRefinement, Resolution, ViewConfig
from pipeline.storage.writing import put_atomic
from pipeline.thresholds.calibration import load_calibration
from pipeline.thresholds.samples import ImageSource, read_samples
from tests.factories import make_mask_png, make_parquet, make_photo, make_tar, save_small_model
from tests.fakes import SerialCluster
from tests.kept_maps.test_remask import label, read_rows
from tests.kept_maps.test_remask import remask as make_masks

PAR = {"pixel_refinement": PixelRefinement.PAR, "pixel_side_px": 64, "pixel_iterations": 4}
TAGS = [["cat"], ["cat", "dog"], ["dog"], ["sunset"], ["dog", "cat"], ["cat"], ["cat"]]


def make_samples(number: int) -> dict[str, dict[str, Any]]:
    """Make the samples of a shard. One is rejected; the last is so large that its JPEG is decoded at a reduced size."""
    sizes = [(90 + 8 * index, 70) for index in range(len(TAGS) - 1)] + [(480, 400)]
    return {
        f"s{number}/{index}": {
            "jpg": make_photo(20 * number + index, size=sizes[index]),
            "json": json.dumps({"tags": tags}).encode(),
        }
        for index, tags in enumerate(TAGS)
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tars, a Parquet file and a model."""
    folder = tmp_path_factory.mktemp("inputs")
    for number in range(2):
        make_tar(folder / f"photos-{number}.tar", make_samples(number))
    samples = make_samples(2)
    columns = {
        "key": list(samples),
        "image": [members["jpg"] for members in samples.values()],
        "tags": TAGS,
    }
    make_parquet(folder / "photos-2.parquet", columns, row_group_size=2)
    save_small_model(str(folder / "model"))
    return folder


def compare_masks(before_uri: Path | str, after_uri: Path | str) -> list[Any]:
    """Give the share of equal pixels of each labelled photo; keys and statuses have to be the same."""
    shares = []
    for before, after in zip(read_rows(before_uri), read_rows(after_uri), strict=True):
        assert (before["key"], before["status"]) == (after["key"], after["status"])
        if before["mask"]:
            old, new = decode_mask(before["mask"]["bytes"]), decode_mask(after["mask"]["bytes"])
            shares.append((old == new).mean())
    return shares


@pytest.fixture(scope="module")
def refined_uri(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A labelling run that keeps its maps and refines them by pixels."""
    return label(inputs, tmp_path_factory.mktemp("refined"), keep_maps=True, **PAR)


@pytest.fixture(scope="module")
def plain_uri(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same run without refinement by pixels."""
    return label(inputs, tmp_path_factory.mktemp("plain"), keep_maps=True)


def test_unchanged_settings_give_the_masks_of_labelling(refined_uri: Any, tmp_path: Path) -> None:
    summary = make_masks(refined_uri, tmp_path)
    assert (summary.num_sealed, summary.failed_shards) == (3, {})
    shares = compare_masks(refined_uri, tmp_path)
    assert len(shares) == 18
    assert min(shares) > 0.99
    for before, after in zip(read_rows(refined_uri), read_rows(tmp_path), strict=True):
        assert after["class_maps"] == before["class_maps"]
        assert after["margin_mean"] == (before["margin_mean"] and pytest.approx(before["margin_mean"], abs=0.02))


@pytest.mark.parametrize("resolution", list(Resolution))
def test_run_without_refinement_gets_the_masks_of_labelling_with_it(
    inputs: Path, tmp_path: Path, resolution: Any
) -> None:
    views = ViewConfig(num_patches=30, resolution=resolution)
    kept_uri = label(inputs, tmp_path / "plain", views, keep_maps=True)
    make_masks(kept_uri, tmp_path / "again", **PAR)
    label(inputs, tmp_path / "labelled", views, **PAR)
    assert min(compare_masks(tmp_path / "labelled", tmp_path / "again")) > 0.99
    assert max(compare_masks(kept_uri, tmp_path / "again")) < 1


def test_refinement_can_be_taken_away_and_no_image_or_model_is_needed_then(
    inputs: Path, refined_uri: Any, plain_uri: Any, tmp_path: Path
) -> None:
    for name in ("photos-0.tar", "photos-1.tar", "photos-2.parquet", "model"):
        (inputs / name).rename(inputs / f"away-{name}")
    try:
        make_masks(refined_uri, tmp_path / "from_refined", pixel_refinement=PixelRefinement.NONE)
        assert make_masks(plain_uri, tmp_path / "from_plain").num_sealed == 3
    finally:
        for name in ("photos-0.tar", "photos-1.tar", "photos-2.parquet", "model"):
            (inputs / f"away-{name}").rename(inputs / name)
    assert [row["mask"] for row in read_rows(tmp_path / "from_refined")] == [
        row["mask"] for row in read_rows(tmp_path / "from_plain")
    ]


def test_views_of_several_sizes_are_joined_on_the_grid_of_the_first(inputs: Path, tmp_path: Path) -> None:
    views = ViewConfig(num_patches=30, scales=(1.0, 1.5))
    kept_uri = label(inputs, tmp_path / "kept", views, keep_maps=True, **PAR)
    make_masks(kept_uri, tmp_path / "again")
    assert 0.9 < min(compare_masks(kept_uri, tmp_path / "again")) < 1


def copy_inputs(inputs: Path, folder: Path) -> Any:
    """Copy shards and model to a folder of their own, where they may be damaged; and label them there."""
    for name in ("photos-0.tar", "photos-1.tar", "photos-2.parquet", "model"):
        copy = shutil.copytree if name == "model" else shutil.copy2
        copy(inputs / name, folder / name)
    return label(folder, folder / "kept", keep_maps=True, **PAR)


def rewrite_tar(path: Path, change: Any) -> None:
    """Write a tar again with what `change` makes of its members, a list of names and payloads."""
    with tarfile.open(path) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    samples: dict[Any, Any] = {}
    for name, payload in change(members):
        key, suffix = name.rsplit(".", 1)
        samples.setdefault(key, {})[suffix] = payload
    make_tar(path, samples)


def swap_photos(members: Any) -> list[Any]:
    """Give the first two photos each other's pixels."""
    (first, payload), tags, (second, other), *rest = members
    return [(first, other), tags, (second, payload), *rest]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.unlink(),
            "does not exist; it was there when it was listed; kept maps are refined by the pixels",
        ),
        (lambda path: rewrite_tar(path, lambda members: members[2:]), "changed since it was listed"),
    ],
)
def test_shard_that_is_gone_or_changed_fails_by_name_and_no_other(
    inputs: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    kept_uri = copy_inputs(inputs, tmp_path)
    damage(tmp_path / "photos-1.tar")
    summary = make_masks(kept_uri, tmp_path / "out", foreground_threshold=0.8)
    assert list(summary.failed_shards) == ["photos-1"]
    assert f"shard '{tmp_path}/photos-1.tar' {message}" in summary.failed_shards["photos-1"]
    assert "put the shard back as it was" in summary.failed_shards["photos-1"]
    assert summary.num_sealed == 2
    assert not (tmp_path / "out" / "labels" / "photos-1.parquet").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members[:6] + members[8:], "lacks key 's1/3' in chunk 1"),
        (lambda members: members[:-8], "ends before all 3 chunks"),
        (lambda members: members[2:4] + members[:2] + members[4:], "has its samples in another order"),
        (swap_photos, "the image of key 's1/0' is not the one that was labelled"),
    ],
)
def test_shard_that_looks_the_same_and_holds_other_samples_fails_by_key(
    inputs: Path, tmp_path: Path, change: Any, message: str
) -> None:
    """By its size and time of change; as behind a copy that keeps times."""
    kept_uri = copy_inputs(inputs, tmp_path)
    path = tmp_path / "photos-1.tar"
    before = path.stat()
    rewrite_tar(path, change)
    assert path.stat().st_size <= before.st_size
    # An archive ends in zeros, as many as one likes.
    os.truncate(path, before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    summary = make_masks(kept_uri, tmp_path / "out")
    assert list(summary.failed_shards) == ["photos-1"]
    assert message in summary.failed_shards["photos-1"]


def test_stopped_run_goes_on_and_leaves_the_bytes_of_a_calm_one(refined_uri: Any, tmp_path: Path) -> None:
    make_masks(refined_uri, tmp_path / "calm", foreground_threshold=0.8)
    kept = open_kept_run(refined_uri)
    run = open_remask(str(tmp_path / "out"), kept, replace(kept.config.maps, foreground_threshold=0.8))
    # Stopped behind the first chunk of the second shard.
    stop, num_first = Stop(grace_s=0.0), pq.read_metadata(tmp_path / "calm" / "labels" / "photos-0.parquet").num_rows
    hooks = Hooks(on_progress=lambda done: done.counts.num_read > num_first and stop.request(), stop=stop)
    remask_run(run, hooks=hooks, cluster=SerialCluster())
    cluster = SerialCluster()
    remask_run(run, cluster=cluster)
    assert len(cluster.labelled) == 9 - 4
    for number in range(3):
        name = f"labels/photos-{number}.parquet"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    assert verify.main(["--labels", f"{tmp_path}/out"]) == 0


def test_model_that_is_gone_or_another_is_named(inputs: Path, tmp_path: Path) -> None:
    kept_uri = copy_inputs(inputs, tmp_path)
    description = tmp_path / "model" / "model.json"
    text = description.read_text()
    description.write_text(text.replace('"backbone": ""', '"backbone": "another"'))
    with pytest.raises(BundleError, match="is not the model that made the kept maps; pixel refinement .* put it back"):
        make_masks(kept_uri, tmp_path / "out")
    description.unlink()
    with pytest.raises(BundleError, match="is no model bundle: .* put it back"):
        make_masks(kept_uri, tmp_path / "out")


def test_samples_for_calibration_are_the_maps_that_masks_are_made_of(refined_uri: Any, tmp_path: Path) -> None:
    make_masks(refined_uri, tmp_path, background_threshold=0.5, foreground_threshold=0.5)
    kept = open_kept_run(refined_uri)
    for number, shard in enumerate(kept.shards):
        source = ImageSource(shard=shard, config=kept.config, patch_size=16)
        samples = read_samples(f"{refined_uri}/labels/photos-{number}.parquet", None, 2, 100, source)
        rows = open_manifest(f"{tmp_path}/labels/photos-{number}.parquet").iterate_rows()
        for sample, row in zip(samples, [row for row in rows if row["mask"]], strict=True):
            places = choose_lattice((row["height"], row["width"]), 96)
            mask = decode_mask(row["mask"]["bytes"])[np.ix_(*places)].ravel()
            assert np.array_equal(sample.maps.max(0) > 0.5, mask > 0)
        few = read_samples(f"{refined_uri}/labels/photos-{number}.parquet", None, 2, 2, source)
        assert [one.maps.tobytes() for one in few] == [samples[index].maps.tobytes() for index in (0, 3)]


def test_calibration_reads_the_images_and_fits_only_runs_refined_alike(
    inputs: Path, refined_uri: Any, plain_uri: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in read_rows(refined_uri):
        if row["mask"]:
            put_atomic(f"{tmp_path}/truth/{row['key']}.png", make_mask_png(decode_mask(row["mask"]["bytes"])))
    flags = ["--labels", refined_uri, "--out", f"{tmp_path}/calibration.json"]
    assert calibrate.main([*flags, "--truth", f"{tmp_path}/truth", "--fit-share", "0.6"]) == 0
    found = load_calibration(f"{tmp_path}/calibration.json")
    assert found.maps["maps"]["pixel_refinement"] == "par"
    # The truth is what the maps give at 0.4.
    assert found.figures["mean_iou"]["one threshold, fitted"]["fitted"] > 0.97
    assert calibrate.main(flags) == 0

    again = ["--labels", plain_uri, "--out", f"{tmp_path}/out", "--calibration", f"{tmp_path}/calibration.json"]
    assert remask.main([*again, "--dry-run"]) == 2
    assert "maps.pixel_refinement was 'par', is 'none'" in capsys.readouterr().err
    again += ["--maps.pixel-refinement", "par", "--maps.pixel-side-px", "64", "--maps.pixel-iterations", "4"]
    assert remask.main([*again, "--dry-run"]) == 0


def test_calibration_of_refined_maps_without_their_shard_says_what_to_do(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept_uri = copy_inputs(inputs, tmp_path)
    (tmp_path / "photos-2.parquet").unlink()
    assert calibrate.main(["--labels", kept_uri, "--out", f"{tmp_path}/calibration.json"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "photos-2.parquet' does not exist" in said
    assert "put the shard back as it was" in said
