"""Corrections from CVAT: zips of "segmentation mask 1.1", and annotations.xml of "CVAT for images 1.1"."""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from pipeline.corrections.drawing import (
    Correction,
    Region,
    draw_box,
    draw_polygons,
    find_class,
    parse_name,
    require_size,
)
from pipeline.errors import CorrectionError
from pipeline.images.decode import UNREADABLE_ERRORS
from pipeline.run.vocabulary import Vocabulary

_MASK = re.compile(r"(?:\A|.*/)SegmentationClass/(.+)\.png\Z", re.DOTALL)
_LIST = re.compile(r"(?:\A|.*/)ImageSets/Segmentation/[^/]+\.txt\Z")


def read_cvat(payload: bytes, source: str, vocabulary: Vocabulary) -> Iterator[Correction]:
    """Read the corrections of a zip or XML file of CVAT; an image that it lists without annotations is background.

    Raises:
        CorrectionError: The file is none of them, or has labels or images that the run lacks.
    """
    try:
        if not zipfile.is_zipfile(io.BytesIO(payload)):
            yield from _read_xml(payload, source, vocabulary)
            return
        archive = zipfile.ZipFile(io.BytesIO(payload))
        names = archive.namelist()
        documents = [name for name in names if name.rsplit("/", 1)[-1] == "annotations.xml"]
        if documents:
            for name in documents:
                yield from _read_xml(archive.read(name), source, vocabulary)
        else:
            yield from _read_masks(archive, source, vocabulary)
    except (KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise CorrectionError(f"'{source}' is no annotation of CVAT: {error!r}; export it again") from error


def _read_masks(archive: zipfile.ZipFile, source: str, vocabulary: Vocabulary) -> Iterator[Correction]:
    names = archive.namelist()
    labels = [name for name in names if name.rsplit("/", 1)[-1] == "labelmap.txt"]
    if len(labels) != 1:
        raise CorrectionError(f"'{source}' has no labelmap.txt, or several; export it as 'Segmentation mask 1.1'")
    colours = _read_colours(archive.read(labels[0]).decode(), source, vocabulary)
    masks = {found[1]: name for name in names if (found := _MASK.match(name))}
    listed = [archive.read(name).decode().splitlines() for name in names if _LIST.match(name)]
    for stem in dict.fromkeys([*masks, *(stem for lines in listed for stem in lines if stem)]):
        regions, size = [], None
        if stem in masks:
            shown = _MaskFile(archive, masks[stem], colours)
            size = shown.read_size()
            regions = [
                Region(class_id, lambda shown=shown, class_id=class_id: shown.read() == class_id)  # type: ignore[misc]
                for class_id in sorted(set(colours.values()) - {0})
            ]
        yield Correction(source=source, title=stem, row=parse_name(f"{stem}.png", source), size=size, regions=regions)


class _MaskFile:
    """A mask in colours; the last one that was read is kept."""

    def __init__(self, archive: zipfile.ZipFile, name: str, colours: dict[int, int]) -> None:
        self._archive = archive
        self._name = name
        self._colours = colours

    def read_size(self) -> tuple[int, int]:
        with self._archive.open(self._name) as file:
            try:
                with Image.open(file, formats=["PNG"]) as image:
                    return require_size(image.height, image.width)
            except UNREADABLE_ERRORS as error:
                raise ValueError(f"{self._name} is no PNG: {error}") from error

    def read(self) -> UInt8[np.ndarray, "h w"]:
        try:
            with Image.open(io.BytesIO(self._archive.read(self._name)), formats=["PNG"]) as image:
                rgb = np.asarray(image.convert("RGB")).astype(np.int64)
        except UNREADABLE_ERRORS as error:
            raise ValueError(f"{self._name} is no PNG: {error}") from error
        packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        shown, places = np.unique(packed, return_inverse=True)
        unknown = [f"#{colour:06x}" for colour in shown.tolist() if colour not in self._colours]
        if unknown:
            raise ValueError(f"colour {unknown[0]}, which labelmap.txt lacks")
        values = np.array([self._colours[colour] for colour in shown.tolist()], np.uint8)
        return values[places].reshape(packed.shape)


def _read_colours(text: str, source: str, vocabulary: Vocabulary) -> dict[int, int]:
    colours: dict[int, int] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, colour, *_ = line.split(":")
        if not colour.strip():
            raise CorrectionError(
                f"'{source}' gives label '{name}' no colour in labelmap.txt; export it as 'Segmentation mask 1.1'"
            )
        red, green, blue = (int(one) for one in colour.split(","))
        packed = red << 16 | green << 8 | blue
        if packed in colours:
            raise CorrectionError(f"'{source}' has two labels of colour {colour} in labelmap.txt; give each its own")
        colours[packed] = find_class(vocabulary, name, source)
    return colours


def _read_xml(payload: bytes, source: str, vocabulary: Vocabulary) -> Iterator[Correction]:
    root = ElementTree.fromstring(payload)
    if root.tag != "annotations" or root.find(".//track") is not None:
        raise CorrectionError(f"'{source}' is no annotation of images; export it as 'CVAT for images 1.1'")
    for image in root.iter("image"):
        size = require_size(int(image.attrib["height"]), int(image.attrib["width"]))
        title = image.attrib["name"]
        # Of equal layers the later shape lies on top.
        shapes = sorted(
            (shape for shape in image if shape.tag != "tag" and not _is_frame(shape, image)),
            key=lambda shape: int(shape.get("z_order", 0)),
        )
        regions = []
        for shape in shapes:
            if shape.tag not in _SHAPES:
                raise CorrectionError(
                    f"'{source}', image '{title}': has a shape of kind '{shape.tag}'; masks are made of masks, "
                    "polygons and boxes"
                )
            class_id = find_class(vocabulary, shape.attrib["label"], source)
            regions.append(
                Region(class_id, lambda shape=shape, size=size: _SHAPES[shape.tag](shape.attrib, size))  # type: ignore[misc]
            )
        yield Correction(source=source, title=title, row=parse_name(title, source), size=size, regions=regions)


def _is_frame(shape: ElementTree.Element, image: ElementTree.Element) -> bool:
    """Whether a box stands around a mask or polygon of its group: datumaro adds such boxes to masks of COCO."""
    group = int(shape.get("group_id", 0))
    others = ((other.tag, int(other.get("group_id", 0)), other.get("label")) for other in image)
    around = {("mask", group, shape.get("label")), ("polygon", group, shape.get("label"))}
    return shape.tag == "box" and group != 0 and not around.isdisjoint(others)


def _draw_mask(shape: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    left, top, width, height = (int(shape[name]) for name in ("left", "top", "width", "height"))
    runs = [int(one) for one in shape["rle"].split(",")]
    if sum(runs) != width * height or min(runs) < 0:
        raise ValueError("run lengths that do not fill their box")
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError("a mask that reaches beyond the image")
    pixels = np.zeros(size, bool)
    box = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    pixels[top : top + height, left : left + width] = box
    return pixels


def _draw_polygon(shape: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    return draw_polygons([[float(one) for one in re.split("[,;]", shape["points"])]], size)


def _draw_box(shape: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    if float(shape.get("rotation", 0)):
        raise ValueError("a box that is turned")
    left, top, right, bottom = (float(shape[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
    return draw_box(left, top, right, bottom, size)


_SHAPES: dict[str, Callable[[Any, tuple[int, int]], Bool[np.ndarray, "h w"]]] = {
    "mask": _draw_mask,
    "polygon": _draw_polygon,
    "box": _draw_box,
}
