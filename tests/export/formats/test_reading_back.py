"""Exports read by the tools that they are for."""

import collections
import io
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import datasets
import numpy as np
import pytest
import torchvision
import webdataset
import yaml
from PIL import Image

from pipeline.export.formats.catalogue import FORMAT_NAMES, Formats
from pipeline.export.formats.huggingface import HuggingFaceFormat
from pipeline.export.formats.voc import VocFormat
from pipeline.export.formats.webdataset import WebDatasetFormat
from pipeline.published.run import open_published
from pipeline.storage.listing import list_objects
from tests.export.runs import (
    KEYS,
    NAMES,
    NUM_ROWS,
    SPLITS,
    count_manifest_pixels,
    count_pixels,
    count_without_ignored,
    export_all,
    require_aligned,
)


def test_hugging_face_loads_images_masks_and_names_without_a_cast(hostile_run: str, tmp_path: Path) -> None:
    export_all(hostile_run, f"{tmp_path}/out", "hf", splits=SPLITS, formats=Formats(hf=HuggingFaceFormat(group_mib=1)))
    loaded = datasets.load_dataset(f"{tmp_path}/out", cache_dir=f"{tmp_path}/cache")
    assert set(loaded) == {"train", "val"}
    rows = [row for split in loaded.values() for row in split]
    assert collections.Counter(row["key"] for row in rows) == dict.fromkeys(KEYS, 3)
    assert {SPLITS.choose(row["key"]) for row in loaded["val"]} == {"val"}
    assert loaded["train"].features["classes"].feature.names == NAMES
    assert {tuple(row["tags"]) for row in rows} == {("cat", "<i>", "🐈"), ("dog", "<i>", "🐈")}
    for row in rows:
        require_aligned(row["image"], np.asarray(row["mask"]))
    assert count_pixels([np.asarray(row["mask"]) for row in rows]) == count_manifest_pixels(open_published(hostile_run))


def test_webdataset_reads_pairs_from_tars_of_bounded_size(hostile_run: str, tmp_path: Path) -> None:
    formats = Formats(webdataset=WebDatasetFormat(max_tar_mib=1))
    export_all(hostile_run, f"{tmp_path}/out", "webdataset", splits=SPLITS, formats=formats)
    keys: collections.Counter[str] = collections.Counter()
    masks = []
    for split in SPLITS.names:
        listed = json.loads((tmp_path / "out" / f"{split}.json").read_text())["shardlist"]
        paths = [f"{tmp_path}/out/{one['url']}" for one in listed]
        samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
        assert len(samples) == sum(one["nsamples"] for one in listed)
        for sample in samples:
            described = json.loads(sample["json"])
            mask = np.asarray(Image.open(io.BytesIO(sample["mask.png"])))
            (suffix,) = {"jpg", "png", "webp", "bmp", "tif"} & set(sample)
            require_aligned(Image.open(io.BytesIO(sample[suffix])), mask)
            assert SPLITS.choose(described["key"]) == split
            keys[described["key"]] += 1
            masks.append(mask)
    assert keys == dict.fromkeys(KEYS, 3)
    assert count_pixels(masks) == count_manifest_pixels(open_published(hostile_run))
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == NAMES


def test_torchvision_reads_the_voc_folder(hostile_run: str, tmp_path: Path) -> None:
    out = tmp_path / "VOCdevkit" / "VOC2012"
    export_all(hostile_run, str(out), "voc", splits=SPLITS)
    sets = [
        torchvision.datasets.VOCSegmentation(str(tmp_path), year="2012", image_set=split, download=False)
        for split in SPLITS.names
    ]
    pairs = [pair for one in sets for pair in one]
    assert len(pairs) == NUM_ROWS
    for image, mask in pairs:
        assert image.format is None or image.format == "JPEG"
        require_aligned(image.convert("RGB"), np.asarray(mask))
    assert count_pixels([np.asarray(mask) for _, mask in pairs]) == count_manifest_pixels(open_published(hostile_run))
    assert (out / "labelmap.txt").read_text().splitlines()[1:] == [
        "background:0,0,0::",
        "cat:128,0,0::",
        "dog:0,128,0::",
        "ignored:224,224,192::",
    ]
    # Every key is found again, though names hold little of it.
    listed = dict(line.split("\t") for line in (out / "keys.tsv").read_text().splitlines())
    assert len(listed) == NUM_ROWS
    assert {key.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\") for key in listed.values()} == set(KEYS)


def test_photos_of_voc_keep_their_bytes_if_that_is_asked_for(hostile_run: str, tmp_path: Path) -> None:
    export_all(hostile_run, f"{tmp_path}/out", "voc", formats=Formats(voc=VocFormat(keep_photos=True)))
    found = {path.suffix for path in (tmp_path / "out" / "JPEGImages").iterdir()}
    assert found == {".jpg", ".png", ".webp", ".bmp", ".tif"}


def fill_polygons(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Draw the polygons of a label file, as a trainer does."""
    height, width = size
    mask = np.zeros(size, np.uint8)
    for line in path.read_text().splitlines():
        number, *shares = line.split()
        points = (np.array(shares, float).reshape(-1, 2) * (width, height)).astype(np.int32)
        cv2.fillPoly(mask, [points], int(number) + 1)
    return mask


def test_polygons_of_yolo_fill_the_pixels_of_the_masks(hostile_run: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_all(hostile_run, str(out), "yolo", splits=SPLITS)
    described = yaml.safe_load((out / "data.yaml").read_text())
    assert described == {"train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}}
    masks = []
    for split in SPLITS.names:
        for listed in (out / f"{split}.txt").read_text().splitlines():
            image = Image.open(out / listed)
            label = out / listed.replace("/images/", "/labels/").rsplit(".", 1)[0]
            masks.append(fill_polygons(label.parent / f"{label.name}.txt", image.size[::-1]))
            require_aligned(image, masks[-1])
    assert len(masks) == NUM_ROWS
    assert count_pixels(masks) == count_without_ignored(open_published(hostile_run))


def list_names(uri: str) -> Iterator[str]:
    return (item.uri.removeprefix(f"{uri}/") for item in list_objects(uri))


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_names_are_safe_in_every_file_system(hostile_run: str, tmp_path: Path, format_name: str) -> None:
    uri = f"{tmp_path}/out"
    export_all(hostile_run, uri, format_name)
    names = list(list_names(uri))
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        for part in name.split("/"):
            assert part.isascii()
            assert len(part) <= 120
            assert not set(part) & set('<>:"\\|?* \n\t')
            assert not part.startswith(("-", "."))
            assert part.split(".")[0].upper() not in ("CON", "NUL", "AUX", "PRN")
