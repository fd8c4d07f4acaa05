"""`python -m jobs.remask` as a user runs it, on a real local Ray."""

from pathlib import Path

import numpy as np
import pytest

from jobs.remask import main
from jobs.verify import main as verify
from pipeline.bundles import load_bundle
from pipeline.commit.manifests import open_manifest
from pipeline.inputs.shards import list_shards
from pipeline.kept_maps.kept_run import open_kept_run
from pipeline.kept_maps.new_run import open_remask
from pipeline.label import label_run
from pipeline.remask import remask_run
from pipeline.run.config import InputConfig, LabelConfig, MapConfig, PixelRefinement, ViewConfig
from pipeline.run.options import LabelOptions
from pipeline.run.run_file import open_run
from pipeline.run.vocabulary import Vocabulary
from tests.factories import (
    make_black_photo,
    make_labelled_row,
    make_photo,
    make_rejected_row,
    make_run,
    make_tar,
    save_small_model,
)
from tests.fakes import SerialCluster

pytestmark = pytest.mark.ray


def test_remask_job_gives_the_bytes_of_the_steps_without_ray_and_goes_on(
    local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    rows, photo = {}, make_black_photo((30, 40))
    for number in range(3):
        keys = [f"{number}/photo{i}" for i in range(5)]
        path = make_tar(tmp_path / "inputs" / f"{number:05d}.tar", {key: {"png": photo} for key in keys})
        (shard,) = list_shards([str(path)])
        maps = rng.random((4, 2, 4, 3))
        kept = [
            make_labelled_row(key, np.zeros((40, 30)), [1, 2], of_key, photo=photo)
            for key, of_key in zip(keys[1:], maps, strict=True)
        ]
        rows[shard] = [make_rejected_row(keys[0]), *kept]
    make_run(str(tmp_path / "kept"), ["cat", "dog"], rows, LabelConfig(maps=MapConfig(keep_maps=True)))

    flags = ["--labels", f"{tmp_path}/kept", "--out", f"{tmp_path}/out", "--maps.foreground-threshold", "0.6"]
    assert main([*flags, "--limit", "1"]) == 0
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir()] == ["00000.parquet"]
    assert main(flags) == 0
    assert "labelled 8 and rejected 2 of 10 images" in capsys.readouterr().out
    assert verify(["--labels", f"{tmp_path}/out"]) == 0

    source = open_kept_run(f"{tmp_path}/kept")
    maps = MapConfig(keep_maps=True, foreground_threshold=0.6)
    remask_run(open_remask(f"{tmp_path}/serial", source, maps), cluster=SerialCluster())
    for number in range(3):
        name = f"labels/{number:05d}.parquet"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "serial" / name).read_bytes()
    assert any(row["ignore_fraction"] for row in open_manifest(f"{tmp_path}/out/labels/00000.parquet").iterate_rows())

    # What one manifest lacks fails that shard, and the job says so.
    maps_gone = dict(list(rows.items())[:1])
    maps_gone[next(iter(maps_gone))] = [make_labelled_row("0/photo0", np.zeros((4, 4)), [1])]
    make_run(str(tmp_path / "bare"), ["cat", "dog"], maps_gone, LabelConfig(maps=MapConfig(keep_maps=True)))
    assert main(["--labels", f"{tmp_path}/bare", "--out", f"{tmp_path}/none"]) == 1
    assert "row '0/photo0' has no class maps" in capsys.readouterr().err

    # Nothing labelled is no success: neither now, nor when the command is repeated.
    nothing = {shard: [make_rejected_row("0/photo0")] for shard in rows}
    make_run(str(tmp_path / "nothing"), ["cat", "dog"], nothing, LabelConfig(maps=MapConfig(keep_maps=True)))
    flags = ["--labels", f"{tmp_path}/nothing", "--out", f"{tmp_path}/still-nothing"]
    for _ in range(2):
        assert main(flags) == 1
        assert "no image of 3 shards such as " in capsys.readouterr().err
    assert main([*flags, "--allow-nothing-labelled"]) == 0


def test_remask_job_reads_the_images_that_refine_maps_and_names_a_shard_that_is_gone(
    local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        samples = {f"{number}/{i}": {"jpg": make_photo(5 * number + i), "txt": b"cat"} for i in range(5)}
        make_tar(tmp_path / "inputs" / f"{number:05d}.tar", samples)
    save_small_model(f"{tmp_path}/model")
    run = open_run(
        out_uri=f"{tmp_path}/kept",
        model_uri=f"{tmp_path}/model",
        model_digest=load_bundle(f"{tmp_path}/model")[2],
        vocabulary=Vocabulary(classes=("cat", "dog")),
        config=LabelConfig(
            inputs=InputConfig(max_chunk_samples=2), views=ViewConfig(num_patches=16), maps=MapConfig(keep_maps=True)
        ),
        shards=list_shards([f"{tmp_path}/inputs"]),
    )
    label_run(run, LabelOptions(gpus_per_actor=0.0, device="cpu"), cluster=SerialCluster())

    flags = ["--labels", f"{tmp_path}/kept", "--out", f"{tmp_path}/out", "--maps.pixel-refinement", "par"]
    flags += ["--maps.pixel-side-px", "64"]
    assert main([*flags, "--limit", "1"]) == 0
    (tmp_path / "inputs" / "00001.tar").rename(tmp_path / "gone.tar")
    assert main(flags) == 1
    assert "00001.tar' does not exist" in capsys.readouterr().err
    (tmp_path / "gone.tar").rename(tmp_path / "inputs" / "00001.tar")
    assert main(flags) == 0
    assert verify(["--labels", f"{tmp_path}/out"]) == 0

    source = open_kept_run(f"{tmp_path}/kept")
    maps = MapConfig(keep_maps=True, pixel_refinement=PixelRefinement.PAR, pixel_side_px=64)
    remask_run(open_remask(f"{tmp_path}/serial", source, maps), cluster=SerialCluster())
    for number in range(2):
        name = f"labels/{number:05d}.parquet"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "serial" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() != (tmp_path / "kept" / name).read_bytes()
