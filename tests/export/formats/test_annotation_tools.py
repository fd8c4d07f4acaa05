"""Exports for annotation tools, read by the libraries of these tools or their users."""

import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image
from pycocotools.coco import COCO

from pipeline.export.formats.catalogue import Formats
from pipeline.export.formats.coco import CocoFormat
from pipeline.export.formats.cvat import CvatFormat
from pipeline.export.formats.label_studio import LabelStudioFormat
from pipeline.export.samples import ExportContext
from pipeline.export.store_files import StoreFiles
from pipeline.images.masks import voc_palette
from pipeline.published.run import open_published
from tests.export.runs import (
    CLASSES,
    KEYS,
    NAMES,
    NUM_ROWS,
    SPLITS,
    count_manifest_pixels,
    count_pixels,
    count_without_ignored,
    export_all,
    make_sample,
    require_aligned,
)
from tests.foreign_readers import count_pixels_by_datumaro

CONTEXT = ExportContext(class_names=tuple(NAMES), palette=voc_palette(), splits=("train",), fingerprint="f")


def require_sample_list(out: Path) -> dict[str, dict[str, object]]:
    """Read samples.jsonl by name; every row of the run is there once."""
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len({row["name"] for row in rows}) == NUM_ROWS
    assert Counter(row["key"] for row in rows) == dict.fromkeys(KEYS, 3)
    assert {(row["shard"], row["index"]) for row in rows} == {
        (f"s{shard}", index) for shard in range(3) for index in range(len(KEYS))
    }
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize("objects", ["classes", "components"])
def test_pycocotools_reads_masks_of_coco(hostile_run: str, tmp_path: Path, objects: str) -> None:
    formats = Formats(coco=CocoFormat(objects=objects))  # type: ignore[arg-type]
    export_all(hostile_run, f"{tmp_path}/out", "coco", splits=SPLITS, formats=formats)
    masks, ids = [], []
    for split in SPLITS.names:
        read = COCO(str(tmp_path / "out" / "annotations" / f"instances_{split}.json"))
        assert [(one["id"], one["name"]) for one in read.loadCats(read.getCatIds())] == [(1, "cat"), (2, "dog")]
        for image in read.loadImgs(read.getImgIds()):
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            for annotation in read.loadAnns(read.getAnnIds(imgIds=[image["id"]])):
                region = read.annToMask(annotation).astype(bool)
                top, left = np.argwhere(region).min(axis=0)
                assert annotation["area"] == region.sum()
                assert annotation["bbox"][:2] == [left, top]
                mask[region] = annotation["category_id"]
            require_aligned(Image.open(tmp_path / "out" / "images" / split / image["file_name"]), mask)
            masks.append(mask)
            ids.append(image["id"])
    assert len(set(ids)) == NUM_ROWS
    assert count_pixels(masks) == count_without_ignored(open_published(hostile_run))
    require_sample_list(tmp_path / "out")


def test_a_component_of_coco_is_an_annotation(tmp_path: Path) -> None:
    mask = np.zeros((6, 9), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[4:, 5:] = 1
    mask[4:, 0] = 2
    mask[2, 8] = 255

    def count(objects: str) -> Counter[int]:
        chosen = CocoFormat(objects=objects)  # type: ignore[arg-type]
        (entry,) = chosen.write_shard(0, [make_sample(mask)], StoreFiles(str(tmp_path)), CONTEXT)
        return Counter(one["category_id"] for one in entry["annotations"])

    # Pixels that touch by corners are one component; ignored pixels are none.
    assert count("components") == {1: 2, 2: 1}
    assert count("classes") == {1: 1, 2: 1}


def test_label_studio_reads_brush_masks_and_configuration(hostile_run: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    formats = Formats(label_studio=LabelStudioFormat(image_url="https://photos.example/", model_version="m1"))
    export_all(hostile_run, str(out), "label-studio", splits=SPLITS, formats=formats)
    interface = LabelInterface((out / "config.xml").read_text())
    assert list(interface.get_control("mask").labels) == list(CLASSES)
    labels = ElementTree.parse(out / "config.xml").iter("Label")
    assert {one.get("value"): one.get("background") for one in labels} == {"cat": "#800000", "dog": "#008000"}
    listed = require_sample_list(out)
    masks = []
    for path in sorted((out / "tasks").iterdir()):
        for task in json.loads(path.read_text()):
            (prediction,) = task["predictions"]
            # The library's check of whole tasks calls that of predictions without one, and fails.
            assert interface.validate_task({"data": task["data"]})  # type: ignore[arg-type]
            assert interface.validate_prediction(prediction, return_errors=True) == []
            assert prediction["model_version"] == "m1"
            assert prediction["score"] == task["data"]["quality"]
            name = task["data"]["image"].removeprefix("https://photos.example/")
            image = Image.open(out / name)
            mask = np.zeros(image.size[::-1], np.uint8)
            for result in prediction["result"]:
                assert (result["original_height"], result["original_width"]) == mask.shape
                (label,) = result["value"]["brushlabels"]
                alpha = decode_rle(result["value"]["rle"]).reshape(*mask.shape, 4)[..., 3]
                mask[alpha > 0] = NAMES.index(label)
            require_aligned(image, mask)
            assert listed[Path(name).stem].items() <= task["data"].items()
            masks.append(mask)
    assert len(masks) == NUM_ROWS
    assert count_pixels(masks) == count_without_ignored(open_published(hostile_run))


@pytest.mark.parametrize("max_images", [3, 5000])
def test_zips_of_cvat_hold_the_same_samples(hostile_run: str, tmp_path: Path, max_images: int) -> None:
    out = tmp_path / "out"
    formats = Formats(cvat=CvatFormat(max_images=max_images))
    export_all(hostile_run, str(out), "cvat", splits=SPLITS, formats=formats)
    assert [one["name"] for one in json.loads((out / "labels.json").read_text())] == NAMES
    listed, masks = require_sample_list(out), []
    for path in out.glob("*/*/images.zip"):
        images, annotations = zipfile.ZipFile(path), zipfile.ZipFile(path.with_name("annotations.zip"))
        split = path.parent.parent.name
        names = annotations.read(f"ImageSets/Segmentation/{split}.txt").decode().split()
        assert {listed[name]["split"] for name in names} == {split}
        assert len(names) <= max_images
        assert [Path(name).stem for name in images.namelist()] == names
        for file_name in images.namelist():
            mask = np.asarray(Image.open(io.BytesIO(annotations.read(f"SegmentationClass/{Path(file_name).stem}.png"))))
            require_aligned(Image.open(io.BytesIO(images.read(file_name))), mask)
            masks.append(mask)
    assert len(masks) == NUM_ROWS
    assert count_pixels(masks) == count_without_ignored(open_published(hostile_run))


def test_folders_of_fiftyone_pair_images_with_masks_that_opencv_reads_as_numbers(
    hostile_run: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_all(hostile_run, str(out), "fiftyone", splits=SPLITS)
    targets = json.loads((out / "mask_targets.json").read_text())
    assert targets == {"0": "background", "1": "cat", "2": "dog", "255": "ignored"}
    require_sample_list(out)
    masks = []
    for path in out.glob("*/data/*"):
        mask = np.asarray(cv2.imread(str(path.parent.parent / "labels" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED))
        assert mask.ndim == 2
        require_aligned(Image.open(path), mask)
        masks.append(mask)
    assert len(masks) == NUM_ROWS
    assert count_pixels(masks) == count_manifest_pixels(open_published(hostile_run))


def test_datumaro_reads_voc_by_the_names_of_its_labelmap(hostile_run: str, tmp_path: Path) -> None:
    export_all(hostile_run, f"{tmp_path}/voc", "voc", splits=SPLITS)
    by_sample = count_pixels_by_datumaro(tmp_path / "voc", "voc_segmentation")
    assert len(by_sample) == NUM_ROWS
    counts = count_manifest_pixels(open_published(hostile_run))
    names = {0: "background", 1: "cat", 2: "dog", 255: "ignored"}
    assert add_counts(by_sample) == {names[value]: num for value, num in counts.items()}


def test_datumaro_reads_coco_and_the_masks_of_cvat(hostile_run: str, tmp_path: Path) -> None:
    export_all(hostile_run, f"{tmp_path}/coco", "coco", splits=SPLITS)
    export_all(hostile_run, f"{tmp_path}/cvat", "cvat", splits=SPLITS)
    expected = count_without_ignored(open_published(hostile_run))
    by_sample = count_pixels_by_datumaro(tmp_path / "coco", "coco")
    assert len(by_sample) == NUM_ROWS
    assert add_counts(by_sample) == {"cat": expected[1], "dog": expected[2]}
    by_sample = {}
    for number, path in enumerate((tmp_path / "cvat").glob("*/*/annotations.zip")):
        folder = tmp_path / "unpacked" / str(number)
        zipfile.ZipFile(path).extractall(folder)
        by_sample |= count_pixels_by_datumaro(folder, "voc_segmentation")
    assert len(by_sample) == NUM_ROWS
    assert add_counts(by_sample) == {"background": expected[0], "cat": expected[1], "dog": expected[2]}


def add_counts(by_sample: dict[str, dict[str, int]]) -> Counter[str]:
    """Add the counts of all samples."""
    total: Counter[str] = Counter()
    for counts in by_sample.values():
        total.update(counts)
    return total
