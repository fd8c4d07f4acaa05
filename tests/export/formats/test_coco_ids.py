"""Ids of COCO: the same in every export of a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ManifestError
from pipeline.export.formats.catalogue import Formats
from pipeline.export.formats.coco import CocoFormat, make_annotation_id
from tests.export.runs import SPLITS, export_all, make_sample


def read_annotations(out: Path) -> dict[int, dict[str, object]]:
    """Read the annotations of all splits by their ids, which are unique and fit a double."""
    found = [
        one
        for path in (out / "annotations").iterdir()
        for one in json.loads(path.read_text(), parse_int=float)["annotations"]
    ]
    assert len({one["id"] for one in found}) == len(found)
    assert min(one["id"] for one in found) > 0
    return {int(one["id"]): one for one in found}


@pytest.mark.parametrize("objects", ["classes", "components"])
def test_annotation_of_coco_has_the_same_id_whatever_is_exported(
    hostile_run: str, tmp_path: Path, objects: str
) -> None:
    formats = Formats(coco=CocoFormat(objects=objects))  # type: ignore[arg-type]
    export_all(hostile_run, f"{tmp_path}/all", "coco", formats=formats)
    export_all(hostile_run, f"{tmp_path}/some", "coco", formats=formats, splits=SPLITS, min_quality=0.4)
    whole, some = read_annotations(tmp_path / "all"), read_annotations(tmp_path / "some")
    assert 0 < len(some) < len(whole)
    assert {number: whole[number] for number in some} == some


@pytest.mark.parametrize(
    ("shard_number", "index", "place", "message"),
    [
        (0, 0, 2**14, "more than 16384 annotations; leave out"),
        (0, 2**22, 0, "row 4194304 of shard 's'.*at most 131072 shards of 4194304 rows"),
        (2**17, 0, 0, "number 131072 of the run"),
    ],
)
def test_ids_of_coco_end_below_what_a_double_holds(shard_number: int, index: int, place: int, message: str) -> None:
    sample = replace(make_sample(np.zeros((1, 1), np.uint8)), index=index)
    with pytest.raises(ManifestError, match=message):
        make_annotation_id(shard_number, sample, place)
    last = replace(sample, index=2**22 - 1)
    assert 2**53 - 2 <= make_annotation_id(2**17 - 1, last, 2**14 - 2) < 2**53
