"""Masks of every format version, measured again: as labelling makes them now, and as an earlier version made them."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audit.masks import check_mask
from pipeline.audit.rows import RowRules, check_row, read_rules
from pipeline.images.drawing.columns import make_mask_columns
from pipeline.images.drawing.grid_maps import GridMaps
from pipeline.images.masks import decode_mask, encode_mask, voc_palette
from pipeline.images.orientation import turn_size
from pipeline.run.config import FORMAT_VERSION, LabelConfig, MapConfig, describe_config

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = LabelConfig(maps=MapConfig(background_threshold=0.4, foreground_threshold=0.6))
SIZES = [(129, 100), (300, 420), (700, 33), (40, 500), (3, 2000), (1100, 1501), (1760, 2400)]
"""Height and width of upright images: beside, above and far above 128 pixels; the last is above 4 megapixels."""


def make_rules(format_version: int) -> RowRules:
    config: Any = describe_config(CONFIG)
    return read_rules(
        {"config": config, "vocabulary": {"classes": ["cat", "dog"]}, "format_version": format_version},
    )


def make_row(upright_size: tuple[int, int], exif_orientation: int) -> dict[str, Any]:
    """Draw two classes in many pieces, some of them thinner than the distance of sampled pixels."""
    rng = np.random.default_rng(sum(upright_size))
    maps = GridMaps([rng.random((2, 23, 60))], upright_size)
    height, width = turn_size(upright_size, exif_orientation)
    row = {"key": "photo", "height": height, "width": width, "exif_orientation": exif_orientation, "class_ids": [1, 2]}
    classes = [{"class_id": class_id, "presence": 0.9} for class_id in (1, 2)]
    return row | make_mask_columns(row, maps, classes, CONFIG.maps, voc_palette())


def read_old_rows() -> list[Any]:
    """Rows that format version 3 wrote."""
    rows = json.loads((GOLDEN / "format_3.rows.json").read_text())
    for row in rows:
        row["mask"]["bytes"] = base64.b64decode(row["mask"]["bytes"])
    return rows


@pytest.mark.parametrize("exif_orientation", range(1, 9))
@pytest.mark.parametrize("upright_size", SIZES)
def test_mask_of_a_large_image_has_no_fault_and_one_if_its_components_are_wrong(
    upright_size: tuple[int, int], exif_orientation: int
) -> None:
    rules = make_rules(FORMAT_VERSION).mask
    row = make_row(upright_size, exif_orientation)
    assert max(one["components"] for one in row["classes"]) > 9
    assert list(check_mask(row, rules)) == []
    row["classes"][1]["components"] += 1
    (fault,) = check_mask(row, rules)
    assert f"states {row['classes'][1]['components']} components of class 2" in fault


@pytest.mark.parametrize("exif_orientation", range(1, 9))
def test_mask_that_carries_another_orientation_than_its_image_is_named(exif_orientation: int) -> None:
    row, rules = make_row((30, 40), exif_orientation), make_rules(FORMAT_VERSION).mask
    mask = decode_mask(row["mask"]["bytes"])
    assert list(check_mask(row, rules)) == []
    for other in {*range(1, 9)} - {exif_orientation}:
        row["mask"] = row["mask"] | {"bytes": encode_mask(mask, voc_palette(), other)}
        (fault,) = check_mask(row, rules)
        assert f"orientation {exif_orientation}" in fault


def test_mask_of_version_4_carries_no_orientation() -> None:
    row, rules = make_row((30, 40), 6), make_rules(4).mask
    assert list(check_mask(row, rules)) != []
    row["mask"] = row["mask"] | {"bytes": encode_mask(decode_mask(row["mask"]["bytes"]), voc_palette())}
    assert list(check_mask(row, rules)) == []


@pytest.mark.parametrize("place", [0, 1])
def test_mask_of_version_3_is_measured_as_version_3_did_and_no_other(place: int) -> None:
    """The second image is above 4 megapixels: its mask was measured before it was enlarged."""
    row, old, new = read_old_rows()[place], make_rules(3), make_rules(4)
    assert [*check_row(row, old), *check_mask(row, old.mask)] == []
    faults = list(check_mask(row, new.mask))
    assert any("components of class 1" in fault for fault in faults)
    assert any("area_fraction" in fault for fault in faults) == (place == 1)


def test_run_that_states_no_version_is_of_the_oldest() -> None:
    record: Any = {"config": describe_config(CONFIG), "vocabulary": {"classes": ["cat", "dog"]}}
    assert read_rules(record) == make_rules(1)
    assert make_rules(1) != make_rules(FORMAT_VERSION)
