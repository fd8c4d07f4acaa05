"""Photos labelled in this process: the same rows as those of a run, from whatever holds the photo."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.formatters import PNGFormatter
from PIL import ExifTags, Image, ImageOps

import tagmask
from pipeline.errors import BundleError, LabellingError, VocabularyError
from pipeline.images.orientation import turn_upright
from pipeline.label import label_run
from pipeline.library.encoding import encode_photo
from pipeline.library.photo_labeler import PhotoLabeler
from pipeline.published.images import ImageReader
from pipeline.published.rows import iterate_rows
from pipeline.published.run import open_published
from pipeline.run.config import LabelConfig, MapConfig, ViewConfig
from pipeline.run.run_file import Run
from pipeline.storage.writing import put_atomic
from pipeline.thresholds.calibration import Calibration, describe_maps, encode_calibration
from tests.factories import make_photo
from tests.fakes import SerialCluster
from tests.small_run import OPTIONS

OF_THE_SHARD = {"index", "shard", "image_offset", "class_maps"}
"""Columns that a photo without a shard has otherwise, or that runs do not keep."""
CONFIG = LabelConfig(views=ViewConfig(num_patches=16))


@pytest.fixture(scope="module")
def labeler(small_inputs: Path) -> Iterator[PhotoLabeler]:
    vocabulary = {"classes": ["cat", "dog"], "aliases": {"cat": ["kitty"]}}
    with tagmask.load(small_inputs / "model", vocabulary=vocabulary, config=CONFIG, device="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def labelled(label_small_run: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("run"))
    label_small_run(out)
    return out


def encode(image: Image.Image, image_format: str, orientation: int = 1, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    image.save(buffer, image_format, exif=exif, **options)
    return buffer.getvalue()


def test_rows_are_those_that_the_job_writes_byte_for_byte(labelled: str, labeler: PhotoLabeler) -> None:
    run = open_published(labelled)
    num = 0
    for shard, uri in zip(run.shards, run.manifest_uris, strict=True):
        tags = {3: ["dog"], 1: ["sunset"]}
        rows = list(iterate_rows(run, uri))
        images = list(ImageReader(run, shard).read_many(rows))
        found = labeler.label_many(images, [tags.get(row.index, ["Kitty"]) for row in rows], keys=[r.key for r in rows])
        for row, photo in zip(rows, found, strict=True):
            wanted = {name: value for name, value in row.values.items() if name not in OF_THE_SHARD}
            assert {name: photo.row.get(name) for name in wanted} == wanted
            num += photo.is_labelled
    assert num == 8


def test_class_maps_are_those_that_a_run_keeps(
    open_small_run: Callable[..., Run], labeler: PhotoLabeler, tmp_path: Path
) -> None:
    label_run(open_small_run(str(tmp_path / "kept"), keep_maps=True), OPTIONS, cluster=SerialCluster())
    run = open_published(str(tmp_path / "kept"))
    row = next(iterate_rows(run, run.manifest_uris[0]))
    payload = ImageReader(run, run.shards[0]).read(row)
    photo = labeler.label(payload, ["cat"])
    assert photo.row.get("class_maps") == row.get("class_maps")
    assert list(photo.class_maps) == ["cat"]
    assert photo.class_maps["cat"].max() == 1
    assert photo.class_maps["cat"].shape == (row.get("class_maps")["height"], row.get("class_maps")["width"])
    assert photo.statistics["cat"]["area_fraction"] == pytest.approx((photo.mask == 1).mean())


def test_photo_is_the_same_as_bytes_path_uri_pillow_image_or_pixels(labeler: PhotoLabeler, tmp_path: Path) -> None:
    payload = make_photo(3, image_format="PNG")
    path = tmp_path / "rex.png"
    path.write_bytes(payload)
    put_atomic("memory://photos/rex.png", payload)
    image = Image.open(io.BytesIO(payload))
    photos: list[Any] = [
        payload,
        memoryview(payload),
        path,
        str(path),
        "memory://photos/rex.png",
        image,
        np.asarray(image),
    ]
    masks = [labeler.label(photo, ["cat"]).mask.tobytes() for photo in photos]
    assert len(set(masks)) == 1
    assert labeler.label(path, ["cat"]).row.key == "rex"
    assert labeler.label(Image.open(path), ["cat"]).row.key == "rex"
    assert labeler.label(payload, ["cat"]).row.key == "photo"
    assert labeler.label(payload, ["cat"], key="a/b").row.get("mask")["path"] == "a%2Fb.png"


def test_pillow_image_whose_pixels_were_not_read_is_its_file_and_a_changed_one_is_not(tmp_path: Path) -> None:
    payload = make_photo(4, (64, 48))
    (tmp_path / "a.jpg").write_bytes(payload)
    untouched = Image.open(tmp_path / "a.jpg")
    assert encode_photo(untouched) == payload
    assert untouched.getpixel((0, 0)) == Image.open(io.BytesIO(payload)).getpixel((0, 0))
    drawn = Image.open(tmp_path / "a.jpg")
    drawn.paste((0, 0, 0), (0, 0, 64, 48))
    assert not np.asarray(Image.open(io.BytesIO(encode_photo(drawn)))).any()
    small = Image.open(tmp_path / "a.jpg")
    small.draft("RGB", (32, 24))
    assert Image.open(io.BytesIO(encode_photo(small))).size == (32, 24)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_is_on_stored_pixels_and_upright_mask_on_those_of_the_viewer(
    labeler: PhotoLabeler, orientation: int
) -> None:
    stored = Image.open(io.BytesIO(make_photo(5, (80, 48), "PNG")))
    payload = encode(stored, "PNG", orientation)
    photo = labeler.label(payload, ["cat", "dog"])
    assert photo.mask.shape == (48, 80)
    assert photo.image.size == ImageOps.exif_transpose(Image.open(io.BytesIO(payload))).size
    assert photo.upright_mask.shape == photo.image.size[::-1]
    assert (photo.upright_mask == turn_upright(photo.mask, orientation)).all()
    # An image in memory has its orientation beside its pixels.
    opened = Image.open(io.BytesIO(payload))
    opened.load()
    again = labeler.label(opened, ["cat", "dog"])
    assert again.row.orientation == orientation
    assert (again.mask == photo.mask).all()
    upright = labeler.label(ImageOps.exif_transpose(opened), ["cat", "dog"])
    assert upright.row.orientation == 1
    assert (upright.mask == photo.upright_mask).all()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"]
)
def test_pillow_image_of_any_mode_is_labelled(labeler: PhotoLabeler, mode: str) -> None:
    image = Image.open(io.BytesIO(make_photo(6, (64, 48), "PNG")))
    through = {"La": "LA", "RGBa": "RGBA", "I;16": "I"}.get(mode)
    converted = image.convert("L").convert(through) if through in ("LA", "I") else image.convert(through or mode)
    converted = converted if through is None else converted.convert(mode)
    photo = labeler.label(converted, ["cat"])
    assert photo.is_labelled, photo.error
    assert photo.mask.shape == (48, 64)


@pytest.mark.parametrize(
    ("image", "tags", "reason", "said"),
    [
        (
            make_photo(1),
            ["unicorn", "Catt"],
            "no_known_tag",
            "none of its tags is in the vocabulary; did you mean 'cat'",
        ),
        (make_photo(1), ["xyzzy"], "no_known_tag", "the classes are cat, dog"),
        (make_photo(1), [], "no_known_tag", "no tags"),
        (make_photo(1)[:100], ["cat"], "undecodable", ""),
        (b"", ["cat"], "undecodable", "no bytes"),
    ],
)
def test_photo_that_cannot_be_labelled_says_why(
    labeler: PhotoLabeler, image: bytes, tags: list[str], reason: str, said: str
) -> None:
    photo = labeler.label(image, tags)
    assert (photo.status, photo.is_labelled, photo.reason) == ("rejected", False, reason)
    assert said in (photo.error or "")
    assert reason in repr(photo)
    with pytest.raises(LabellingError, match=f"has no mask: it was rejected \\({reason}\\)"):
        _ = photo.mask
    with pytest.raises(LabellingError, match="has no mask"):
        _ = photo.class_maps
    picture = PNGFormatter()(photo)
    assert (picture is None) == (reason == "undecodable")


def test_rejected_photo_of_a_batch_leaves_the_others(labeler: PhotoLabeler) -> None:
    photos = labeler.label_many([make_photo(1), b"no image", make_photo(2)], [["cat"], ["cat"], ("dog", "Rex")])
    assert [photo.status for photo in photos] == ["labelled", "rejected", "labelled"]
    assert photos[2].class_names == ("dog",)
    assert photos[2].unknown_tags == ("Rex",)
    assert (photos[2].mask == labeler.label(make_photo(2), ["dog"]).mask).all()
    assert labeler.label_many([], []) == []


def test_picture_for_notebooks_is_the_photo_beside_its_mask(labeler: PhotoLabeler) -> None:
    photo = labeler.label(make_photo(7, (64, 48)), ["cat"])
    picture = Image.open(io.BytesIO(PNGFormatter()(photo) or b""))
    assert picture.size == (128, 48)
    assert (np.asarray(picture)[:, :64] == np.asarray(photo.image)).all()


@pytest.mark.parametrize(
    ("image", "tags", "error", "said"),
    [
        (make_photo(1), "cat", ValueError, r"need a list of tags, got the text 'cat'; write \['cat'\]"),
        (np.zeros((4, 4, 3), np.float32), ["cat"], ValueError, "need pixels of type uint8"),
        (np.zeros((3, 8, 9), np.uint8), ["cat"], ValueError, r"shape \(height, width, 3\)"),
        ("/nowhere/photo.jpg", ["cat"], FileNotFoundError, "'/nowhere/photo.jpg' does not exist"),
    ],
)
def test_what_is_no_photo_or_no_tags_is_refused(
    labeler: PhotoLabeler, image: Any, tags: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        labeler.label_many([image], [tags])
    with pytest.raises(TypeError, match="got int; convert it"):
        encode_photo(3)


def test_numbers_of_photos_and_tags_differ_is_refused(labeler: PhotoLabeler) -> None:
    with pytest.raises(ValueError, match="got 1 photos, 2 lists of tags"):
        labeler.label_many([make_photo(1)], [["cat"], ["dog"]])


def test_bundle_is_loaded_with_its_own_names_and_from_s3(small_inputs: Path, s3_folder: str) -> None:
    for name in ("model.safetensors", "model.json"):
        put_atomic(f"{s3_folder}/{name}", (small_inputs / "model" / name).read_bytes())
    with tagmask.load(s3_folder, quality="fast") as loaded:
        assert loaded.class_names == ("background", "cat", "dog")
        assert not loaded.config.views.flip
        assert "2 classes (cat, dog) on cpu" in repr(loaded) or loaded.device.type == "cuda"
        assert loaded.label(make_photo(1), ["DOG"]).is_labelled


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"vocabulary": {"classes": ["dog", "cat"]}}, BundleError, "same names, other order"),
        ({"quality": "bset"}, ValueError, "need quality fast, balanced, best; got 'bset'"),
        ({"device": "gpu"}, ValueError, "need device auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"device": "cuda:99"}, LabellingError, "device 'cuda:99' is not there"),
        ({"vocabulary": "/nowhere.json"}, VocabularyError, "nowhere"),
        ({"calibration": "/nowhere.json"}, FileNotFoundError, "nowhere"),
    ],
)
def test_wrong_settings_are_refused(
    small_inputs: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        tagmask.load(small_inputs / "model", **options)


def test_calibration_sets_the_thresholds(small_inputs: Path, tmp_path: Path, labeler: PhotoLabeler) -> None:
    calibration = Calibration(
        background_threshold=0.1,
        foreground_threshold=0.1,
        class_scales=None,
        maps=describe_maps(labeler.model_digest, ("cat", "dog"), labeler.config),
        method="by hand",
        uses_truth=False,
        figures={},
    )
    (tmp_path / "c.json").write_bytes(encode_calibration(calibration))
    with tagmask.load(small_inputs / "model", config=CONFIG, calibration=tmp_path / "c.json") as loaded:
        assert loaded.config.maps.background_threshold == 0.1
        changed = loaded.label(make_photo(2), ["cat"])
    assert (changed.mask == 1).sum() > (labeler.label(make_photo(2), ["cat"]).mask == 1).sum()
    assert json.loads((tmp_path / "c.json").read_bytes())["method"] == "by hand"
    assert MapConfig().background_threshold != 0.1
