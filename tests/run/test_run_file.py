"""The identity of a run: the same command resumes it, another one is refused with the differences."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ManifestError, RunConflictError
from pipeline.run.config import (
    InputConfig,
    LabelConfig,
    MapConfig,
    MapKind,
    PixelRefinement,
    Resolution,
    ViewConfig,
    parse_config,
)
from pipeline.run.records import InputShard
from pipeline.run.run_file import Run, read_run
from pipeline.run.vocabulary import Vocabulary
from tests.factories import start_run

SHARDS = tuple(InputShard(uri=f"in/{name}.tar", name=name, size_bytes=1000, etag="e") for name in "abc")


def start(out_uri: Any, **changes: Any) -> Run:
    return start_run(out_uri, **{"shards": SHARDS} | changes)


def test_same_command_resumes_the_same_run(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert start(tmp_path) == first
    assert read_run(str(tmp_path))["fingerprint"] == first.fingerprint


def test_check_of_a_missing_run_does_not_start_it(tmp_path: Path) -> None:
    seen = start(tmp_path / "out", writes=False)
    assert not (tmp_path / "out").exists()
    assert start(tmp_path / "out") == seen
    with pytest.raises(RunConflictError, match="model_digest"):
        start(tmp_path / "out", writes=False, model_digest="0" * 64)


def test_configuration_is_read_back_from_its_record(tmp_path: Path) -> None:
    config = LabelConfig(
        inputs=InputConfig(max_chunk_samples=7),
        views=ViewConfig(resolution=Resolution.NATIVE, scales=(1.0, 0.5)),
        maps=MapConfig(kind=MapKind.ATTENTION, class_scales=(1.0, 0.25), keep_maps=True),
    )
    start(tmp_path, config=config)
    assert parse_config(read_run(str(tmp_path))["config"]) == config


@pytest.mark.parametrize("scales", [(0.0, 1.0), (1.0, 1.5)])
def test_class_scales_out_of_range_are_refused(scales: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="need class_scales above 0 and at most 1"):
        MapConfig(class_scales=scales)


def test_model_moved_to_another_place_is_still_the_same_run(tmp_path: Path) -> None:
    assert start(tmp_path).fingerprint == start(tmp_path, model_uri="s3://elsewhere/model").fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_digest": "0" * 64}, "model_digest was 'dddd"),
        ({"vocabulary": Vocabulary(classes=("dog", "cat"))}, "vocabulary.classes was"),
        (
            {"config": LabelConfig(maps=MapConfig(foreground_threshold=0.6))},
            "config.maps.foreground_threshold was 0.4, is 0.6",
        ),
        (
            {"config": LabelConfig(maps=MapConfig(pixel_refinement=PixelRefinement.PAR))},
            "config.maps.pixel_refinement was 'none', is 'par'",
        ),
        ({"config": LabelConfig(views=ViewConfig(flip=False))}, "config.views.flip was True, is False"),
        ({"shards": SHARDS[:2]}, "shard 'in/c.tar' is no longer among the inputs"),
        (
            {"shards": (*SHARDS, InputShard(uri="in/d.tar", name="d", size_bytes=1, etag=""))},
            "has 3 shards and lacks 1 that this command lists, such as 'in/d.tar'; add --extend to take them into",
        ),
        ({"shards": (replace(SHARDS[0], size_bytes=999), *SHARDS[1:])}, "shard 'in/a.tar' changed"),
        ({"shards": (replace(SHARDS[0], etag="f"), *SHARDS[1:])}, "etag e; is 1000 bytes, etag f"),
    ],
)
def test_another_run_under_the_same_output_is_refused_with_what_differs(
    tmp_path: Path, changes: Any, message: str
) -> None:
    start(tmp_path)
    with pytest.raises(RunConflictError, match=message):
        start(tmp_path, **changes)


def test_shards_in_another_order_are_the_same_run_in_the_order_of_its_record(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert start(tmp_path, shards=SHARDS[::-1]) == first


def test_run_whose_record_was_edited_is_refused(tmp_path: Path) -> None:
    fields = json.loads(Path(start(tmp_path).out_uri, "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(fields | {"fingerprint": "0" * 64}))
    with pytest.raises(RunConflictError, match="the fingerprint of run.json is not that of its content"):
        start(tmp_path)


def test_many_changed_shards_are_counted_and_not_all_named(tmp_path: Path) -> None:
    many = tuple(InputShard(uri=f"in/{i}.tar", name=str(i), size_bytes=1, etag="") for i in range(100))
    start(tmp_path, shards=many)
    with pytest.raises(RunConflictError, match="and 95 more shards"):
        start(tmp_path, shards=tuple(replace(shard, size_bytes=2) for shard in many))


def test_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no labelling run"):
        read_run(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint": "x"}'])
def test_damaged_run_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ManifestError, match="is not the record of a run"):
        read_run(str(tmp_path))
