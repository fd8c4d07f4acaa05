"""True masks of a collection: found by key, and refused if they do not match."""

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import LabellingError, TruthError
from pipeline.evaluation.evaluate import evaluate_manifest
from pipeline.evaluation.truth import decode_truth, open_truth
from pipeline.storage.uris import join_uri
from pipeline.storage.writing import put_atomic
from tests.evaluation.test_evaluate import CLASSES, SHARD
from tests.factories import make_labelled_row, make_mask_png, make_run


def encode(mode: str, size: tuple[int, int] = (6, 4)) -> bytes:
    png = io.BytesIO()
    Image.new(mode, size).save(png, "PNG")
    return png.getvalue()


def encode_values(values: Any) -> bytes:
    return make_mask_png(np.resize(np.array(values, np.uint8), (4, 6)))


BAD_TRUTHS = {
    "size": (encode("L", (4, 6)), "is 4 x 6 pixels, its image 6 x 4"),
    "class": (encode_values([0, 7]), "has classes [7], the run has 0 to 3 (255 is ignored)"),
    "grey levels": (encode_values(range(0, 240, 10)), "it looks like grey levels"),
    "rgb": (encode("RGB"), "is a picture in RGB and not a map of class ids; turn its colours into class ids"),
    "rgba": (encode("RGBA"), "is a picture in RGBA"),
    "one bit": (encode("1"), "is a grey PNG of 1 bits"),
    "16 bits": (encode("I;16"), "is a grey PNG of 16 bits"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(20), "is no PNG but a JPEG; give a palette PNG"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is no PNG but a pointer of Git LFS"),
    "unknown": (b"\x01\xfe\x80\x99" * 9, "is no PNG but begins with b'\\x01\\xfe"),
    "truncated": (encode("L")[:44], "the PNG is damaged"),
    "signature alone": (encode("L")[:8], "the PNG is damaged"),
    "empty": (b"", "is an empty file"),
}


@pytest.mark.parametrize("kind", list(BAD_TRUTHS))
def test_truth_that_cannot_be_used_is_named_counted_and_not_the_end(tmp_path: Path, kind: str) -> None:
    payload, words = BAD_TRUTHS[kind]
    with pytest.raises(TruthError, match=re.escape(words)):
        decode_truth(payload, "dir/a", (4, 6), len(CLASSES))
    rows = [make_labelled_row(key, np.zeros((4, 6)), [1]) for key in ("dir/a", "b")]
    (uri,) = make_run(str(tmp_path), CLASSES, {SHARD: rows})
    truths = {"dir/a": payload, "b": encode_values([0, 1])}
    counts, images, complaints = evaluate_manifest(uri, truths.get, len(CLASSES))
    assert (counts.num_images, counts.num_bad_truth, len(images)) == (1, 1, 1)
    (complaint,) = complaints
    assert complaint.startswith("true mask of 'dir/a' ")
    assert words in complaint


def test_truth_that_is_gone_or_forbidden_is_counted_as_unusable(tmp_path: Path) -> None:
    for key in ("a", "b"):
        put_atomic(join_uri(str(tmp_path), "truth", f"{key}.png"), encode_values([1]))
    true_masks = open_truth(str(tmp_path / "truth"))
    (tmp_path / "truth" / "a.png").unlink()
    with pytest.raises(TruthError, match="true mask of 'a' cannot be opened"):
        true_masks("a")
    assert true_masks.list_unused() == ["b"]
    assert true_masks("b")
    assert true_masks.list_unused() == []


def write_truth(kind: Any, folder: Path, names: Any) -> str:
    """Write PNGs with their names as content, and another file, as a folder or a tar; return its URI."""
    files = {**{f"{name}.png": name.encode() for name in names}, "README.txt": b"hello", "LOUD.PNG": b"loud"}
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
    keys = ["x/a", "y/a", "shard7/b", "c", "d.e", "LOUD", "d", "z"]
    assert [find(key) for key in keys] == [b"x/a", b"y/a", b"b", b"deep/er/c", b"d.e", b"loud", None, None]


def test_truth_of_an_image_file_is_found_with_and_without_the_suffix_of_the_image(tmp_path: Path) -> None:
    names = ["train/a", "val/a", "b", "c.jpg", "c", "IMG_1"]
    find = open_truth(write_truth("folder", tmp_path, names))
    keys = ["train/a.jpg", "val/a.JPEG", "dogs/b.png", "https://host/x/b.webp", "c.jpg", "x/c.jpg", "IMG_1.0", "a.b"]
    assert [find(key) for key in keys] == [b"train/a", b"val/a", b"b", b"b", b"c.jpg", b"c.jpg", None, None]
    assert find.list_unused() == ["IMG_1", "LOUD", "c"]


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
    with pytest.raises(LabellingError, match="nowhere' does not exist; pass a folder or a tar of true masks"):
        open_truth(str(tmp_path / "nowhere"))
    put_atomic(join_uri(str(tmp_path), "photos", "a.jpg"), b"photo")
    with pytest.raises(LabellingError, match=r"holds no PNGs but 1 file \(\*\.jpg: 1, such as '.*a\.jpg'\)"):
        open_truth(str(tmp_path / "photos"))
    with pytest.raises(LabellingError, match="broken.tar' is no readable tar"):
        open_truth(str(tmp_path / "broken.tar"))
