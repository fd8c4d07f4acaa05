"""Examples of a gallery from rows of a manifest: pictures, and the columns that say how good a mask is."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from pipeline.commit.manifests import Manifest, open_manifest
from pipeline.errors import TruthError
from pipeline.evaluation.corrected_truth import CorrectedTruth, bind_truth
from pipeline.evaluation.quality_ranks import average_ious, compute_class_ious
from pipeline.evaluation.truth import FindTruth, decode_truth
from pipeline.evaluation.truth_frames import TruthFrame
from pipeline.images.decode import DecodedImage
from pipeline.images.masks import build_palette, decode_class_maps, decode_mask
from pipeline.images.orientation import turn_upright
from pipeline.reports.page import ClassNote, Example, Fact, Picture, Table, list_colours
from pipeline.reports.photos import read_photos
from pipeline.reports.pictures import (
    MAP_SIDE_PX,
    MAX_SIDE_PX,
    draw_class_maps,
    draw_mask,
    draw_photo,
    embed_picture,
    fit_size,
)
from pipeline.run.config import InputConfig
from pipeline.run.records import Status
from pipeline.run.vocabulary import Vocabulary

NO_PHOTO = "the input shard is gone or has changed: no photo"
IMAGE_FACTS = {
    "quality": "quality",
    "margin_mean": "margin",
    "entropy_mean": "entropy",
    "background_fraction": "background",
    "ignore_fraction": "left open",
}
"""Columns of an image that are shown, with their names."""
CLASS_COLUMNS = {
    "presence": "presence",
    "stability": "stability",
    "confidence_mean": "confidence",
    "view_agreement": "views agree",
    "area_fraction": "area",
    "components": "regions",
}
"""Columns of a class that are shown, with their names."""


class RowPlace(NamedTuple):
    """Where a row is."""

    manifest_uri: str
    row_index: int


@dataclass(frozen=True, kw_only=True)
class ExampleMaker:
    """Makes the examples of a run."""

    vocabulary: Vocabulary
    inputs: InputConfig
    """How the run read its shards."""
    find_truth: FindTruth | CorrectedTruth | None = None
    """From key to encoded true mask, or None."""
    frame: TruthFrame = TruthFrame.AUTO
    """Frame of the true masks."""
    iou_first: bool = False
    """The first figure is the IoU, by which the gallery is ordered; else the quality."""

    def make(self, places: Sequence[RowPlace]) -> tuple[Example, ...]:
        """Make the examples of some rows, in this order; a manifest at a time is in memory."""
        wanted: dict[str, set[int]] = defaultdict(set)
        for place in places:
            wanted[place.manifest_uri].add(place.row_index)
        made: dict[RowPlace, Example] = {}
        for uri, indices in wanted.items():
            manifest = open_manifest(uri)
            rows = [row for row in manifest.iterate_rows() if row["index"] in indices]
            for row, example in zip(rows, self.make_from_rows(manifest, rows), strict=True):
                made[RowPlace(uri, row["index"])] = example
        return tuple(made[place] for place in places)

    def make_from_rows(self, manifest: Manifest, rows: Sequence[dict[str, Any]]) -> list[Example]:
        """Make the examples of rows of one manifest, with all their columns."""
        photos = read_photos(manifest, rows, self.inputs)
        find_truth = None if self.find_truth is None else bind_truth(self.find_truth, manifest.uri)
        return [
            self._make_labelled(row, photos.get(row["index"]), find_truth)
            if row["status"] == Status.LABELLED
            else self._make_rejected(row, photos.get(row["index"]))
            for row in rows
        ]

    def _make_labelled(
        self, row: Mapping[str, Any], photo: DecodedImage | None, find_truth: FindTruth | None
    ) -> Example:
        stored = decode_mask(row["mask"]["bytes"])
        palette = build_palette(self.vocabulary.colours, self.vocabulary.classes)
        size = fit_size(turn_upright(stored, row["exif_orientation"]).shape, MAX_SIDE_PX)
        grey = np.full((*size, 3), 128, np.uint8)
        rgb = grey if photo is None else draw_photo(photo.image_rgb, size)
        notes = [NO_PHOTO] if photo is None else []
        pictures = [] if photo is None else [embed_picture("photo", rgb)]
        truth = None
        try:
            truth = self._read_truth(row, stored, find_truth)
        except TruthError as error:
            notes.append(str(error))
        for caption, values in (("mask", stored), ("truth", truth)):
            if values is not None:
                upright = turn_upright(values, row["exif_orientation"])
                pictures.append(embed_picture(caption, draw_mask(rgb, upright, palette)))
        class_ids = range(1, len(self.vocabulary.classes) + 1)
        ious = None if truth is None else compute_class_ious(truth, stored, class_ids)
        return Example(
            key=row["key"],
            classes=self._list_classes(row),
            unknown_tags=tuple(row["tags_unknown"] or ()),
            facts=self._list_facts(row, ious),
            statistics=self._make_statistics(row, ious),
            note="; ".join(notes),
            pictures=tuple(pictures),
            maps=tuple(self._draw_maps(row, rgb)),
        )

    def _make_rejected(self, row: Mapping[str, Any], photo: DecodedImage | None) -> Example:
        pictures: tuple[Picture, ...] = ()
        if photo is not None:
            size = fit_size(photo.image_rgb.shape, MAX_SIDE_PX)
            pictures = (embed_picture("photo", draw_photo(photo.image_rgb, size)),)
        return Example(
            key=row["key"],
            unknown_tags=tuple(row["tags_unknown"] or ()),
            facts=(Fact(name="rejected", value=row["reason"]),),
            note=row["error"] or "",
            pictures=pictures,
        )

    def _read_truth(
        self, row: Mapping[str, Any], stored: UInt8[np.ndarray, "h w"], find_truth: FindTruth | None
    ) -> UInt8[np.ndarray, "h w"] | None:
        payload = None if find_truth is None else find_truth(row["key"])
        if payload is None:
            return None
        num_classes = len(self.vocabulary.classes)
        return decode_truth(payload, row["key"], stored.shape, num_classes, row["exif_orientation"], self.frame)

    def _draw_maps(self, row: Mapping[str, Any], rgb: UInt8[np.ndarray, "h w 3"]) -> list[Picture]:
        if row["class_maps"] is None or not row["class_ids"]:
            return []
        small = draw_photo(rgb, fit_size(rgb.shape, MAP_SIDE_PX))
        drawn = draw_class_maps(small, decode_class_maps(row["class_maps"]))
        names = [self.vocabulary.classes[class_id - 1] for class_id in row["class_ids"]]
        return [embed_picture(f"map: {name}", picture) for name, picture in zip(names, drawn, strict=True)]

    def _list_classes(self, row: Mapping[str, Any]) -> tuple[ClassNote, ...]:
        """Classes of an image, each once: the suggested ones may be drawn, too."""
        suggested, doubtful = row["suggested_class_ids"] or (), row["doubtful_class_ids"] or ()
        kinds = dict.fromkeys(row["class_ids"], "")
        kinds |= dict.fromkeys(doubtful, "doubtful") | dict.fromkeys(suggested, "suggested")
        colours = list_colours(self.vocabulary)
        return tuple(
            ClassNote(name=self.vocabulary.classes[class_id - 1], colour=colours[class_id - 1], kind=kind)
            for class_id, kind in kinds.items()
        )

    def _list_facts(self, row: Mapping[str, Any], ious: Mapping[int, float] | None) -> tuple[Fact, ...]:
        facts = [Fact(name=name, value=_show(row[column])) for column, name in IMAGE_FACTS.items()]
        if ious is not None:
            iou = Fact(name="IoU with the truth", value=_show(average_ious(ious)))
            facts.insert(0 if self.iou_first else 1, iou)
        return tuple(facts)

    def _make_statistics(self, row: Mapping[str, Any], ious: Mapping[int, float] | None) -> Table | None:
        """Table with a row for each class of the mask, and for those of the truth alone."""
        entries = {entry["class_id"]: entry for entry in row["classes"] or ()}
        class_ids = [*entries, *(class_id for class_id in ious or () if class_id not in entries)]
        if not class_ids:
            return None
        return Table(
            title="",
            header=("class", *([] if ious is None else ["IoU"]), *CLASS_COLUMNS.values()),
            rows=tuple(
                (
                    self.vocabulary.classes[class_id - 1],
                    *([] if ious is None else [_show(ious.get(class_id))]),
                    *(_show(entries.get(class_id, {}).get(column)) for column in CLASS_COLUMNS),
                )
                for class_id in class_ids
            ),
        )


def _show(value: float | int | None) -> str:
    """Show a figure: a whole number as it is, others with two decimals, none as a dash."""
    if value is None:
        return "-"
    # Rounded first: minus zero is zero.
    return str(value) if isinstance(value, int) else f"{round(value, 2) + 0.0:.2f}"
