"""True masks of a collection: found by key, and refused if they do not match."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import LabellingError
from pipeline.evaluation.evaluate import evaluate_manifest
from pipeline.evaluation.truth import open_truth
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.evaluation.test_evaluate import CLASSES, SHARD, evaluate
from tests.factories import make_labelled_row, make_run


def test_truth_of_another_size_is_an_error_that_names_key_and_sizes(tmp_path: Path) -> None:
    rows = [make_labelled_row("dir/a", np.zeros((4, 6)), [1])]
    with pytest.raises(LabellingError, match="'dir/a' is 4 x 6 pixels, its image 6 x 4"):
        evaluate(tmp_path, rows, {"dir/a": np.zeros((6, 4), np.uint8)})


def test_truth_with_a_class_that_the_run_lacks_is_an_error_that_names_key_and_value(tmp_path: Path) -> None:
    rows = [make_labelled_row("dir/a", np.zeros((4, 6)), [1])]
    with pytest.raises(LabellingError, match=r"'dir/a' has classes \[7\], the run has 0 to 3"):
        evaluate(tmp_path, rows, {"dir/a": np.full((4, 6), 7, np.uint8)})


@pytest.mark.parametrize("mode", ["RGB", "I;16", None])
def test_truth_that_is_no_index_map_is_an_error_that_names_its_key(tmp_path: Path, mode: str | None) -> None:
    png = io.BytesIO(b"no picture")
    if mode:
        Image.new(mode, (6, 4)).save(png, "PNG")
    (uri,) = make_run(str(tmp_path), CLASSES, {SHARD: [make_labelled_row("dir/a", np.zeros((4, 6)), [1])]})
    with pytest.raises(LabellingError, match="true mask of 'dir/a'"):
        evaluate_manifest(uri, {"dir/a": png.getvalue()}.get, len(CLASSES))


def write_truth(kind: Any, folder: Path, names: Any) -> str:
    """Write PNGs with their names as content, and another file, as a folder or a tar; return its URI."""
    files = {**{f"{name}.png": name.encode() for name in names}, "README.txt": b"hello"}
    if kind == "folder":
        for name, payload in files.items():
            put_atomic(join_uri(str(folder), "truth", name), payload)
        return str(folder / "truth")
    with tarfile.open(folder / "truth.tar", "w") as archive:
        for name, payload in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(payload)
            archive.addfile(header, io.BytesIO(payload))
    return str(folder / "truth.tar")


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_truth_is_found_by_whole_key_else_by_base_name(tmp_path: Path, kind: str) -> None:
    find = open_truth(write_truth(kind, tmp_path, ["x/a", "y/a", "b", "deep/er/c", "d.e"]))
    keys = ["x/a", "y/a", "shard7/b", "c", "d.e", "d", "z"]
    assert [find(key) for key in keys] == [b"x/a", b"y/a", b"b", b"deep/er/c", b"d.e", None, None]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_two_true_masks_that_fit_a_key_are_an_error_and_no_guess(tmp_path: Path, kind: str) -> None:
    find = open_truth(write_truth(kind, tmp_path, ["SegmentationClass/a", "SegmentationObject/a"]))
    with pytest.raises(LabellingError, match="'SegmentationClass/a' and 'SegmentationObject/a' both fit .*'a'"):
        find("a")


def test_truth_in_an_object_store_is_found(s3_folder: str) -> None:
    put_atomic(join_uri(s3_folder, "truth", "x", "a.png"), b"mask")
    find = open_truth(join_uri(s3_folder, "truth"))
    assert (find("x/a"), find("b")) == (b"mask", None)


def test_truth_without_pngs_and_truth_that_is_no_tar_are_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"this is no archive" * 100)
    with pytest.raises(LabellingError, match="nowhere' holds no PNGs"):
        open_truth(str(tmp_path / "nowhere"))
    with pytest.raises(LabellingError, match="broken.tar' is no readable tar"):
        open_truth(str(tmp_path / "broken.tar"))
